#include "engine/recheck.h"

#include <algorithm>
#include <string>

#include "base/errors.h"
#include "contract/check.h"

namespace waybill::engine {
namespace {

using contract::Operator;

/// The letters of docs/contract/operators.md, from the arguments. Not shared with the contract's
/// shapes on purpose.
struct Letters {
  std::int64_t e, m, sr, s, bs, h, k, tp, gbs, l, a, local_e;

  Letters(const DispatchArgs& args)
      : e(args.layer.ep_world_size),
        m(args.layer.moe_expert_num),
        sr(args.layer.shared_expert_rank_num),
        s(args.layer.shared_expert_num),
        bs(args.x.shape[0]),
        h(args.x.shape[1]),
        k(args.expert_ids.shape[1]),
        tp(std::max(args.tp_world_size, 1)),
        gbs(args.layer.global_bs != 0 ? args.layer.global_bs : bs * e),
        l(e > sr ? m / (e - sr) : 0) {
    const bool elastic = args.elastic_info.has_value();
    const bool shared = args.layer.ep_rank_id < sr;
    const std::int64_t routed = gbs * std::min(l, k);
    const std::int64_t per_shared = sr > 0 ? sr / s : 1;
    const std::int64_t for_shared = sr > 0 ? gbs / e * ((e + per_shared - 1) / per_shared) : 0;
    a = elastic ? std::max(routed, for_shared) : shared ? for_shared : routed;
    local_e = elastic ? std::max<std::int64_t>(l, 1) : shared ? 1 : l;
  }
};

Status wrong(Operator op,
             const std::string& what,
             const std::string& expected,
             const std::string& got) {
  const std::string name = contract::name_of(op);
  return error(
      StatusCode::kInternal,
      name,
      what,
      name + ": WAYBILL_CHECK: output " + what + ": expected " + expected + ", got " + got);
}

Status same(Operator op, const char* what, const Tensor& tensor, const Dims& expected) {
  const std::string got = contract::describe(tensor.shape);
  const std::string wanted = contract::describe(expected);
  return got == wanted ? Status() : wrong(op, what, wanted, got);
}

/// ep_recv_counts are inclusive prefix sums that end with the rows; expert_token_nums go with them.
Status check_counts(Operator op, const DispatchArgs& args, const DispatchResult& result) {
  const auto* counts = result.ep_recv_counts.data<std::int32_t>();
  const auto* nums = result.expert_token_nums.data<std::int64_t>();
  const std::int64_t experts = result.expert_token_nums.shape[0];
  const std::int64_t own_rows = args.tp_world_size == 2
                                    ? result.tp_recv_counts.data<std::int32_t>()[args.tp_rank_id]
                                    : result.rows;
  std::int64_t last = 0;
  const auto first =
      std::min<std::int64_t>(args.layer.ep_world_size, result.ep_recv_counts.shape[0]);
  for (std::int64_t i = 0; i < first; ++i) {
    if (counts[i] < last && counts[i] != 0) {
      return wrong(op, "ep_recv_counts", "sums that do not fall", std::to_string(counts[i]));
    }
    last = std::max<std::int64_t>(last, counts[i]);
  }
  std::int64_t total = 0;
  for (std::int64_t l = 0; l < experts; ++l) {
    total = args.expert_token_nums_type == 1 ? total + nums[l] : std::max(total, nums[l]);
  }
  if (args.tp_world_size != 2 && total != own_rows) {
    return wrong(
        op, "expert_token_nums", std::to_string(own_rows) + " rows in all", std::to_string(total));
  }
  return own_rows <= result.expand_x.shape[0]
             ? Status()
             : wrong(op,
                     "expand_x",
                     "at least " + std::to_string(own_rows) + " rows",
                     std::to_string(result.expand_x.shape[0]));
}

}  // namespace

Status recheck_dispatch(Operator op, const DispatchArgs& args, const DispatchResult& result) {
  const Letters n(args);
  std::int64_t counts = n.tp * n.e * n.local_e;
  if (args.expert_scales) {
    counts += 2 * n.gbs * n.k * std::max<std::int64_t>(n.e / 8, 1);
  }
  std::int64_t third = std::max(n.bs * n.k, n.a * 128);
  if (op == Operator::kDispatchTeardown) {
    third = std::max(n.a * 128, n.e * n.local_e);
  } else if (args.form == IndexForm::kOccurrences) {
    third = n.bs * n.k;
  }
  WAYBILL_RETURN_IF_ERROR(same(op, "expand_x", result.expand_x, {n.a * n.tp, n.h}));
  WAYBILL_RETURN_IF_ERROR(same(op, "dynamic_scales", result.dynamic_scales, {n.a * n.tp}));
  WAYBILL_RETURN_IF_ERROR(
      same(op, "assist_info_for_combine", result.assist_info_for_combine, {third}));
  WAYBILL_RETURN_IF_ERROR(same(op, "expert_token_nums", result.expert_token_nums, {n.local_e}));
  WAYBILL_RETURN_IF_ERROR(same(op, "ep_recv_counts", result.ep_recv_counts, {counts}));
  WAYBILL_RETURN_IF_ERROR(same(op, "tp_recv_counts", result.tp_recv_counts, {args.tp_world_size}));
  WAYBILL_RETURN_IF_ERROR(same(op, "expand_scales", result.expand_scales, {n.a}));
  return check_counts(op, args, result);
}

}  // namespace waybill::engine
