#pragma once

#include <charconv>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "waybill/status.h"

namespace waybill::binding {

/// The named arguments of a function of the C interface: texts like "key=value" in any order, ended
/// by a null pointer. A key may come several times, or not at all. Owned by the function that reads
/// them; the texts are the caller's and outlive it.
class Settings {
 public:
  explicit Settings(const char* const* texts);

  /// The values of a key, in the order in which they came.
  std::vector<std::string> all(std::string_view key);
  std::string text(std::string_view key);
  /// A number as the caller's language prints it; 0 where the key did not come or is none.
  template <typename Number>
  Number number(std::string_view key) {
    const std::string digits = text(key);
    Number value{};
    std::from_chars(digits.data(), digits.data() + digits.size(), value);
    return value;
  }
  /// kInternal that names a setting that nothing has asked for: the two sides of the interface
  /// differ.
  Status unread(const char* op) const;

 private:
  struct Setting {
    std::string_view key;
    std::string_view value;
    bool is_read = false;
  };
  std::vector<Setting> settings_;
};

}  // namespace waybill::binding
