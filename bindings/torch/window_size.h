#pragma once

#include <cstdint>

namespace waybill::binding {

/// Sizes of a call, letters as in waybill/dispatch.h. Plain numbers: crosses the C interface.
struct CallSizes {
  std::int64_t bs;
  std::int64_t hidden;
  std::int64_t topk;
  std::int64_t moe_expert_num;
  std::int64_t ep_world_size;
  std::int64_t row_element_bytes;
  std::int64_t shared_expert_num;
  std::int64_t shared_expert_rank_num;
  std::int64_t quant_mode;
  std::int64_t comm_quant_mode;
  std::int64_t smooth;         ///< not 0: scales given
  std::int64_t expert_scales;  ///< not 0: given to dispatch
};

/// Bytes of both halves after any of the calls with these sizes, on the rank that needs most.
std::int64_t window_bytes(const CallSizes& sizes);

}  // namespace waybill::binding
