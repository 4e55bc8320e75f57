#include "contract/strict.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "contract/topology.h"

namespace waybill::contract {
namespace {

constexpr std::int64_t align(std::int64_t value, std::int64_t to) noexcept {
  return (value + to - 1) / to * to;
}

constexpr bool is_dispatch(Operator op) noexcept {
  return op == Operator::kDispatch || op == Operator::kDispatchV2;
}

constexpr bool is_setup_family(Operator op) noexcept {
  return op == Operator::kDispatchSetup || op == Operator::kDispatchTeardown ||
         op == Operator::kCombineSetup || op == Operator::kCombineTeardown;
}

/// The argument that H is read from.
constexpr const char* rows_argument(Operator op) noexcept {
  const bool outgoing =
      is_dispatch(op) || op == Operator::kDispatchSetup || op == Operator::kDispatchTeardown;
  return outgoing ? "x" : "expand_x";
}

/// A Checker whose expectations end with the mode that asks for them.
class Limits {
 public:
  explicit Limits(const Checker& check) noexcept : check_(check) {}

  Operator op() const noexcept { return check_.op(); }
  bool adds_norm() const noexcept { return op() == Operator::kCombineAddRmsNorm; }
  const char* mode() const noexcept { return check_.group().strict == Strict::kA2 ? "a2" : "a3"; }
  std::int64_t window_mb() const noexcept { return check_.group().hccl_buffsize_mb; }

  template <typename Got>
  Status fail(std::string_view argument, const std::string& expected, const Got& got) const {
    return check_.fail(argument, expected + " in strict mode " + mode(), got);
  }

  Status range(std::string_view argument,
               const char* letter,
               std::int64_t least,
               std::int64_t most,
               std::int64_t got) const {
    if (least <= got && got <= most) {
      return {};
    }
    return fail(
        argument, std::to_string(least) + " <= " + letter + " <= " + std::to_string(most), got);
  }

  Status multiple_of_32(std::string_view argument, std::int64_t h) const {
    return h % 32 == 0 ? Status() : fail(argument, "H a multiple of 32", h);
  }

  Status none(std::string_view argument, bool given) const {
    return given ? fail(argument, "None", "a tensor") : Status();
  }

  /// The product does not have the operator.
  Status absent() const {
    return check_.fail("strict", "a mode whose product has the operator, which a2 has not", mode());
  }

  /// What the product's window has to hold.
  Status window(std::int64_t bytes, const std::string& formula) const {
    constexpr std::int64_t kMegabyte = std::int64_t{1} << 20;
    const std::int64_t megabytes = align(bytes, kMegabyte) / kMegabyte;
    if (megabytes <= window_mb()) {
      return {};
    }
    return fail("HCCL_BUFFSIZE",
                "at least " + std::to_string(megabytes) + " MB (of 2^20 bytes), for " + formula +
                    " = " + std::to_string(bytes) + " bytes",
                std::to_string(window_mb()) + " MB");
  }

