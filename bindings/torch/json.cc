#include "json.h"

#include <array>
#include <cstdio>

namespace waybill::binding {

std::string json_quote(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      std::array<char, 8> escaped{};
      std::snprintf(escaped.data(), escaped.size(), "\\u%04x", static_cast<unsigned char>(c));
      quoted += escaped.data();
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

void Json::add_raw(std::string_view key, std::string_view value) {
  body_ += (body_.empty() ? "" : ",") + json_quote(key) + ":" + std::string(value);
}

}  // namespace waybill::binding
