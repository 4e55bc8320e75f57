#include "settings.h"

#include "base/errors.h"

namespace waybill::binding {

Settings::Settings(const char* const* texts) {
  for (; *texts != nullptr; ++texts) {
    const std::string_view text = *texts;
    const std::size_t end = text.find('=');
    const bool has_value = end != std::string_view::npos;
    settings_.push_back({text.substr(0, end), has_value ? text.substr(end + 1) : ""});
  }
}

std::vector<std::string> Settings::all(std::string_view key) {
  std::vector<std::string> values;
  for (Setting& setting : settings_) {
    if (setting.key == key) {
      setting.is_read = true;
      values.emplace_back(setting.value);
    }
  }
  return values;
}

std::string Settings::text(std::string_view key) {
  std::vector<std::string> values = all(key);
  return values.empty() ? std::string() : std::move(values.front());
}

Status Settings::unread(const char* op) const {
  for (const Setting& setting : settings_) {
    if (!setting.is_read) {
      return error(StatusCode::kInternal,
                   op,
                   setting.key,
                   std::string(op) + ": expected no setting '" + std::string(setting.key) +
                       "', which this library does not know");
    }
  }
  return {};
}

}  // namespace waybill::binding
