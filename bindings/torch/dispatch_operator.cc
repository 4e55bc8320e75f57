#include "call_operator.h"
#include "operators.h"
#include "waybill/dispatch.h"

namespace waybill::binding {
namespace {

void put_all(Results& results, DispatchResult& result) {
  results.add(std::move(result.expand_x));
  results.add(std::move(result.dynamic_scales));
  results.add(std::move(result.assist_info_for_combine));
  results.add(std::move(result.expert_token_nums));
  results.add(std::move(result.ep_recv_counts));
  results.add(std::move(result.tp_recv_counts));
  results.add(std::move(result.expand_scales));
}

/// The arguments up to moe_expert_num.
DispatchArgs read_positional(OperatorInputs& in) {
  DispatchArgs args;
  args.x = in.tensor("x");
  args.expert_ids = in.tensor("expert_ids");
  in.group();
  args.ep_world_size = in.number("ep_world_size");
  args.ep_rank_id = in.number("ep_rank_id");
  args.moe_expert_num = in.integer();
  args.scales = in.optional_tensor("scales");
  args.x_active_mask = in.optional_tensor("x_active_mask");
  args.expert_scales = in.optional_tensor("expert_scales");
  return args;
}

/// From group_tp to expert_token_nums_type.
void read_options(OperatorInputs& in, DispatchArgs& args) {
  in.tp_group();
  args.tp_world_size = in.number("tp_world_size");
  args.tp_rank_id = in.number("tp_rank_id");
  args.expert_shard_type = in.number("expert_shard_type");
  args.shared_expert_num = in.integer();
  args.shared_expert_rank_num = in.integer();
  args.quant_mode = in.number("quant_mode");
  args.global_bs = in.integer();
  args.expert_token_nums_type = in.number("expert_token_nums_type");
}

struct DispatchV1 {
  static constexpr auto kOperator = contract::Operator::kDispatch;
  static DispatchArgs read(OperatorInputs& in) {
    DispatchArgs args = read_positional(in);
    read_options(in, args);
    args.form = IndexForm::kOccurrences;
    return args;
  }
  static auto call(Group& group, const DispatchArgs& args) { return dispatch(group, args); }
  template <bool>
  static void put(Results& results, Result<DispatchResult>& result) {
    put_all(results, *result);
  }
};

struct DispatchV2 : DispatchV1 {
  static constexpr auto kOperator = contract::Operator::kDispatchV2;
  static DispatchArgs read(OperatorInputs& in) {
    DispatchArgs args = read_positional(in);
    args.elastic_info = in.optional_tensor("elastic_info");
    args.performance_info = in.optional_tensor("performance_info");
    read_options(in, args);
    args.comm_alg = in.text();
    args.zero_expert_num = in.integer();
    args.copy_expert_num = in.integer();
    args.const_expert_num = in.integer();
    args.y_dtype = in.optional_integer();
    args.x_dtype = in.optional_integer();
    args.scales_dtype = in.optional_integer();
    return args;
  }
};

}  // namespace

const Operator kDispatch = {
    .name = "npu_moe_distribute_dispatch",
    .positional =
        "Tensor x, Tensor expert_ids, str group_ep, int ep_world_size, int ep_rank_id, "
        "int moe_expert_num",
    .keyword =
        "Tensor? scales=None, Tensor? x_active_mask=None, Tensor? expert_scales=None, "
        "str group_tp=\"\", int tp_world_size=0, int tp_rank_id=0, int expert_shard_type=0, "
        "int shared_expert_num=1, int shared_expert_rank_num=0, int quant_mode=0, "
        "int global_bs=0, int expert_token_nums_type=1",
    .results =
        "(Tensor expand_x, Tensor dynamic_scales, Tensor expand_idx, "
        "Tensor expert_token_nums, Tensor ep_recv_counts, Tensor tp_recv_counts, "
        "Tensor expand_scales)",
    .kernel = call_operator<DispatchV1, false>,
    .ordered_kernel = call_operator<DispatchV1, true>,
};

const Operator kDispatchV2 = {
    .name = "npu_moe_distribute_dispatch_v2",
    .positional =
        "Tensor x, Tensor expert_ids, str group_ep, int ep_world_size, int ep_rank_id, "
        "int moe_expert_num",
    .keyword =
        "Tensor? scales=None, Tensor? x_active_mask=None, Tensor? expert_scales=None, "
        "Tensor? elastic_info=None, Tensor(a!)? performance_info=None, str group_tp=\"\", "
        "int tp_world_size=0, int tp_rank_id=0, int expert_shard_type=0, "
        "int shared_expert_num=1, int shared_expert_rank_num=0, int quant_mode=0, "
        "int global_bs=0, int expert_token_nums_type=1, str comm_alg=\"\", "
        "int zero_expert_num=0, int copy_expert_num=0, int const_expert_num=0, "
        "int? y_dtype=None, int? x_dtype=None, int? scales_dtype=None",
    .results =
        "(Tensor expand_x, Tensor dynamic_scales, Tensor assist_info_for_combine, "
        "Tensor expert_token_nums, Tensor ep_recv_counts, Tensor tp_recv_counts, "
        "Tensor expand_scales)",
    .kernel = call_operator<DispatchV2, false>,
    .ordered_kernel = call_operator<DispatchV2, true>,
};

}  // namespace waybill::binding
