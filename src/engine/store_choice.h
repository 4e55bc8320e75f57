#pragma once

#include <cstdint>

#include "numerics/kernels.h"

namespace waybill::engine {

/// From how many bytes of rows that a core writes in one call streaming stores are the faster ones:
/// below, what was written is still in the core's cache when it is read; above, it is not, and
/// ordinary stores have read the old lines for nothing. It depends on caches in ways that no
/// reported size tells, so it is measured: less than 50 ms, once a process.
std::int64_t measure_streaming_bytes(const numerics::Kernels& kernels);

/// What stands in for it until somebody has measured.
inline constexpr std::int64_t kUsualStreamingBytes = std::int64_t{8} << 20;

/// Below this nothing has to be measured: the second-level cache holds the rows.
inline constexpr std::int64_t kLeastStreamingBytes = std::int64_t{1} << 20;

}  // namespace waybill::engine
