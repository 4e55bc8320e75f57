#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "ceilings.h"
#include "memory.h"
#include "numerics/kernel_sets.h"
#include "waybill/dtype.h"

namespace waybill::bench {

inline constexpr std::int64_t kHidden = 7168;  ///< H
inline constexpr std::int64_t kTopK = 8;       ///< K
inline constexpr DType kRowDTypes[] = {DType::kBFloat16, DType::kFloat16, DType::kFloat32};

constexpr std::size_t row_bytes_of(DType dtype) {
  return static_cast<std::size_t>(kHidden * size_of(dtype));
}

/// One run of a stage.
using RowStage = std::function<void(const std::byte* const* rows, std::byte* out)>;

/// Registers "stage/place/set" and, once for each place and traffic, "ceiling/place".
void register_stage(const std::string& stage,
                    const std::string& set,
                    Place place,
                    Ceiling ceiling,
                    const Traffic& traffic,
                    const RowStage& run);

/// The same in every place with every set that this machine runs; stage_of(kernels) makes the run.
template <class StageOf>
void register_everywhere(const std::string& stage,
                         Ceiling ceiling,
                         const Traffic& traffic,
                         StageOf stage_of) {
  for (const Place place : kPlaces) {
    for (const numerics::KernelSet& set : numerics::kernel_sets()) {
      if (set.supported) {
        register_stage(stage, set.name, place, ceiling, traffic, stage_of(set.kernels));
      }
    }
  }
}

void register_row_stages();      ///< quantise, convert, the quantised way back
void register_sum_stages();      ///< weighted sum, add + RMS norm
void register_copy_stages();     ///< pull
void register_routing_stages();  ///< counts, sort, receive plan
void register_check_stages();    ///< headers and arguments
void register_signal_stages();   ///< words between two threads

}  // namespace waybill::bench
