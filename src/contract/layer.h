#pragma once

#include <cstdint>
#include <optional>

#include "contract/agreement.h"
#include "contract/check.h"
#include "contract/elastic.h"
#include "contract/strict.h"
#include "contract/topology.h"
#include "waybill/layer.h"
#include "waybill/status.h"
#include "waybill/tensor_view.h"

namespace waybill::contract {

/// The common arguments, and what dispatch and combine have beside them. Borrows from those.
struct LayerInputs {
  const LayerArgs& layer;
  int tp_world_size;
  int tp_rank_id;
  std::int64_t zero_expert_num;
  std::int64_t copy_expert_num;
  std::int64_t const_expert_num;
  const std::optional<TensorView>& elastic_info;
  const std::optional<TensorView>& performance_info;
};

/// Those of DispatchArgs or CombineArgs, which name them alike.
template <typename Args>
LayerInputs layer_inputs(const Args& args) {
  return {.layer = args.layer,
          .tp_world_size = args.tp_world_size,
          .tp_rank_id = args.tp_rank_id,
          .zero_expert_num = args.zero_expert_num,
          .copy_expert_num = args.copy_expert_num,
          .const_expert_num = args.const_expert_num,
          .elastic_info = args.elastic_info,
          .performance_info = args.performance_info};
}

/// What the common arguments come to.
struct Layer {
  Topology topology;  ///< in force
  Topology given;     ///< of the arguments, before elastic_info: shapes and capacities follow it
  Elastic elastic;
  std::int64_t num_zero = 0;      ///< Z
  std::int64_t num_copy = 0;      ///< C
  std::int64_t num_constant = 0;  ///< N
  int tp_world_size = 0;          ///< as passed
  int tp_rank = 0;
  std::int64_t gbs = 0;  ///< GBS

  bool has_tp() const noexcept { return tp_world_size == 2; }
  /// Ranks whose rows an output holds: max(TP, 1).
  std::int64_t tp_parts() const noexcept { return has_tp() ? 2 : 1; }
  std::int64_t max_bs() const noexcept { return gbs / given.num_ranks; }
  /// localE in force.
  std::int64_t local_experts() const noexcept { return topology.local_experts(topology.rank); }
  /// localE of the shapes of ep_recv_counts and expert_token_nums.
  std::int64_t local_experts_of_shapes() const noexcept;
  /// A of rank r, for a token's k experts.
  std::int64_t capacity_of(int r, std::int64_t k) const noexcept;
};

/// Checks everything but global_bs, which needs BS.
Result<Layer> check_layer(const Checker& check, const LayerInputs& args);

/// Finds GBS: global_bs, or BS*E when it is 0. Checks that it holds BS and that A stays below 2^31.
Status check_global_bs(
    const Checker& check, Layer& layer, std::int64_t global_bs, std::int64_t bs, std::int64_t k);

/// What strict modes look at, of DispatchArgs or CombineArgs.
template <typename Args>
StrictFacts strict_facts(
    const Layer& layer, const Args& args, std::int64_t bs, std::int64_t h, std::int64_t k) {
  StrictFacts facts{.e = layer.given.num_ranks,
                    .bs = bs,
                    .max_bs = layer.max_bs(),
                    .h = h,
                    .k = k,
                    .m = layer.given.num_experts,
                    .l = layer.given.experts_per_rank(),
                    .s = layer.given.num_shared,
                    .sr = layer.given.num_shared_ranks,
                    .tp = layer.tp_world_size,
                    .num_zero = layer.num_zero,
                    .num_copy = layer.num_copy,
                    .num_constant = layer.num_constant,
                    .has_mask = args.x_active_mask.has_value(),
                    .has_elastic = layer.elastic.given,
                    .comm_alg = args.layer.comm_alg};
  if constexpr (requires { args.shared_expert_x; }) {
    facts.has_shared_expert_x = args.shared_expert_x.has_value();
  } else {
    facts.has_expert_scales = args.expert_scales.has_value();
  }
  return facts;
}

/// What the ranks of every operator of the family have to agree in.
Agreement agreement_of(const Layer& layer, Operator op);

}  // namespace waybill::contract
