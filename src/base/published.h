#pragma once

#include <cstdint>

namespace waybill {

/// A value that a peer published, and may change at any moment: read once, so that what was checked
/// is what is used.
template <typename T>
T read_once(const T& published) noexcept {
  const volatile T& now = published;
  return now;
}

/// Brings lines that another core has written here while something else is done: a miss costs as
/// much as a hundred instructions, several at a time no more than one. Any address is allowed.
inline void fetch_ahead(const void* begin, std::int64_t bytes) noexcept {
  constexpr std::int64_t kLine = 64;
  for (std::int64_t i = 0; i < bytes; i += kLine) {
    __builtin_prefetch(static_cast<const char*>(begin) + i);
  }
}

}  // namespace waybill
