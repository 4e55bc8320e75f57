#pragma once

namespace waybill {

/// A value that a peer published, and may change at any moment: read once, so that what was checked
/// is what is used.
template <typename T>
T read_once(const T& published) noexcept {
  const volatile T& now = published;
  return now;
}

}  // namespace waybill
