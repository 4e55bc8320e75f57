#pragma once

#include <atomic>
#include <cstdint>

#include "window/words.h"

namespace waybill::window {

/// Where what a rank of another host published in one of its halves lies in the pool of the rank
/// that received it for this host. That rank writes, every rank of the host reads.
struct MirrorSlot {
  Word arrived;  ///< stamp of the call whose bytes are all there; 0 while bytes are written
  std::atomic<std::int64_t> offset{0};  ///< in the pool
  /// From there on; negative where there was no memory for them.
  std::atomic<std::int64_t> bytes{0};
};

/// Of a rank's table of slots: the place of a rank's half.
constexpr std::int64_t slot_index(int rank, std::size_t half) noexcept {
  return 2 * std::int64_t{rank} + static_cast<std::int64_t>(half);
}

}  // namespace waybill::window
