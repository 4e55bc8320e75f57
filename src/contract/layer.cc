#include "contract/layer.h"

#include <algorithm>
#include <array>
#include <limits>
#include <string>

namespace waybill::contract {
namespace {

constexpr std::int64_t kMaxInt32 = std::numeric_limits<std::int32_t>::max();

Status check_ranks(const Checker& check, const LayerInputs& args) {
  const GroupFacts& group = check.group();
  if (args.layer.ep_world_size != group.world_size) {
    return check.fail("ep_world_size",
                      "the size of the group, " + std::to_string(group.world_size),
                      args.layer.ep_world_size);
  }
  if (args.layer.ep_rank_id != group.rank) {
    return check.fail("ep_rank_id",
                      "this rank's position in the group, " + std::to_string(group.rank),
                      args.layer.ep_rank_id);
  }
  if (args.layer.expert_shard_type != 0) {
    return check.fail("expert_shard_type", "0", args.layer.expert_shard_type);
  }
  return {};
}

Status check_shared(const Checker& check, const LayerInputs& args) {
  const std::int64_t s = args.layer.shared_expert_num;
  const std::int64_t sr = args.layer.shared_expert_rank_num;
  if (s < 0) {
    return check.fail("shared_expert_num", "S >= 0", s);
  }
  if (sr < 0 || sr >= args.layer.ep_world_size) {
    return check.fail(
        "shared_expert_rank_num", "0 <= SR < E = " + std::to_string(args.layer.ep_world_size), sr);
  }
  if (sr > 0 && s == 0) {
    return check.fail("shared_expert_num", "S > 0 since shared_expert_rank_num is not 0", s);
  }
  if (s > 1 && sr == 0) {
    return check.fail(
        "shared_expert_rank_num", "SR > 0 since shared_expert_num is " + std::to_string(s), sr);
  }
  if (sr > 0 && sr % s != 0) {
    return check.fail(
        "shared_expert_rank_num", "a multiple of shared_expert_num = " + std::to_string(s), sr);
  }
  return {};
}

Status check_experts(const Checker& check, const LayerInputs& args) {
  if (args.layer.moe_expert_num < 0 || args.layer.moe_expert_num >= kMaxInt32) {
    return check.fail("moe_expert_num", "0 <= M < 2^31 - 1", args.layer.moe_expert_num);
  }
  const std::int64_t moe_ranks = args.layer.ep_world_size - args.layer.shared_expert_rank_num;
  if (args.layer.moe_expert_num % moe_ranks != 0) {
    return check.fail("moe_expert_num",
                      "a multiple of the MoE ranks, E - SR = " + std::to_string(moe_ranks),
                      args.layer.moe_expert_num);
  }
  const std::array<std::pair<const char*, std::int64_t>, 3> special = {
      {{"zero_expert_num", args.zero_expert_num},
       {"copy_expert_num", args.copy_expert_num},
       {"const_expert_num", args.const_expert_num}}};
  for (const auto& [name, count] : special) {
    if (count < 0) {
      return check.fail(name, "a number >= 0", count);
    }
    if (count >= kMaxInt32) {
      return check.fail(name, "a number below 2^31 - 1", count);
    }
  }
  const std::int64_t all = args.layer.moe_expert_num + args.zero_expert_num + args.copy_expert_num +
                           args.const_expert_num;
  if (all >= kMaxInt32) {
    return check.fail("moe_expert_num", "M + Z + C + N < 2^31 - 1", all);
  }
  return {};
}

Status check_tp(const Checker& check, const LayerInputs& args) {
  if (args.tp_world_size < 0 || args.tp_world_size > 2) {
    return check.fail("tp_world_size", "0, 1 or 2", args.tp_world_size);
  }
  if (args.tp_world_size < 2) {
    return {};
  }
  const GroupFacts& group = check.group();
  if (group.tp_world_size != 2) {
    return check.fail("group_tp",
                      "a group of 2 ranks other than group_ep, since tp_world_size is 2",
                      group.tp_world_size == 0 ? std::string("none")
                                               : "one of " + std::to_string(group.tp_world_size));
  }
  if (args.tp_rank_id != group.tp_rank) {
    return check.fail("tp_rank_id",
                      "this rank's position in group_tp, " + std::to_string(group.tp_rank),
                      args.tp_rank_id);
  }
  if (args.layer.moe_expert_num != args.layer.ep_world_size - args.layer.shared_expert_rank_num) {
    return check.fail("tp_world_size",
                      "0 or 1, since a MoE rank has more or less than one expert",
                      args.tp_world_size);
  }
  if (args.elastic_info) {
    return check.fail(
        "elastic_info", "None since tp_world_size is 2", describe(*args.elastic_info));
  }
  return {};
}

Status check_options(const Checker& check, const LayerInputs& args) {
  bool known = args.layer.comm_alg.empty();
  for (std::string_view name : {"fullmesh", "fullmesh_v1", "fullmesh_v2", "hierarchy"}) {
    known = known || args.layer.comm_alg == name;
  }
  if (!known) {
    return check.fail("comm_alg",
                      "\"\", fullmesh, fullmesh_v1, fullmesh_v2 or hierarchy",
                      "\"" + std::string(args.layer.comm_alg) + "\"");
  }
  if (args.performance_info) {
    return check.expect("performance_info",
                        *args.performance_info,
                        {args.layer.ep_world_size},
                        "(E,)",
                        DType::kInt64);
  }
  return {};
}

}  // namespace

std::int64_t Layer::local_experts_of_shapes() const noexcept {
  return elastic.given ? std::max<std::int64_t>(given.experts_per_rank(), 1)
                       : given.local_experts(given.rank);
}

std::int64_t Layer::capacity_of(int r, std::int64_t k) const noexcept {
  if (!elastic.given) {
    return capacity(given, r, gbs, k);
  }
  // The roles may have changed since outputs got their shapes: the larger of both.
  return std::max(capacity(given, 0, gbs, k), capacity(given, given.num_ranks - 1, gbs, k));
}

Result<Layer> check_layer(const Checker& check, const LayerInputs& args) {
  WAYBILL_RETURN_IF_ERROR(check_ranks(check, args));
  WAYBILL_RETURN_IF_ERROR(check_shared(check, args));
  WAYBILL_RETURN_IF_ERROR(check_experts(check, args));
  WAYBILL_RETURN_IF_ERROR(check_tp(check, args));
  WAYBILL_RETURN_IF_ERROR(check_options(check, args));
  auto elastic = read_elastic(check, args.elastic_info);
  if (!elastic.ok()) {
    return elastic.status();
  }
  const bool has_shared = args.layer.shared_expert_rank_num > 0;
  Layer layer;
  layer.given = {args.layer.ep_world_size,
                 args.layer.ep_rank_id,
                 args.layer.moe_expert_num,
                 static_cast<int>(args.layer.shared_expert_rank_num),
                 has_shared ? static_cast<int>(args.layer.shared_expert_num) : 0,
                 args.layer.moe_expert_num,
                 args.layer.moe_expert_num + args.zero_expert_num + args.copy_expert_num +
                     args.const_expert_num};
  auto now = apply_elastic(check, *elastic, layer.given);
  if (!now.ok()) {
    return now.status();
  }
  layer.topology = *now;
  layer.elastic = *elastic;
  layer.num_zero = args.zero_expert_num;
  layer.num_copy = args.copy_expert_num;
  layer.num_constant = args.const_expert_num;
  layer.tp_world_size = args.tp_world_size;
  layer.tp_rank = args.tp_rank_id;
  return layer;
}

Status check_global_bs(
    const Checker& check, Layer& layer, std::int64_t global_bs, std::int64_t bs, std::int64_t k) {
  if (bs < 0 || k > kMaxInt32 || bs > kMaxInt32 / k) {
    return check.fail("expert_ids", "BS*K < 2^31 and K < 2^31", describe(Dims{bs, k}));
  }
  const std::int64_t e = layer.given.num_ranks;
  const std::int64_t gbs = global_bs == 0 ? bs * e : global_bs;
  if (global_bs < 0 || gbs % e != 0 || gbs < bs * e) {
    return check.fail("global_bs",
                      "0 or a multiple of E = " + std::to_string(e) +
                          " that is at least BS*E = " + std::to_string(bs * e),
                      global_bs);
  }
  if (gbs / e > kMaxInt32 / k) {
    return check.fail("global_bs", "a size whose maxBS*K is below 2^31", gbs);
  }
  layer.gbs = gbs;
  // Prefix sums are int32, and the triples and packed indices of a call are, too.
  for (int r : {0, layer.given.num_ranks - 1}) {
    if (gbs > kMaxInt32 || layer.capacity_of(r, k) > kMaxInt32 / 128) {
      return check.fail(
          "global_bs", "a size whose capacity A*128 (rows a rank can receive) is below 2^31", gbs);
    }
  }
  return {};
}

Agreement agreement_of(const Layer& layer, Operator op) {
  Agreement values;
  values[Agreed::kOperator] = static_cast<std::int64_t>(op);
  values[Agreed::kEpWorldSize] = layer.given.num_ranks;
  values[Agreed::kMoeExpertNum] = layer.given.num_experts;
  values[Agreed::kSharedExpertNum] = layer.given.num_shared;
  values[Agreed::kSharedExpertRankNum] = layer.given.num_shared_ranks;
  values[Agreed::kTpWorldSize] = layer.tp_parts();
  values[Agreed::kZeroExpertNum] = layer.num_zero;
  values[Agreed::kCopyExpertNum] = layer.num_copy;
  values[Agreed::kConstExpertNum] = layer.num_constant;
  values[Agreed::kGlobalBs] = layer.gbs;
  set_elastic(values, layer.elastic);
  return values;
}

}  // namespace waybill::contract
