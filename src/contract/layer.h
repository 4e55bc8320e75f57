#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "contract/check.h"
#include "contract/topology.h"
#include "waybill/status.h"
#include "waybill/tensor_view.h"

namespace waybill::contract {

/// The arguments that every operator of the family has in common, as the caller gave them.
struct LayerArgs {
  int ep_world_size;
  int ep_rank_id;
  std::int64_t moe_expert_num;
  int tp_world_size;
  int expert_shard_type;
  std::int64_t shared_expert_num;
  std::int64_t shared_expert_rank_num;
  std::int64_t global_bs;
  std::string_view comm_alg;
  std::int64_t zero_expert_num;
  std::int64_t copy_expert_num;
  std::int64_t const_expert_num;
  bool has_elastic_info;
  bool has_performance_info;
};

/// Gathers them from DispatchArgs or CombineArgs, which name them alike.
template <typename Args>
LayerArgs layer_args(const Args& args) {
  return {args.ep_world_size,
          args.ep_rank_id,
          args.moe_expert_num,
          args.tp_world_size,
          args.expert_shard_type,
          args.shared_expert_num,
          args.shared_expert_rank_num,
          args.global_bs,
          args.comm_alg,
          args.zero_expert_num,
          args.copy_expert_num,
          args.const_expert_num,
          args.elastic_info.has_value(),
          args.performance_info.has_value()};
}

/// Checks everything but global_bs, which needs BS.
Result<Topology> check_layer(const Checker& check, const LayerArgs& args);

/// GBS: global_bs, or BS*E when it is 0. Checks that it holds BS and that A stays below 2^31.
Result<std::int64_t> check_global_bs(const Checker& check,
                                     const Topology& topology,
                                     std::int64_t global_bs,
                                     std::int64_t bs,
                                     std::int64_t k);

}  // namespace waybill::contract
