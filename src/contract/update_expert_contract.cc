#include "contract/update_expert_contract.h"

#include <limits>
#include <string>

#include "contract/check.h"
#include "contract/strict.h"
#include "contract/topology.h"

namespace waybill::contract {
namespace {

/// The group of an operator that has none: messages name the rank that the caller gave.
GroupFacts facts_of(const UpdateExpertArgs& args, Strict strict) noexcept {
  GroupFacts facts;
  const bool fits = args.local_rank_id >= 0 &&
                    args.local_rank_id <= std::numeric_limits<decltype(facts.rank)>::max();
  facts.rank = fits ? static_cast<decltype(facts.rank)>(args.local_rank_id) : -1;
  facts.strict = strict;
  return facts;
}

Status check_ids_and_table(const Checker& check, const UpdateExpertArgs& args) {
  const TensorView& ids = args.expert_ids;
  if (ids.total_dims != 2 || ids.shape[0] < 0 || ids.shape[1] < 1 ||
      (ids.dtype != DType::kInt32 && ids.dtype != DType::kInt64)) {
    return check.fail("expert_ids", "(BS, K) int32 or int64 with K >= 1", describe(ids));
  }
  const TensorView& table = args.eplb_table;
  if (table.total_dims != 2 || table.shape[1] < 1 || table.dtype != DType::kInt32) {
    return check.fail("eplb_table", "(experts, F) int32 with F >= 1", describe(table));
  }
  return {};
}

Status check_pruning(const Checker& check, const UpdateExpertArgs& args) {
  if (args.expert_scales && !args.pruning_threshold) {
    return check.fail("pruning_threshold", "a tensor since expert_scales is given", "None");
  }
  if (args.pruning_threshold && !args.expert_scales) {
    return check.fail("expert_scales", "a tensor since pruning_threshold is given", "None");
  }
  const std::int64_t bs = args.expert_ids.shape[0];
  const std::int64_t k = args.expert_ids.shape[1];
  if (args.expert_scales) {
    const TensorView& scales = *args.expert_scales;
    if (scales.total_dims != 2 || scales.shape != Dims{bs, k} || !is_row_dtype(scales.dtype)) {
      return check.fail("expert_scales",
                        "(BS, K) = " + describe(Dims{bs, k}) + " bfloat16, float16 or float32",
                        describe(scales));
    }
    const TensorView& threshold = *args.pruning_threshold;
    const bool vector = threshold.total_dims == 1 && threshold.shape == Dims{k};
    const bool row = threshold.total_dims == 2 && threshold.shape == Dims{1, k};
    if ((!vector && !row) || threshold.dtype != DType::kFloat32) {
      return check.fail("pruning_threshold",
                        "(K,) = " + describe(Dims{k}) + " or (1, K) float32",
                        describe(threshold));
    }
  }
  if (args.active_mask) {
    return check.expect("active_mask", *args.active_mask, {bs}, "(BS,)", DType::kBool);
  }
  return {};
}

Status check_mode(const Checker& check, const UpdateExpertArgs& args) {
  if (check.op() == Operator::kEplbUpdateExpert && args.balance_mode != 0) {
    return check.fail("balance_mode", "0", args.balance_mode);
  }
  if (args.balance_mode != 0 && args.balance_mode != 1) {
    return check.fail("balance_mode", "0 or 1", args.balance_mode);
  }
  if (args.balance_mode == 1) {
    return {};
  }
  if (args.world_size < 1) {
    return check.fail("world_size", "world_size >= 1 since balance_mode is 0", args.world_size);
  }
  if (args.local_rank_id < 0 || args.local_rank_id >= args.world_size) {
    return check.fail("local_rank_id",
                      "0 <= local_rank_id < world_size = " + std::to_string(args.world_size) +
                          " since balance_mode is 0",
                      args.local_rank_id);
  }
  return {};
}

Status check_row(const Checker& check, const UpdateExpertArgs& args, std::int64_t row) {
  const TensorView& table = args.eplb_table;
  const std::int32_t count = element<std::int32_t>(table, row, 0);
  const std::int64_t most = table.shape[1] - 1;
  if (count < 1 || count > most) {
    return check.fail(
        "eplb_table",
        "a count 1 <= c <= F-1 = " + std::to_string(most) + " first in row " + std::to_string(row),
        count);
  }
  if (args.balance_mode == 0 && count > args.world_size) {
    return check.fail("eplb_table",
                      "a count c <= world_size = " + std::to_string(args.world_size) +
                          " since balance_mode is 0, first in row " + std::to_string(row),
                      count);
  }
  for (std::int64_t column = 1; column <= count; ++column) {
    const std::int32_t id = element<std::int32_t>(table, row, column);
    if (id < 0) {
      return check.fail(
          "eplb_table",
          "an instance >= 0 at row " + std::to_string(row) + ", column " + std::to_string(column),
          id);
    }
  }
  return {};
}

template <typename Id>
Status check_ids(const Checker& check, const UpdateExpertArgs& args) {
  const std::int64_t rows = args.eplb_table.shape[0];
  const char* mask = check.op() == Operator::kEplbUpdateExpert ? "" : "active_mask";
  for (std::int64_t token = 0; token < args.expert_ids.shape[0]; ++token) {
    if (args.active_mask && element<std::uint8_t>(*args.active_mask, token, 0) == 0) {
      continue;
    }
    for (std::int64_t k = 0; k < args.expert_ids.shape[1]; ++k) {
      const std::int64_t id = element<Id>(args.expert_ids, token, k);
      if (id >= 0 && id < rows) {
        continue;
      }
      const std::string place =
          std::to_string(id) + " at token " + std::to_string(token) + ", k " + std::to_string(k);
      const Strict strict = check.group().strict;
      if (id != kNotRouted) {
        return check.fail("expert_ids",
                          "ids in [0, " + std::to_string(rows) + "), the rows of eplb_table" +
                              ways_to_leave_out(mask, strict),
                          place);
      }
      WAYBILL_RETURN_IF_ERROR(check_strict_routed(check, token, k));
    }
  }
  return {};
}

Status check_strict_limits(const Checker& check, const UpdateExpertArgs& args) {
  if (check.group().strict == Strict::kNone) {
    return {};
  }
  StrictUpdateFacts facts;
  facts.bs = args.expert_ids.shape[0];
  facts.k = args.expert_ids.shape[1];
  facts.rows = args.eplb_table.shape[0];
  facts.columns = args.eplb_table.shape[1];
  if (args.balance_mode == 0 || args.world_size != -1) {
    facts.world_size = args.world_size;
  }
  for (std::int64_t row = 0; row < facts.rows; ++row) {
    facts.instances += element<std::int32_t>(args.eplb_table, row, 0);
  }
  facts.has_scales = args.expert_scales.has_value();
  facts.has_mask = args.active_mask.has_value();
  WAYBILL_RETURN_IF_ERROR(check_strict_update_expert(check, facts));
  return check_strict_mask(check, "active_mask", args.active_mask);
}

Status check_call(const UpdateExpertArgs& args, Operator op, Strict strict) {
  const Checker check(op, facts_of(args, strict));
  WAYBILL_RETURN_IF_ERROR(check_ids_and_table(check, args));
  WAYBILL_RETURN_IF_ERROR(check_pruning(check, args));
  WAYBILL_RETURN_IF_ERROR(check_mode(check, args));
  for (std::int64_t row = 0; row < args.eplb_table.shape[0]; ++row) {
    WAYBILL_RETURN_IF_ERROR(check_row(check, args, row));
  }
  WAYBILL_RETURN_IF_ERROR(args.expert_ids.dtype == DType::kInt32
                              ? check_ids<std::int32_t>(check, args)
                              : check_ids<std::int64_t>(check, args));
  return check_strict_limits(check, args);
}

}  // namespace

Status check_update_expert(const UpdateExpertArgs& args, Strict strict) {
  return check_call(args, Operator::kUpdateExpert, strict);
}

Status check_eplb_update_expert(const EplbUpdateExpertArgs& args, Strict strict) {
  return check_call(as_update_expert(args), Operator::kEplbUpdateExpert, strict);
}

UpdateExpertArgs as_update_expert(const EplbUpdateExpertArgs& args) noexcept {
  return {.expert_ids = args.expert_ids,
          .eplb_table = args.eplb_table,
          .local_rank_id = args.local_rank_id,
          .world_size = args.world_size,
          .balance_mode = args.balance_mode,
          .strict = args.strict};
}

}  // namespace waybill::contract
