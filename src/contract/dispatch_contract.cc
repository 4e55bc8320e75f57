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

/// Rows of `scales` before the one of expert 0: the shared experts'. The set-up family counts
/// shared_expert_num as passed; without shared ranks it takes M rows as well.
std::int64_t first_scale_row(const DispatchArgs& args, const Layer& layer, Operator op) {
  if (op != Operator::kDispatchSetup) {
    return layer.given.num_shared;
  }
  const bool without = args.scales && args.scales->shape[0] == layer.given.num_experts &&
                       args.layer.shared_expert_rank_num == 0;
  return without ? 0 : args.layer.shared_expert_num;
}

Status check_tensors(const Checker& check, const DispatchArgs& args, const DispatchShape& shape) {
  const std::int64_t bs = args.x.shape[0];
  const std::int64_t h = args.x.shape[1];
  const std::int64_t k = args.expert_ids.shape[1];
  WAYBILL_RETURN_IF_ERROR(check.expect_mask(args.x_active_mask, bs, k));
  if (args.expert_scales) {
    WAYBILL_RETURN_IF_ERROR(
        check.expect("expert_scales", *args.expert_scales, {bs, k}, "(BS, K)", DType::kFloat32));
  }
  if (args.scales) {
    const std::int64_t rows = shape.first_scale_row + shape.given.num_experts;
    WAYBILL_RETURN_IF_ERROR(
        check.expect("scales", *args.scales, {rows, h}, "(S+M, H)", DType::kFloat32));
  }
  return {};
}

}  // namespace

Result<DispatchShape> check_dispatch(const GroupFacts& group,
                                     const DispatchArgs& args,
                                     Operator op) {
  const Checker check(op, group);
  WAYBILL_RETURN_IF_ERROR(check.expect_rows("x", args.x, "(BS, H)"));
  if (args.expert_ids.total_dims != 2 || args.expert_ids.dtype != DType::kInt32 ||
      args.expert_ids.shape[0] != args.x.shape[0] || args.expert_ids.shape[1] < 1) {
    return check.fail("expert_ids",
                      "(BS, K) int32 with BS = " + std::to_string(args.x.shape[0]) + " and K >= 1",
                      describe(args.expert_ids));
  }
  auto layer = check_layer(check, layer_inputs(args));
  if (!layer.ok()) {
    return layer.status();
  }
  DispatchShape shape{*layer};
  shape.op = op;
  shape.bs = args.x.shape[0];
  shape.h = args.x.shape[1];
  shape.k = args.expert_ids.shape[1];
  shape.first_scale_row = first_scale_row(args, shape, op);
  WAYBILL_RETURN_IF_ERROR(check_quantisation(check, args));
  WAYBILL_RETURN_IF_ERROR(check_tensors(check, args, shape));
  if (args.expert_token_nums_type != 0 && args.expert_token_nums_type != 1) {
    return check.fail("expert_token_nums_type", "0 or 1", args.expert_token_nums_type);
  }
  WAYBILL_RETURN_IF_ERROR(check_global_bs(check, shape, args.layer.global_bs, shape.bs, shape.k));
  shape.rows_capacity = shape.capacity_of(shape.given.rank, shape.k);
  shape.dtype = args.x.dtype;
  shape.quantised = args.quant_mode == 2;
  shape.smooth = args.scales.has_value();
  shape.weighted = args.expert_scales.has_value();
  shape.occurrences = args.form == IndexForm::kOccurrences;
  WAYBILL_RETURN_IF_ERROR(
      check_strict(check, strict_facts(shape, args, shape.bs, shape.h, shape.k)));
  WAYBILL_RETURN_IF_ERROR(check_strict_mask(check, "x_active_mask", args.x_active_mask));
  WAYBILL_RETURN_IF_ERROR(check_strict_ids(check, args.expert_ids, args.x_active_mask));
  return shape;
}

DispatchOutputs output_shapes(const DispatchShape& shape) {
  const std::int64_t a = shape.rows_capacity;
  const std::int64_t e = shape.given.num_ranks;
  const std::int64_t parts = shape.tp_parts();
  std::int64_t counts = parts * e * shape.local_experts_of_shapes();
  if (shape.weighted) {
    counts += 2 * shape.gbs * shape.k * std::max<std::int64_t>(e / 8, 1);
  }
  const std::int64_t pairs = shape.bs * shape.k;
  DispatchOutputs outputs;
  outputs.expand_x = {a * parts, shape.h};
  outputs.expand_x_dtype = shape.row_dtype();
  outputs.dynamic_scales = {a * parts};
  outputs.assist_info_for_combine = {shape.occurrences ? pairs : std::max(pairs, a * 128)};
  outputs.expert_token_nums = {shape.local_experts_of_shapes()};
  outputs.ep_recv_counts = {counts};
  outputs.tp_recv_counts = {shape.tp_world_size};
  outputs.expand_scales = {a};
  return outputs;
}

Agreement agreement_of(const DispatchShape& shape, const DispatchArgs& args) {
  Agreement values = agreement_of(shape, shape.op);
  values[Agreed::kDtype] = static_cast<std::int64_t>(shape.dtype);
  values[Agreed::kHidden] = shape.h;
  values[Agreed::kTopK] = shape.k;
  values[Agreed::kQuantMode] = args.quant_mode;
  values[Agreed::kScalesGiven] = shape.smooth ? 1 : 0;
  values[Agreed::kForm] = shape.occurrences ? kFormOccurrences : kFormTriples;
  return values;
}

}  // namespace waybill::contract
