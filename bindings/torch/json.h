#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace waybill::binding {

/// Text as a JSON string, quotes included. Bytes that are not UTF-8 pass as they are.
std::string json_quote(std::string_view text);

/// Builds one JSON object.
class Json {
 public:
  void add(std::string_view key, std::string_view value) { add_raw(key, json_quote(value)); }
  void add(std::string_view key, const char* value) { add(key, std::string_view(value)); }
  void add(std::string_view key, std::int64_t value) { add_raw(key, std::to_string(value)); }

  template <typename Integer>
  void add(std::string_view key, const std::vector<Integer>& values) {
    std::string list = "[";
    for (const Integer value : values) {
      list += (list.size() > 1 ? "," : "") + std::to_string(value);
    }
    add_raw(key, list + "]");
  }

  /// `value` is JSON already.
  void add_raw(std::string_view key, std::string_view value);
  std::string text() const { return "{" + body_ + "}"; }

 private:
  std::string body_;
};

}  // namespace waybill::binding
