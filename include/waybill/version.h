#pragma once

namespace waybill {

inline constexpr int kVersionMajor = 0;
inline constexpr int kVersionMinor = 1;
inline constexpr int kVersionPatch = 0;

/// "major.minor.patch" of the library that is linked.
const char* version_string() noexcept;

}  // namespace waybill
