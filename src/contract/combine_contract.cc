#include "contract/combine_contract.h"

#include <string>

#include "contract/layer.h"

namespace waybill::contract {
namespace {

Status check_shared_expert_x(const Checker& check,
                             const CombineArgs& args,
                             const Topology& topology) {
  if (!args.shared_expert_x) {
    return {};
  }
  const TensorView& shared = *args.shared_expert_x;
  if (topology.num_shared_ranks > 0) {
    return check.fail(
        "shared_expert_x", "None since shared_expert_rank_num is not 0", describe(shared));
  }
  const std::int64_t bs = args.expert_ids.shape[0];
  const std::int64_t h = args.expand_x.shape[1];
  const bool flat = shared.total_dims == 2 && shared.shape == Dims{bs, h};
  const bool nested =
      shared.total_dims == 3 && shared.shape[0] * shared.shape[1] == bs && shared.shape[2] == h;
  if ((!flat && !nested) || shared.dtype != args.expand_x.dtype) {
    return check.fail("shared_expert_x",
                      "(BS, H) = " + describe(Dims{bs, h}) + " or (a, b, H) with a*b = BS, " +
                          waybill::name_of(args.expand_x.dtype),
                      describe(shared));
  }
  return {};
}

Status check_comm_quant_mode(const Checker& check, const CombineArgs& args) {
  if (args.comm_quant_mode != 0 && args.comm_quant_mode != 2) {
    return check.fail("comm_quant_mode", "0 or 2", args.comm_quant_mode);
  }
  return {};
}

/// Rows received, from the last of the counts.
Result<std::int64_t> check_rows(const Checker& check,
                                const CombineArgs& args,
                                const Topology& topology) {
  const std::int64_t cells = topology.num_ranks * topology.local_experts(topology.rank);
  WAYBILL_RETURN_IF_ERROR(
      check.expect_int_vector("ep_send_counts", args.ep_send_counts, cells, "E*L, ep_recv_counts"));
  const auto* counts = static_cast<const std::int32_t*>(args.ep_send_counts.data);
  const std::int64_t rows = cells == 0 ? 0 : counts[(cells - 1) * args.ep_send_counts.strides[0]];
  if (rows < 0 || rows > args.expand_x.shape[0]) {
    return check.fail("ep_send_counts",
                      "a total between 0 and the " + std::to_string(args.expand_x.shape[0]) +
                          " rows of expand_x at element " + std::to_string(cells - 1),
                      rows);
  }
  WAYBILL_RETURN_IF_ERROR(check.expect_int_vector(
      "assist_info_for_combine", args.assist_info_for_combine, 3 * rows, "a triple a row"));
  return rows;
}

}  // namespace

Result<CombineShape> check_combine(const GroupFacts& group, const CombineArgs& args) {
  const Checker check(Operator::kCombineV2, group);
  WAYBILL_RETURN_IF_ERROR(check.expect_rows("expand_x", args.expand_x, "(n, H)"));
  if (args.expert_ids.total_dims != 2 || args.expert_ids.dtype != DType::kInt32 ||
      args.expert_ids.shape[1] < 1) {
    return check.fail("expert_ids", "(BS, K) int32 with K >= 1", describe(args.expert_ids));
  }
  auto topology = check_layer(check, layer_args(args));
  if (!topology.ok()) {
    return topology.status();
  }
  CombineShape shape;
  shape.topology = *topology;
  shape.bs = args.expert_ids.shape[0];
  shape.h = args.expand_x.shape[1];
  shape.k = args.expert_ids.shape[1];
  shape.dtype = args.expand_x.dtype;
  shape.quantised = args.comm_quant_mode == 2;
  WAYBILL_RETURN_IF_ERROR(check_comm_quant_mode(check, args));
  WAYBILL_RETURN_IF_ERROR(check.expect(
      "expert_scales", args.expert_scales, {shape.bs, shape.k}, "(BS, K)", DType::kFloat32));
  WAYBILL_RETURN_IF_ERROR(check.expect_mask(args.x_active_mask, shape.bs, shape.k));
  WAYBILL_RETURN_IF_ERROR(check_shared_expert_x(check, args, *topology));
  auto gbs = check_global_bs(check, *topology, args.global_bs, shape.bs, shape.k);
  if (!gbs.ok()) {
    return gbs.status();
  }
  shape.gbs = *gbs;
  auto rows = check_rows(check, args, *topology);
  if (!rows.ok()) {
    return rows.status();
  }
  shape.rows = *rows;
  return shape;
}

Agreement agreement_of(const CombineShape& shape, const CombineArgs& args) {
  Agreement values;
  values[Agreed::kOperator] = static_cast<std::int64_t>(Operator::kCombineV2);
  values[Agreed::kEpWorldSize] = shape.topology.num_ranks;
  values[Agreed::kDtype] = static_cast<std::int64_t>(shape.dtype);
  values[Agreed::kHidden] = shape.h;
  values[Agreed::kTopK] = shape.k;
  values[Agreed::kMoeExpertNum] = shape.topology.num_experts;
  values[Agreed::kSharedExpertNum] = shape.topology.num_shared;
  values[Agreed::kSharedExpertRankNum] = shape.topology.num_shared_ranks;
  values[Agreed::kCommQuantMode] = args.comm_quant_mode;
  values[Agreed::kGlobalBs] = shape.gbs;
  return values;
}

}  // namespace waybill::contract
