#include "call_operator.h"
#include "operators.h"
#include "waybill/setup.h"

namespace waybill::binding {
namespace {

/// group_ep to moe_expert_num.
void read_group(OperatorInputs& in, SetupCommonArgs& common) {
  in.group();
  common.ep_world_size = in.number("ep_world_size");
  common.ep_rank_id = in.number("ep_rank_id");
  common.moe_expert_num = in.integer();
}

/// expert_shard_type to shared_expert_rank_num.
void read_placement(OperatorInputs& in, SetupCommonArgs& common) {
  common.expert_shard_type = in.number("expert_shard_type");
  common.shared_expert_num = in.integer();
  common.shared_expert_rank_num = in.integer();
}

void read_comm(OperatorInputs& in, SetupCommonArgs& common) {
  common.comm_type = in.integer();
  common.comm_alg = in.text();
}

struct DispatchSetup {
  static constexpr auto kOperator = contract::Operator::kDispatchSetup;
  static DispatchSetupArgs read(OperatorInputs& in) {
    DispatchSetupArgs args;
    args.x = in.tensor("x");
    args.common.expert_ids = in.tensor("expert_ids");
    read_group(in, args.common);
    args.scales = in.optional_tensor("scales");
    args.x_active_mask = in.optional_tensor("x_active_mask");
    read_placement(in, args.common);
    args.quant_mode = in.number("quant_mode");
    args.common.global_bs = in.integer();
    read_comm(in, args.common);
    args.y_dtype = in.optional_integer();
    return args;
  }
  static auto call(Group& group, const DispatchSetupArgs& args) {
    return dispatch_setup(group, args);
  }
  template <bool>
  static void put(Results& results, Result<DispatchSetupResult>& result) {
    results.add(std::move(result->y));
    results.add(std::move(result->expand_idx));
    results.add(std::move(result->comm_cmd_info));
  }
};

struct DispatchTeardown {
  static constexpr auto kOperator = contract::Operator::kDispatchTeardown;
  static DispatchTeardownArgs read(OperatorInputs& in) {
    DispatchTeardownArgs args;
    args.x = in.tensor("x");
    in.skip_tensor();  // y: nothing reads it
    args.common.expert_ids = in.tensor("expert_ids");
    args.comm_cmd_info = in.tensor("comm_cmd_info");
    read_group(in, args.common);
    read_placement(in, args.common);
    args.quant_mode = in.number("quant_mode");
    args.common.global_bs = in.integer();
    args.expert_token_nums_type = in.number("expert_token_nums_type");
    read_comm(in, args.common);
    return args;
  }
  static auto call(Group& group, const DispatchTeardownArgs& args) {
    return dispatch_teardown(group, args);
  }
  template <bool>
  static void put(Results& results, Result<DispatchTeardownResult>& result) {
    results.add(std::move(result->expand_x));
    results.add(std::move(result->dynamic_scales));
    results.add(std::move(result->assist_info_for_combine));
    results.add(std::move(result->expert_token_nums));
  }
};

struct CombineSetup {
  static constexpr auto kOperator = contract::Operator::kCombineSetup;
  static CombineSetupArgs read(OperatorInputs& in) {
    CombineSetupArgs args;
    args.expand_x = in.shared_tensor("expand_x", args.expand_x_owner);
    args.common.expert_ids = in.tensor("expert_ids");
    args.assist_info_for_combine = in.tensor("assist_info_for_combine");
    read_group(in, args.common);
    read_placement(in, args.common);
    args.common.global_bs = in.integer();
    args.comm_quant_mode = in.number("comm_quant_mode");
    read_comm(in, args.common);
    return args;
  }
  static auto call(Group& group, const CombineSetupArgs& args) {
    return combine_setup(group, args);
  }
  template <bool>
  static void put(Results& results, Result<CombineSetupResult>& result) {
    results.add(std::move(result->quant_expand_x));
    results.add(std::move(result->comm_cmd_info));
  }
};

struct CombineTeardown {
  static constexpr auto kOperator = contract::Operator::kCombineTeardown;
  static CombineTeardownArgs read(OperatorInputs& in) {
    CombineTeardownArgs args;
    args.expand_x = in.tensor("expand_x");
    in.skip_tensor();  // quant_expand_x: nothing reads it
    args.common.expert_ids = in.tensor("expert_ids");
    args.expand_idx = in.tensor("expand_idx");
    args.expert_scales = in.tensor("expert_scales");
    args.comm_cmd_info = in.tensor("comm_cmd_info");
    read_group(in, args.common);
    args.x_active_mask = in.optional_tensor("x_active_mask");
    args.shared_expert_x = in.optional_tensor("shared_expert_x");
    read_placement(in, args.common);
    args.common.global_bs = in.integer();
    args.comm_quant_mode = in.number("comm_quant_mode");
    read_comm(in, args.common);
    return args;
  }
  static auto call(Group& group, const CombineTeardownArgs& args) {
    return combine_teardown(group, args);
  }
  template <bool>
  static void put(Results& results, Result<Tensor>& result) {
    results.add(std::move(*result));
  }
};

}  // namespace

const Operator kDispatchSetup = {
    .name = "npu_moe_distribute_dispatch_setup",
    .positional =
        "Tensor x, Tensor expert_ids, str group_ep, int ep_world_size, int ep_rank_id, "
        "int moe_expert_num",
    .keyword =
        "Tensor? scales=None, Tensor? x_active_mask=None, int expert_shard_type=0, "
        "int shared_expert_num=1, int shared_expert_rank_num=0, int quant_mode=0, "
        "int global_bs=0, int comm_type=0, str comm_alg=\"\", int? y_dtype=None",
    .results = "(Tensor y, Tensor expand_idx, Tensor comm_cmd_info)",
    .kernel = call_operator<DispatchSetup, false>,
    .ordered_kernel = call_operator<DispatchSetup, true>,
};

const Operator kDispatchTeardown = {
    .name = "npu_moe_distribute_dispatch_teardown",
    .positional =
        "Tensor x, Tensor y, Tensor expert_ids, Tensor comm_cmd_info, str group_ep, "
        "int ep_world_size, int ep_rank_id, int moe_expert_num",
    .keyword =
        "int expert_shard_type=0, int shared_expert_num=1, int shared_expert_rank_num=0, "
        "int quant_mode=0, int global_bs=0, int expert_token_nums_type=1, int comm_type=0, "
        "str comm_alg=\"\"",
    .results =
        "(Tensor expand_x, Tensor dynamic_scales, Tensor assist_info_for_combine, "
        "Tensor expert_token_nums)",
    .kernel = call_operator<DispatchTeardown, false>,
    .ordered_kernel = call_operator<DispatchTeardown, true>,
};

const Operator kCombineSetup = {
    .name = "npu_moe_distribute_combine_setup",
    .positional =
        "Tensor expand_x, Tensor expert_ids, Tensor assist_info_for_combine, str group_ep, "
        "int ep_world_size, int ep_rank_id, int moe_expert_num",
    .keyword =
        "int expert_shard_type=0, int shared_expert_num=1, int shared_expert_rank_num=0, "
        "int global_bs=0, int comm_quant_mode=0, int comm_type=0, str comm_alg=\"\"",
    .results = "(Tensor quant_expand_x, Tensor comm_cmd_info)",
    .kernel = call_operator<CombineSetup, false>,
    .ordered_kernel = call_operator<CombineSetup, true>,
};

const Operator kCombineTeardown = {
    .name = "npu_moe_distribute_combine_teardown",
    .positional =
        "Tensor expand_x, Tensor quant_expand_x, Tensor expert_ids, Tensor expand_idx, "
        "Tensor expert_scales, Tensor comm_cmd_info, str group_ep, int ep_world_size, "
        "int ep_rank_id, int moe_expert_num",
    .keyword =
        "Tensor? x_active_mask=None, Tensor? shared_expert_x=None, int expert_shard_type=0, "
        "int shared_expert_num=1, int shared_expert_rank_num=0, int global_bs=0, "
        "int comm_quant_mode=0, int comm_type=0, str comm_alg=\"\"",
    .results = "Tensor",
    .kernel = call_operator<CombineTeardown, false>,
    .ordered_kernel = call_operator<CombineTeardown, true>,
};

}  // namespace waybill::binding
