#pragma once

#include <cstdint>

namespace waybill::transport {

/// What a rank has for the mirrors (transport/mirrors.h) of one half, in granules of
/// window/region.h.
struct MirrorRoom {
  std::int64_t held = 0;  ///< they have this memory
  std::int64_t left = 0;  ///< there is so much more
  std::int64_t span = 0;  ///< address space
};

}  // namespace waybill::transport
