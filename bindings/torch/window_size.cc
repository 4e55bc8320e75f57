#include "window_size.h"

#include <algorithm>

#include "contract/topology.h"
#include "numerics/kernels.h"
#include "window/layout.h"
#include "window/region.h"

namespace waybill::binding {
namespace {

std::int64_t dispatch_bytes(const CallSizes& sizes, const contract::Topology& topology) {
  const bool quantised = sizes.quant_mode != 0;
  const std::int64_t entries = sizes.bs * sizes.topk;
  const std::int64_t own_rows = entries + topology.num_shared * sizes.bs;
  return window::DispatchLayout::of(
             {.num_ranks = sizes.ep_world_size,
              .num_experts = sizes.moe_expert_num,
              .num_entries = entries,
              .num_active = topology.num_shared > 0 ? sizes.bs : 0,
              .num_weights = sizes.expert_scales != 0 ? entries : 0,
              .num_rows = sizes.smooth != 0 ? own_rows : sizes.bs,
              .row_bytes = sizes.hidden * (quantised ? 1 : sizes.row_element_bytes),
              .quantised = quantised})
      .end;
}

std::int64_t combine_bytes(const CallSizes& sizes, std::int64_t rows, std::int64_t local_experts) {
  const bool quantised = sizes.comm_quant_mode != 0;
  return window::CombineLayout::of(
             {.num_ranks = sizes.ep_world_size,
              .num_entries = rows,
              .num_counts = sizes.ep_world_size * std::max<std::int64_t>(local_experts, 1),
              .copied_rows = rows,
              .row_bytes = sizes.hidden * (quantised ? 1 : sizes.row_element_bytes),
              .scales_bytes =
                  quantised ? numerics::num_comm_groups(sizes.hidden) * sizes.row_element_bytes
                            : 0})
      .end;
}

}  // namespace

CallSizes sizes_of(Settings& settings) {
  const auto size = [&](const char* name) { return settings.number<std::int64_t>(name); };
  return {.bs = size("bs"),
          .hidden = size("hidden"),
          .topk = size("topk"),
          .moe_expert_num = size("moe_expert_num"),
          .ep_world_size = size("ep_world_size"),
          .row_element_bytes = size("row_element_bytes"),
          .shared_expert_num = size("shared_expert_num"),
          .shared_expert_rank_num = size("shared_expert_rank_num"),
          .quant_mode = size("quant_mode"),
          .comm_quant_mode = size("comm_quant_mode"),
          .smooth = size("smooth"),
          .expert_scales = size("expert_scales")};
}

std::int64_t window_bytes(const CallSizes& sizes) {
  const bool shared = sizes.shared_expert_rank_num > 0;
  const contract::Topology topology{static_cast<int>(sizes.ep_world_size),
                                    0,
                                    sizes.moe_expert_num,
                                    static_cast<int>(sizes.shared_expert_rank_num),
                                    shared ? static_cast<int>(sizes.shared_expert_num) : 0};
  const std::int64_t gbs = sizes.bs * sizes.ep_world_size;
  const std::int64_t rows =
      std::max(contract::capacity(topology, 0, gbs, sizes.topk),
               contract::capacity(topology, topology.num_ranks - 1, gbs, sizes.topk));
  const std::int64_t bytes = std::max(dispatch_bytes(sizes, topology),
                                      combine_bytes(sizes, rows, topology.experts_per_rank()));
  return 2 * ((bytes + window::kGranule - 1) / window::kGranule * window::kGranule);
}

}  // namespace waybill::binding
