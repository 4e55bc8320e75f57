#pragma once

#include <cstdint>

#include "settings.h"

namespace waybill::binding {

/// Sizes of a call, letters as in waybill/dispatch.h. Crosses the C interface as settings.
struct CallSizes {
  std::int64_t bs = 0;
  std::int64_t hidden = 0;
  std::int64_t topk = 0;
  std::int64_t moe_expert_num = 0;
  std::int64_t ep_world_size = 0;
  std::int64_t row_element_bytes = 0;
  std::int64_t shared_expert_num = 0;
  std::int64_t shared_expert_rank_num = 0;
  std::int64_t quant_mode = 0;
  std::int64_t comm_quant_mode = 0;
  std::int64_t smooth = 0;         ///< not 0: scales given
  std::int64_t expert_scales = 0;  ///< not 0: given to dispatch
};

/// The sizes by their names.
CallSizes sizes_of(Settings& settings);

/// Bytes of both halves after any of the calls with these sizes, on the rank that needs most.
std::int64_t window_bytes(const CallSizes& sizes);

}  // namespace waybill::binding
