#include "contract/layer.h"

#include <array>
#include <limits>
#include <string>

namespace waybill::contract {
namespace {

constexpr std::int64_t kMaxInt32 = std::numeric_limits<std::int32_t>::max();

Status check_ranks(const Checker& check, const LayerArgs& args) {
  const GroupFacts& group = check.group();
  if (args.ep_world_size != group.world_size) {
    return check.fail("ep_world_size",
                      "the size of the group, " + std::to_string(group.world_size),
                      args.ep_world_size);
  }
  if (args.ep_rank_id != group.rank) {
    return check.fail("ep_rank_id",
                      "this rank's position in the group, " + std::to_string(group.rank),
                      args.ep_rank_id);
  }
  if (args.expert_shard_type != 0) {
    return check.fail("expert_shard_type", "0", args.expert_shard_type);
  }
  return {};
}

Status check_shared(const Checker& check, const LayerArgs& args) {
  const std::int64_t s = args.shared_expert_num;
  const std::int64_t sr = args.shared_expert_rank_num;
  if (s < 0) {
    return check.fail("shared_expert_num", "S >= 0", s);
  }
  if (sr < 0 || sr >= args.ep_world_size) {
    return check.fail(
        "shared_expert_rank_num", "0 <= SR < E = " + std::to_string(args.ep_world_size), sr);
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

Status check_experts(const Checker& check, const LayerArgs& args) {
  if (args.moe_expert_num < 0 || args.moe_expert_num >= kMaxInt32) {
    return check.fail("moe_expert_num", "0 <= M < 2^31 - 1", args.moe_expert_num);
  }
  const std::int64_t moe_ranks = args.ep_world_size - args.shared_expert_rank_num;
  if (args.moe_expert_num % moe_ranks != 0) {
    return check.fail("moe_expert_num",
                      "a multiple of the MoE ranks, E - SR = " + std::to_string(moe_ranks),
                      args.moe_expert_num);
  }
  const std::array<std::pair<const char*, std::int64_t>, 3> special = {
      {{"zero_expert_num", args.zero_expert_num},
       {"copy_expert_num", args.copy_expert_num},
       {"const_expert_num", args.const_expert_num}}};
  for (const auto& [name, count] : special) {
    if (count < 0) {
      return check.fail(name, "a number >= 0", count);
    }
    if (count > 0) {
      return check.not_yet(name, std::to_string(count));
    }
  }
  return {};
}

Status check_options(const Checker& check, const LayerArgs& args) {
  if (args.tp_world_size < 0 || args.tp_world_size > 2) {
    return check.fail("tp_world_size", "0, 1 or 2", args.tp_world_size);
  }
  if (args.tp_world_size == 2) {
    return check.not_yet("tp_world_size", "2");
  }
  bool known = args.comm_alg.empty();
  for (std::string_view name : {"fullmesh", "fullmesh_v1", "fullmesh_v2", "hierarchy"}) {
    known = known || args.comm_alg == name;
  }
  if (!known) {
    return check.fail("comm_alg",
                      "\"\", fullmesh, fullmesh_v1, fullmesh_v2 or hierarchy",
                      "\"" + std::string(args.comm_alg) + "\"");
  }
  WAYBILL_RETURN_IF_ERROR(check.absent("elastic_info", args.has_elastic_info));
  return check.absent("performance_info", args.has_performance_info);
}

}  // namespace

Result<Topology> check_layer(const Checker& check, const LayerArgs& args) {
  WAYBILL_RETURN_IF_ERROR(check_ranks(check, args));
  WAYBILL_RETURN_IF_ERROR(check_shared(check, args));
  WAYBILL_RETURN_IF_ERROR(check_experts(check, args));
  WAYBILL_RETURN_IF_ERROR(check_options(check, args));
  const bool has_shared = args.shared_expert_rank_num > 0;
  return Topology{args.ep_world_size,
                  args.ep_rank_id,
                  args.moe_expert_num,
                  static_cast<int>(args.shared_expert_rank_num),
                  has_shared ? static_cast<int>(args.shared_expert_num) : 0};
}

Result<std::int64_t> check_global_bs(const Checker& check,
                                     const Topology& topology,
                                     std::int64_t global_bs,
                                     std::int64_t bs,
                                     std::int64_t k) {
  const std::int64_t e = topology.num_ranks;
  const std::int64_t gbs = global_bs == 0 ? bs * e : global_bs;
  if (global_bs < 0 || gbs % e != 0 || gbs < bs * e) {
    return check.fail("global_bs",
                      "0 or a multiple of E = " + std::to_string(e) +
                          " that is at least BS*E = " + std::to_string(bs * e),
                      global_bs);
  }
  if (bs * k > kMaxInt32) {
    return check.fail("expert_ids", "BS*K < 2^31", bs * k);
  }
  // Prefix sums are int32, and the triples and packed indices of a call are, too.
  for (int r : {0, topology.num_ranks - 1}) {
    if (gbs > kMaxInt32 || capacity(topology, r, gbs, k) > kMaxInt32 / 128) {
      return check.fail(
          "global_bs", "a size whose capacity A*128 (rows a rank can receive) is below 2^31", gbs);
    }
  }
  return gbs;
}

}  // namespace waybill::contract
