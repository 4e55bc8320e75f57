#pragma once

#include <cstddef>
#include <cstdint>

#include "window/layout.h"

namespace waybill::window {

/// Checked mode (WAYBILL_CHECK): what makes damage visible. See docs/debugging.md.

/// Fills memory that nobody may read any more.
inline constexpr std::byte kPoison{0xa5};
inline constexpr std::int64_t kCanaryBytes = 64;

void write_canary(std::byte* at) noexcept;
bool is_intact(const std::byte* canary) noexcept;

/// Of a row as it was published.
std::uint64_t checksum(const std::byte* row, std::int64_t bytes) noexcept;

/// What checked mode adds behind the layout of a half.
struct CheckedTail {
  Section checksums;  ///< (num_rows,) uint64
  Section canary;
  std::int64_t end = 0;

  static constexpr CheckedTail of(std::int64_t layout_end, std::int64_t num_rows) noexcept {
    Cursor cursor;
    CheckedTail tail;
    cursor.add(layout_end);
    tail.checksums = cursor.add(8 * num_rows);
    tail.canary = cursor.add(kCanaryBytes);
    tail.end = cursor.end();
    return tail;
  }
};

}  // namespace waybill::window
