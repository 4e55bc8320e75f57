#include "call_operator.h"
#include "operators.h"
#include "waybill/combine.h"

namespace waybill::binding {
namespace {

void read_rows(OperatorInputs& in, CombineArgs& args, const char* indices) {
  args.expand_x = in.tensor("expand_x");
  args.expert_ids = in.tensor("expert_ids");
  args.assist_info_for_combine = in.tensor(indices);
  args.ep_send_counts = in.tensor("ep_send_counts");
  args.expert_scales = in.tensor("expert_scales");
}

void read_group(OperatorInputs& in, CombineArgs& args) {
  in.group();
  args.ep_world_size = in.number("ep_world_size");
  args.ep_rank_id = in.number("ep_rank_id");
  args.moe_expert_num = in.integer();
  args.tp_send_counts = in.optional_tensor("tp_send_counts");
  args.x_active_mask = in.optional_tensor("x_active_mask");
}

/// What only v1 and add_rms_norm have, and what nobody reads.
void read_reserved(OperatorInputs& in, CombineArgs& args) {
  args.activation_scale = in.optional_tensor("activation_scale");
  args.weight_scale = in.optional_tensor("weight_scale");
  args.group_list = in.optional_tensor("group_list");
}

void read_shared(OperatorInputs& in, CombineArgs& args) {
  args.expand_scales = in.optional_tensor("expand_scales");
  args.shared_expert_x = in.optional_tensor("shared_expert_x");
}

void read_special(OperatorInputs& in, CombineArgs& args) {
  args.elastic_info = in.optional_tensor("elastic_info");
  args.ori_x = in.optional_tensor("ori_x");
  args.const_expert_alpha_1 = in.optional_tensor("const_expert_alpha_1");
  args.const_expert_alpha_2 = in.optional_tensor("const_expert_alpha_2");
  args.const_expert_v = in.optional_tensor("const_expert_v");
}

/// From group_tp to global_bs.
void read_options(OperatorInputs& in, CombineArgs& args) {
  in.tp_group();
  args.tp_world_size = in.number("tp_world_size");
  args.tp_rank_id = in.number("tp_rank_id");
  args.expert_shard_type = in.number("expert_shard_type");
  args.shared_expert_num = in.integer();
  args.shared_expert_rank_num = in.integer();
  args.global_bs = in.integer();
}

void read_reserved_options(OperatorInputs& in, CombineArgs& args) {
  args.out_dtype = in.integer();
  args.comm_quant_mode = in.number("comm_quant_mode");
  args.group_list_type = in.integer();
}

void read_special_numbers(OperatorInputs& in, CombineArgs& args) {
  args.zero_expert_num = in.integer();
  args.copy_expert_num = in.integer();
  args.const_expert_num = in.integer();
}

struct CombineV1 {
  static constexpr auto kOperator = contract::Operator::kCombine;
  static CombineArgs read(OperatorInputs& in) {
    CombineArgs args;
    args.form = IndexForm::kOccurrences;
    read_rows(in, args, "expand_idx");
    read_group(in, args);
    read_reserved(in, args);
    read_shared(in, args);
    read_options(in, args);
    read_reserved_options(in, args);
    return args;
  }
  static auto call(Group& group, const CombineArgs& args) { return combine(group, args); }
  template <bool>
  static void put(Results& results, Result<Tensor>& result) {
    results.add(std::move(*result));
  }
};

struct CombineV2 : CombineV1 {
  static constexpr auto kOperator = contract::Operator::kCombineV2;
  static CombineArgs read(OperatorInputs& in) {
    CombineArgs args;
    read_rows(in, args, "assist_info_for_combine");
    read_group(in, args);
    read_shared(in, args);
    read_special(in, args);
    args.performance_info = in.optional_tensor("performance_info");
    read_options(in, args);
    args.comm_quant_mode = in.number("comm_quant_mode");
    args.comm_alg = in.text();
    read_special_numbers(in, args);
    return args;
  }
};

struct CombineAddRmsNorm {
  static constexpr auto kOperator = contract::Operator::kCombineAddRmsNorm;
  static CombineAddRmsNormArgs read(OperatorInputs& in) {
    CombineAddRmsNormArgs args;
    read_rows(in, args.combine, "expand_idx");
    args.residual_x = in.tensor("residual_x");
    args.gamma = in.tensor("gamma");
    read_group(in, args.combine);
    read_reserved(in, args.combine);
    read_shared(in, args.combine);
    read_special(in, args.combine);
    read_options(in, args.combine);
    read_reserved_options(in, args.combine);
    args.combine.comm_alg = in.text();
    args.norm_eps = in.real();
    read_special_numbers(in, args.combine);
    return args;
  }
  static auto call(Group& group, const CombineAddRmsNormArgs& args) {
    return combine_add_rms_norm(group, args);
  }
  template <bool>
  static void put(Results& results, Result<CombineAddRmsNormResult>& result) {
    results.add(std::move(result->y));
    results.add(std::move(result->rstd));
    results.add(std::move(result->x));
  }
};

}  // namespace

const Operator kCombine = {
    .name = "npu_moe_distribute_combine",
    .positional =
        "Tensor expand_x, Tensor expert_ids, Tensor expand_idx, Tensor ep_send_counts, "
        "Tensor expert_scales, str group_ep, int ep_world_size, int ep_rank_id, "
        "int moe_expert_num",
    .keyword =
        "Tensor? tp_send_counts=None, Tensor? x_active_mask=None, "
        "Tensor? activation_scale=None, Tensor? weight_scale=None, Tensor? group_list=None, "
        "Tensor? expand_scales=None, Tensor? shared_expert_x=None, str group_tp=\"\", "
        "int tp_world_size=0, int tp_rank_id=0, int expert_shard_type=0, "
        "int shared_expert_num=1, int shared_expert_rank_num=0, int global_bs=0, "
        "int out_dtype=0, int comm_quant_mode=0, int group_list_type=0",
    .results = "Tensor",
    .kernel = call_operator<CombineV1, false>,
    .ordered_kernel = call_operator<CombineV1, true>,
};

const Operator kCombineV2 = {
    .name = "npu_moe_distribute_combine_v2",
    .positional =
        "Tensor expand_x, Tensor expert_ids, Tensor assist_info_for_combine, "
        "Tensor ep_send_counts, Tensor expert_scales, str group_ep, int ep_world_size, "
        "int ep_rank_id, int moe_expert_num",
    .keyword =
        "Tensor? tp_send_counts=None, Tensor? x_active_mask=None, "
        "Tensor? expand_scales=None, Tensor? shared_expert_x=None, "
        "Tensor? elastic_info=None, Tensor? ori_x=None, "
        "Tensor? const_expert_alpha_1=None, Tensor? const_expert_alpha_2=None, "
        "Tensor? const_expert_v=None, Tensor(a!)? performance_info=None, "
        "str group_tp=\"\", int tp_world_size=0, int tp_rank_id=0, "
        "int expert_shard_type=0, int shared_expert_num=1, int shared_expert_rank_num=0, "
        "int global_bs=0, int comm_quant_mode=0, str comm_alg=\"\", "
        "int zero_expert_num=0, int copy_expert_num=0, int const_expert_num=0",
    .results = "Tensor",
    .kernel = call_operator<CombineV2, false>,
    .ordered_kernel = call_operator<CombineV2, true>,
};

const Operator kCombineAddRmsNorm = {
    .name = "npu_moe_distribute_combine_add_rms_norm",
    .positional =
        "Tensor expand_x, Tensor expert_ids, Tensor expand_idx, Tensor ep_send_counts, "
        "Tensor expert_scales, Tensor residual_x, Tensor gamma, str group_ep, "
        "int ep_world_size, int ep_rank_id, int moe_expert_num",
    .keyword =
        "Tensor? tp_send_counts=None, Tensor? x_active_mask=None, "
        "Tensor? activation_scale=None, Tensor? weight_scale=None, Tensor? group_list=None, "
        "Tensor? expand_scales=None, Tensor? shared_expert_x=None, "
        "Tensor? elastic_info=None, Tensor? ori_x=None, "
        "Tensor? const_expert_alpha_1=None, Tensor? const_expert_alpha_2=None, "
        "Tensor? const_expert_v=None, str group_tp=\"\", int tp_world_size=0, "
        "int tp_rank_id=0, int expert_shard_type=0, int shared_expert_num=1, "
        "int shared_expert_rank_num=0, int global_bs=0, int out_dtype=0, "
        "int comm_quant_mode=0, int group_list_type=0, str comm_alg=\"\", "
        "float norm_eps=1e-06, int zero_expert_num=0, int copy_expert_num=0, "
        "int const_expert_num=0",
    .results = "(Tensor y, Tensor rstd, Tensor x)",
    .kernel = call_operator<CombineAddRmsNorm, false>,
    .ordered_kernel = call_operator<CombineAddRmsNorm, true>,
};

}  // namespace waybill::binding
