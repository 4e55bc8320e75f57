#include "contract/dispatch_contract.h"

#include <algorithm>
#include <string>

#include "contract/layer.h"

namespace waybill::contract {
namespace {

Status check_quantisation(const Checker& check, const DispatchArgs& args) {
  if (args.quant_mode < 0 || args.quant_mode > 4) {
    return check.fail("quant_mode", "0 or 2", args.quant_mode);
  }
  if (args.quant_mode != 0 && args.quant_mode != 2) {
    return check.not_yet("quant_mode", std::to_string(args.quant_mode));
  }
  if (args.y_dtype) {
    return check.not_yet("y_dtype", std::to_string(*args.y_dtype));
  }
  if (args.x_dtype) {
    return check.fail("x_dtype", "None", *args.x_dtype);
  }
  if (args.scales_dtype) {
    return check.fail("scales_dtype", "None", *args.scales_dtype);
  }
  if (args.scales && args.quant_mode == 0) {
    return check.fail("scales", "None since quant_mode is 0", describe(*args.scales));
  }
  return {};
}

Status check_tensors(const Checker& check, const DispatchArgs& args, const Topology& topology) {
  const std::int64_t bs = args.x.shape[0];
  const std::int64_t h = args.x.shape[1];
  const std::int64_t k = args.expert_ids.shape[1];
  WAYBILL_RETURN_IF_ERROR(check.expect_mask(args.x_active_mask, bs, k));
  if (args.expert_scales) {
    WAYBILL_RETURN_IF_ERROR(
        check.expect("expert_scales", *args.expert_scales, {bs, k}, "(BS, K)", DType::kFloat32));
  }
  if (args.scales) {
    const std::int64_t rows = topology.num_shared + topology.num_experts;
    WAYBILL_RETURN_IF_ERROR(
        check.expect("scales", *args.scales, {rows, h}, "(S+M, H)", DType::kFloat32));
  }
  return {};
}

}  // namespace

Result<DispatchShape> check_dispatch(const GroupFacts& group, const DispatchArgs& args) {
  const Checker check(Operator::kDispatchV2, group);
  WAYBILL_RETURN_IF_ERROR(check.expect_rows("x", args.x, "(BS, H)"));
  if (args.expert_ids.total_dims != 2 || args.expert_ids.dtype != DType::kInt32 ||
      args.expert_ids.shape[0] != args.x.shape[0] || args.expert_ids.shape[1] < 1) {
    return check.fail("expert_ids",
                      "(BS, K) int32 with BS = " + std::to_string(args.x.shape[0]) + " and K >= 1",
                      describe(args.expert_ids));
  }
  auto topology = check_layer(check, layer_args(args));
  if (!topology.ok()) {
    return topology.status();
  }
  WAYBILL_RETURN_IF_ERROR(check_quantisation(check, args));
  WAYBILL_RETURN_IF_ERROR(check_tensors(check, args, *topology));
  if (args.expert_token_nums_type != 0 && args.expert_token_nums_type != 1) {
    return check.fail("expert_token_nums_type", "0 or 1", args.expert_token_nums_type);
  }
  DispatchShape shape;
  shape.topology = *topology;
  shape.bs = args.x.shape[0];
  shape.h = args.x.shape[1];
  shape.k = args.expert_ids.shape[1];
  auto gbs = check_global_bs(check, *topology, args.global_bs, shape.bs, shape.k);
  if (!gbs.ok()) {
    return gbs.status();
  }
  shape.gbs = *gbs;
  shape.rows_capacity = capacity(*topology, topology->rank, shape.gbs, shape.k);
  shape.dtype = args.x.dtype;
  shape.quantised = args.quant_mode == 2;
  shape.smooth = args.scales.has_value();
  shape.weighted = args.expert_scales.has_value();
  return shape;
}

DispatchOutputs output_shapes(const DispatchShape& shape, int tp_world_size) {
  const std::int64_t a = shape.rows_capacity;
  const std::int64_t e = shape.topology.num_ranks;
  std::int64_t counts = e * shape.local_experts();
  if (shape.weighted) {
    counts += 2 * shape.gbs * shape.k * std::max<std::int64_t>(e / 8, 1);
  }
  DispatchOutputs outputs;
  outputs.expand_x = {a, shape.h};
  outputs.expand_x_dtype = shape.row_dtype();
  outputs.dynamic_scales = {a};
  outputs.assist_info_for_combine = {std::max(shape.bs * shape.k, a * 128)};
  outputs.expert_token_nums = {shape.local_experts()};
  outputs.ep_recv_counts = {counts};
  outputs.tp_recv_counts = {tp_world_size};
  outputs.expand_scales = {a};
  return outputs;
}

Agreement agreement_of(const DispatchShape& shape, const DispatchArgs& args) {
  Agreement values;
  values[Agreed::kOperator] = static_cast<std::int64_t>(Operator::kDispatchV2);
  values[Agreed::kEpWorldSize] = shape.topology.num_ranks;
  values[Agreed::kDtype] = static_cast<std::int64_t>(shape.dtype);
  values[Agreed::kHidden] = shape.h;
  values[Agreed::kTopK] = shape.k;
  values[Agreed::kMoeExpertNum] = shape.topology.num_experts;
  values[Agreed::kSharedExpertNum] = shape.topology.num_shared;
  values[Agreed::kSharedExpertRankNum] = shape.topology.num_shared_ranks;
  values[Agreed::kQuantMode] = args.quant_mode;
  values[Agreed::kScalesGiven] = shape.smooth ? 1 : 0;
  values[Agreed::kGlobalBs] = shape.gbs;
  return values;
}

}  // namespace waybill::contract