 private:
  const Checker& check_;
};

Status check_a3_sizes(const Limits& limits, const StrictFacts& facts) {
  const bool adds_norm = limits.adds_norm();
  const bool setup = is_setup_family(limits.op());
  WAYBILL_RETURN_IF_ERROR(
      limits.range("ep_world_size", "E", 2, adds_norm || setup ? 384 : 768, facts.e));
  WAYBILL_RETURN_IF_ERROR(limits.range("expert_ids", "BS", 1, 512, facts.bs));
  const char* rows = rows_argument(limits.op());
  WAYBILL_RETURN_IF_ERROR(limits.range(rows, "H", 1024, adds_norm ? 7168 : 8192, facts.h));
  if (adds_norm) {
    WAYBILL_RETURN_IF_ERROR(limits.multiple_of_32(rows, facts.h));
  }
  WAYBILL_RETURN_IF_ERROR(limits.range("expert_ids", "K", 1, adds_norm ? 8 : 16, facts.k));
  WAYBILL_RETURN_IF_ERROR(
      limits.range("moe_expert_num", "M", 1, adds_norm || setup ? 512 : 1024, facts.m));
  if (facts.k > facts.m) {
    return limits.fail("expert_ids", "K <= M = " + std::to_string(facts.m), facts.k);
  }
  WAYBILL_RETURN_IF_ERROR(limits.range("shared_expert_num", "S", 0, 4, facts.s));
  if (setup && 2 * facts.sr > facts.e) {
    return limits.fail(
        "shared_expert_rank_num", "SR <= E/2 = " + std::to_string(facts.e / 2), facts.sr);
  }
  return limits.range("tp_world_size", "TP", 0, 2, facts.tp);
}

Status check_a3_options(const Limits& limits, const StrictFacts& facts) {
  if (facts.has_mask && facts.bs != facts.max_bs) {
    return limits.fail("x_active_mask",
                       "None since global_bs allows BS = " + std::to_string(facts.max_bs) +
                           ", another than this rank's " + std::to_string(facts.bs) + ",",
                       "a tensor");
  }
  if (is_dispatch(limits.op())) {
    WAYBILL_RETURN_IF_ERROR(limits.none("expert_scales", facts.has_expert_scales));
  }
  if (!facts.comm_alg.empty()) {
    return limits.fail("comm_alg", "\"\"", "\"" + std::string(facts.comm_alg) + "\"");
  }
  return facts.comm_type == 0 ? Status() : limits.fail("comm_type", "0", facts.comm_type);
}

Status check_a3_window(const Limits& limits, const StrictFacts& facts) {
  const std::int64_t row = 2 * facts.h;
  const std::int64_t dispatch = facts.l * facts.max_bs * facts.e * align(align(row, 32) + 44, 512);
  const std::int64_t combine = (facts.k + facts.s) * facts.max_bs * align(row, 512);
  return limits.window(2 * (dispatch + combine),
                       "2*(L*maxBS*E*Align512(Align32(2H)+44) + (K+S)*maxBS*Align512(2H))");
}

Status check_a3(const Limits& limits, const StrictFacts& facts) {
  WAYBILL_RETURN_IF_ERROR(check_a3_sizes(limits, facts));
  WAYBILL_RETURN_IF_ERROR(check_a3_options(limits, facts));
  return check_a3_window(limits, facts);
}

Status check_a2_sizes(const Limits& limits, const StrictFacts& facts, bool hierarchy) {
  if (facts.e != 16 && facts.e != 32 && facts.e != 64) {
    return limits.fail("ep_world_size", "E = 16, 32 or 64", facts.e);
  }
  WAYBILL_RETURN_IF_ERROR(limits.range("expert_ids", "BS", 1, 256, facts.bs));
  const char* rows = rows_argument(limits.op());
  WAYBILL_RETURN_IF_ERROR(limits.range(rows, "H", 1, 7168, facts.h));
  WAYBILL_RETURN_IF_ERROR(limits.multiple_of_32(rows, facts.h));
  WAYBILL_RETURN_IF_ERROR(limits.range("expert_ids", "K", 1, 16, facts.k));
  WAYBILL_RETURN_IF_ERROR(limits.range("moe_expert_num", "M", 1, 1024, facts.m));
  if (facts.l > 24 && !hierarchy) {
    return limits.fail("moe_expert_num",
                       "L = M/(E-SR) <= 24 (unless comm_alg is hierarchy), M <= " +
                           std::to_string(24 * (facts.e - facts.sr)),
                       facts.m);
  }
  return {};
}

Status check_a2_options(const Limits& limits, const StrictFacts& facts) {
  if (facts.sr != 0) {
    return limits.fail("shared_expert_rank_num", "0, no shared experts,", facts.sr);
  }
  WAYBILL_RETURN_IF_ERROR(limits.none("shared_expert_x", facts.has_shared_expert_x));
  WAYBILL_RETURN_IF_ERROR(limits.range("tp_world_size", "TP", 0, 1, facts.tp));
  WAYBILL_RETURN_IF_ERROR(limits.none("x_active_mask", facts.has_mask));
  const std::array<std::pair<const char*, std::int64_t>, 3> special = {
      {{"zero_expert_num", facts.num_zero},
       {"copy_expert_num", facts.num_copy},
       {"const_expert_num", facts.num_constant}}};
  for (const auto& [name, count] : special) {
    if (count != 0) {
      return limits.fail(name, "0", count);
    }
  }
  WAYBILL_RETURN_IF_ERROR(limits.none("elastic_info", facts.has_elastic));
  if (is_dispatch(limits.op()) && !facts.has_expert_scales) {
    return limits.fail("expert_scales", "a tensor", "None");
  }
  if (!facts.comm_alg.empty() && facts.comm_alg != "fullmesh" && facts.comm_alg != "hierarchy") {
    return limits.fail(
        "comm_alg", R"("", fullmesh or hierarchy)", "\"" + std::string(facts.comm_alg) + "\"");
  }
  return {};
}

Status check_a2_window(const Limits& limits, const StrictFacts& facts, bool hierarchy) {
  constexpr std::int64_t kMegabyte = std::int64_t{1} << 20;
  if (hierarchy) {
    return limits.window(
        facts.m * facts.bs * (facts.h * 2 + 4 * align(facts.k, 8) * 4) + 104 * kMegabyte,
        "M*BS*(H*2+4*ceil8(K)*4) + 104 MB");
  }
  const std::int64_t rows = facts.bs * facts.e * std::min(facts.l, facts.k);
  return limits.window(2 * (rows * facts.h * 2 + 2 * kMegabyte), "2*(BS*E*min(L,K)*H*2 + 2 MB)");
}

Status check_a2(const Limits& limits, const StrictFacts& facts) {
  if (is_setup_family(limits.op())) {
    return limits.absent();
  }
  const bool hierarchy = facts.comm_alg == "hierarchy";
  WAYBILL_RETURN_IF_ERROR(check_a2_sizes(limits, facts, hierarchy));
  WAYBILL_RETURN_IF_ERROR(check_a2_options(limits, facts));
  return check_a2_window(limits, facts, hierarchy);
}

Status check_instances(const Limits& limits, const StrictUpdateFacts& facts) {
  const bool eplb = limits.op() == Operator::kEplbUpdateExpert;
  if (!eplb && facts.instances > 1024) {
    return limits.fail("eplb_table", "a sum of the counts <= 1024", facts.instances);
  }
  if (facts.world_size && facts.instances % *facts.world_size != 0) {
    return limits.fail("eplb_table",
                       "equally many instances a rank, a sum of the counts that is a multiple of "
                       "world_size = " +
                           std::to_string(*facts.world_size),
                       facts.instances);
  }
  return {};
}

}  // namespace

Status check_strict(const Checker& check, const StrictFacts& facts) {
  if (check.group().strict == Strict::kNone || check.op() == Operator::kBarrier) {
    return {};
  }
  const Limits limits(check);
  return check.group().strict == Strict::kA3 ? check_a3(limits, facts) : check_a2(limits, facts);
}

Status check_strict_mask(const Checker& check,
                         std::string_view argument,
                         const std::optional<TensorView>& mask) {
  if (check.group().strict == Strict::kNone || !mask || mask->shape.rank() != 1) {
    return {};
  }
  bool ended = false;
  for (std::int64_t token = 0; token < mask->shape[0]; ++token) {
    const bool active = element<std::uint8_t>(*mask, token, 0) != 0;
    if (active && ended) {
      return Limits(check).fail(argument,
                                "trues before falses",
                                "true at token " + std::to_string(token) + " behind a false");
    }
    ended = !active;
  }
  return {};
}

std::string ways_to_leave_out(std::string_view mask, Strict strict) {
  std::string ways = strict == Strict::kNone ? "-1" : "";
  if (!mask.empty() && strict != Strict::kA2) {
    ways += (ways.empty() ? "false in " : " or false in ") + std::string(mask);
  }
  return ways.empty() ? ways : " (" + ways + " leaves a choice out)";
}

Status check_strict_routed(const Checker& check, std::int64_t token, std::int64_t k) {
  if (check.group().strict == Strict::kNone) {
    return {};
  }
  return Limits(check).fail("expert_ids",
                            "ids of experts, not -1,",
                            "-1 at token " + std::to_string(token) + ", k " + std::to_string(k));
}

Status check_strict_ids(const Checker& check,
                        const TensorView& ids,
                        const std::optional<TensorView>& mask) {
  if (check.group().strict == Strict::kNone) {
    return {};
  }
  const auto active = [&](std::int64_t token, std::int64_t k) {
    return !mask || element<std::uint8_t>(*mask, token, k) != 0;
  };
  for (std::int64_t token = 0; token < ids.shape[0]; ++token) {
    for (std::int64_t k = 0; k < ids.shape[1]; ++k) {
      if (!active(token, k)) {
        continue;
      }
      const std::int32_t id = element<std::int32_t>(ids, token, k);
      if (id == kNotRouted) {
        return check_strict_routed(check, token, k);
      }
      for (std::int64_t earlier = 0; earlier < k; ++earlier) {
        if (active(token, earlier) && element<std::int32_t>(ids, token, earlier) == id) {
          return Limits(check).fail("expert_ids",
                                    "distinct ids of token " + std::to_string(token),
                                    std::to_string(id) + " at k " + std::to_string(earlier) +
                                        " and k " + std::to_string(k));
        }
      }
    }
  }
  return {};
}

Status check_strict_update_expert(const Checker& check, const StrictUpdateFacts& facts) {
  if (check.group().strict == Strict::kNone) {
    return {};
  }
  const Limits limits(check);
  if (check.group().strict == Strict::kA2) {
    return limits.absent();
  }
  const bool eplb = check.op() == Operator::kEplbUpdateExpert;
  WAYBILL_RETURN_IF_ERROR(limits.range("expert_ids", "BS", 1, 512, facts.bs));
  WAYBILL_RETURN_IF_ERROR(limits.range("expert_ids", "K", 1, 16, facts.k));
  WAYBILL_RETURN_IF_ERROR(limits.range("eplb_table", "rows", 1, eplb ? 512 : 1024, facts.rows));
  if (facts.k > facts.rows) {
    return limits.fail("expert_ids",
                       "K <= M, the " + std::to_string(facts.rows) + " rows of eplb_table,",
                       facts.k);
  }
  if (facts.world_size) {
    WAYBILL_RETURN_IF_ERROR(
        limits.range("world_size", "world_size", 2, eplb ? 384 : 768, *facts.world_size));
    WAYBILL_RETURN_IF_ERROR(
        limits.range("eplb_table", "F", 2, *facts.world_size + 1, facts.columns));
  }
  WAYBILL_RETURN_IF_ERROR(check_instances(limits, facts));
  if (facts.has_mask && !facts.has_scales) {
    return limits.fail(
        "active_mask", "None without expert_scales and pruning_threshold", "a tensor");
  }
  return {};
}

}  // namespace waybill::contract
