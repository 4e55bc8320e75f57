#include "contract/combine_contract.h"

#include <algorithm>
#include <string>
#include <utility>

namespace waybill::contract {
namespace {

/// The name that `op` has for ep_send_counts.
constexpr const char* counts_argument(Operator op) noexcept {
  return op == Operator::kCombineSetup ? "assist_info_for_combine" : "ep_send_counts";
}

Status check_shared_expert_x(const Checker& check,
                             const CombineShape& shape,
                             const std::optional<TensorView>& given) {
  if (!given) {
    return {};
  }
  const TensorView& shared = *given;
  if (shape.given.num_shared_ranks > 0) {
    return check.fail(
        "shared_expert_x", "None since shared_expert_rank_num is not 0", describe(shared));
  }
  const bool flat = shared.total_dims == 2 && shared.shape == Dims{shape.bs, shape.h};
  std::int64_t tokens = 0;
  const bool nested = shared.total_dims == 3 &&
                      !__builtin_mul_overflow(shared.shape[0], shared.shape[1], &tokens) &&
                      tokens == shape.bs && shared.shape[2] == shape.h;
  if ((!flat && !nested) || shared.dtype != shape.dtype) {
    return check.fail("shared_expert_x",
                      "(BS, H) = " + describe(Dims{shape.bs, shape.h}) +
                          " or (a, b, H) with a*b = BS, " + waybill::name_of(shape.dtype),
                      describe(shared));
  }
  return {};
}

Status require(const Checker& check,
               const char* argument,
               const std::optional<TensorView>& given,
               const Dims& shape,
               const char* letters,
               DType dtype,
               const char* why) {
  if (!given) {
    return check.fail(argument, std::string("a tensor since ") + why, "None");
  }
  return check.expect(argument, *given, shape, letters, dtype);
}

/// What copy and constant experts read; ignored where there are none.
Status check_special(const Checker& check, const CombineShape& shape, const CombineArgs& args) {
  if (shape.num_copy == 0 && shape.num_constant == 0) {
    return {};
  }
  const char* why = shape.num_copy > 0 ? "copy_expert_num is not 0" : "const_expert_num is not 0";
  const DType dtype = shape.dtype;
  WAYBILL_RETURN_IF_ERROR(
      require(check, "ori_x", args.ori_x, {shape.bs, shape.h}, "(BS, H)", dtype, why));
  if (shape.num_constant == 0) {
    return {};
  }
  why = "const_expert_num is not 0";
  const std::int64_t n = shape.num_constant;
  for (const auto& [name, alpha] :
       {std::pair{"const_expert_alpha_1", &args.const_expert_alpha_1},
        std::pair{"const_expert_alpha_2", &args.const_expert_alpha_2}}) {
    // Both have the form of the first.
    const bool flat = !args.const_expert_alpha_1 || args.const_expert_alpha_1->total_dims == 1;
    const Dims expected = flat ? Dims{n} : Dims{n, shape.h};
    WAYBILL_RETURN_IF_ERROR(
        require(check, name, *alpha, expected, flat ? "(N,) or (N, H)" : "(N, H)", dtype, why));
  }
  return require(check, "const_expert_v", args.const_expert_v, {n, shape.h}, "(N, H)", dtype, why);
}

Status check_reserved(const Checker& check, const CombineArgs& args) {
  WAYBILL_RETURN_IF_ERROR(check.absent("activation_scale", args.activation_scale));
  WAYBILL_RETURN_IF_ERROR(check.absent("weight_scale", args.weight_scale));
  WAYBILL_RETURN_IF_ERROR(check.absent("group_list", args.group_list));
  if (args.out_dtype != 0) {
    return check.fail("out_dtype", "0", args.out_dtype);
  }
  if (args.group_list_type != 0) {
    return check.fail("group_list_type", "0", args.group_list_type);
  }
  if (args.comm_quant_mode != 0 && args.comm_quant_mode != 2) {
    return check.fail("comm_quant_mode", "0 or 2", args.comm_quant_mode);
  }
  if (args.comm_quant_mode == 2 && args.tp_world_size == 2) {
    return check.fail("comm_quant_mode", "0 since tp_world_size is 2", args.comm_quant_mode);
  }
  return {};
}

/// Rows received, from the last of the counts; with TP = 2 the peer's, too.
Status count_rows(const Checker& check, const CombineArgs& args, CombineShape& shape) {
  const std::int64_t cells = shape.topology.num_ranks * shape.local_experts();
  const char* name = counts_argument(check.op());
  WAYBILL_RETURN_IF_ERROR(
      check.expect_int_vector(name, args.ep_send_counts, cells, "E*L, ep_recv_counts"));
  const auto* counts = static_cast<const std::int32_t*>(args.ep_send_counts.data);
  const std::int64_t stride = args.ep_send_counts.strides[0];
  for (std::int64_t i = 0; i < cells; ++i) {
    if (counts[i * stride] < (i == 0 ? 0 : counts[(i - 1) * stride])) {
      return check.fail(name,
                        "prefix sums, which do not fall",
                        std::to_string(counts[i * stride]) + " at element " + std::to_string(i));
    }
  }
  shape.rows = cells == 0 ? 0 : counts[(cells - 1) * stride];
  if (shape.has_tp()) {
    if (!args.tp_send_counts) {
      return check.fail("tp_send_counts", "a tensor since tp_world_size is 2", "None");
    }
    WAYBILL_RETURN_IF_ERROR(check.expect_int_vector(
        "tp_send_counts", *args.tp_send_counts, 2, "rows of both TP ranks"));
    shape.peer_rows = static_cast<const std::int32_t*>(
        args.tp_send_counts->data)[(1 - shape.tp_rank) * args.tp_send_counts->strides[0]];
    if (shape.peer_rows < 0) {
      return check.fail("tp_send_counts", "numbers >= 0", shape.peer_rows);
    }
  }
  if (shape.rows + shape.peer_rows > args.expand_x.shape[0]) {
    return check.fail(
        name,
        "a total of at most the " + std::to_string(args.expand_x.shape[0]) + " rows of expand_x",
        shape.rows + shape.peer_rows);
  }
  return {};
}

std::int64_t form_of(const CombineArgs& args, const CombineShape& shape, Operator op) {
  if (op != Operator::kCombineAddRmsNorm) {
    return args.form == IndexForm::kTriples ? kFormTriples : kFormOccurrences;
  }
  if (args.assist_info_for_combine.shape[0] > shape.bs * shape.k) {
    return kFormTriples;
  }
  // A rank that can receive nothing has triples that are no longer than occurrence indices.
  return shape.capacity_of(shape.given.rank, shape.k) == 0 ? kFormUnknown : kFormOccurrences;
}

}  // namespace

Result<CombineShape> check_rows(const GroupFacts& group, const CombineArgs& args, Operator op) {
  const Checker check(op, group);
  WAYBILL_RETURN_IF_ERROR(check.expect_rows("expand_x", args.expand_x, "(n, H)"));
  if (args.expert_ids.total_dims != 2 || args.expert_ids.dtype != DType::kInt32 ||
      args.expert_ids.shape[1] < 1) {
    return check.fail("expert_ids", "(BS, K) int32 with K >= 1", describe(args.expert_ids));
  }
  auto layer = check_layer(check, layer_inputs(args));
  if (!layer.ok()) {
    return layer.status();
  }
  CombineShape shape{*layer};
  shape.op = op;
  shape.bs = args.expert_ids.shape[0];
  shape.h = args.expand_x.shape[1];
  shape.k = args.expert_ids.shape[1];
  shape.dtype = args.expand_x.dtype;
  shape.quantised = args.comm_quant_mode == 2;
  WAYBILL_RETURN_IF_ERROR(check_reserved(check, args));
  WAYBILL_RETURN_IF_ERROR(check_global_bs(check, shape, args.layer.global_bs, shape.bs, shape.k));
  WAYBILL_RETURN_IF_ERROR(count_rows(check, args, shape));
  if (op == Operator::kCombineSetup) {
    shape.form = kFormOccurrences;
    WAYBILL_RETURN_IF_ERROR(
        check_strict(check, strict_facts(shape, args, shape.bs, shape.h, shape.k)));
    return shape;
  }
  WAYBILL_RETURN_IF_ERROR(check.expect_int_vector(
      index_argument(op), args.assist_info_for_combine, 0, "dispatch's third output"));
  shape.form = form_of(args, shape, op);
  if (shape.form == kFormTriples) {
    WAYBILL_RETURN_IF_ERROR(check.expect_int_vector(
        index_argument(op), args.assist_info_for_combine, 3 * shape.rows, "a triple a row"));
  }
  return shape;
}

Status check_tokens(const GroupFacts& group,
                    const CombineShape& shape,
                    const CombineArgs& args,
                    Operator op) {
  const Checker check(op, group);
  if (shape.form == kFormOccurrences) {
    WAYBILL_RETURN_IF_ERROR(check.expect_int_vector(
        index_argument(op), args.assist_info_for_combine, shape.bs * shape.k, "BS*K"));
  }
  WAYBILL_RETURN_IF_ERROR(check.expect(
      "expert_scales", args.expert_scales, {shape.bs, shape.k}, "(BS, K)", DType::kFloat32));
  WAYBILL_RETURN_IF_ERROR(check.expect_mask(args.x_active_mask, shape.bs, shape.k));
  WAYBILL_RETURN_IF_ERROR(check_shared_expert_x(check, shape, args.shared_expert_x));
  WAYBILL_RETURN_IF_ERROR(check_special(check, shape, args));
  WAYBILL_RETURN_IF_ERROR(
      check_strict(check, strict_facts(shape, args, shape.bs, shape.h, shape.k)));
  WAYBILL_RETURN_IF_ERROR(check_strict_mask(check, "x_active_mask", args.x_active_mask));
  return check_strict_ids(check, args.expert_ids, args.x_active_mask);
}

Result<CombineShape> check_combine(const GroupFacts& group, const CombineArgs& args, Operator op) {
  auto shape = check_rows(group, args, op);
  if (shape.ok()) {
    if (Status status = check_tokens(group, *shape, args, op); !status.ok()) {
      return status;
    }
  }
  return shape;
}

Status check_norm(const GroupFacts& group,
                  const CombineShape& shape,
                  const CombineAddRmsNormArgs& args) {
  const Checker check(Operator::kCombineAddRmsNorm, group);
  const TensorView& residual = args.residual_x;
  const bool flat = residual.total_dims == 2 && residual.shape == Dims{shape.bs, shape.h};
  const bool nested = residual.total_dims == 3 && residual.shape == Dims{shape.bs, 1, shape.h};
  if ((!flat && !nested) || residual.dtype != shape.dtype) {
    return check.fail("residual_x",
                      "(BS, 1, H) = " + describe(Dims{shape.bs, 1, shape.h}) + " or (BS, H), " +
                          waybill::name_of(shape.dtype),
                      describe(residual));
  }
  return check.expect("gamma", args.gamma, {shape.h}, "(H,)", shape.dtype);
}

Agreement agreement_of(const CombineShape& shape, int comm_quant_mode) {
  Agreement values = agreement_of(shape, shape.op);
  values[Agreed::kDtype] = static_cast<std::int64_t>(shape.dtype);
  values[Agreed::kHidden] = shape.h;
  values[Agreed::kTopK] = shape.k;
  values[Agreed::kCommQuantMode] = comm_quant_mode;
  values[Agreed::kForm] = shape.form;
  return values;
}

}  // namespace waybill::contract
