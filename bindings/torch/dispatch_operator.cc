#include "call_operator.h"
#include "operators.h"
#include "waybill/dispatch.h"

namespace waybill::binding {
namespace {

/// The arguments in the order of the schema, owned.
struct DispatchValues {
  explicit DispatchValues(Arguments& from)
      : x(from.tensor()),
        expert_ids(from.tensor()),
        group_ep(from.text()),
        ep_world_size(from.integer()),
        ep_rank_id(from.integer()),
        moe_expert_num(from.integer()),
        scales(from.optional_tensor()),
        x_active_mask(from.optional_tensor()),
        expert_scales(from.optional_tensor()),
        elastic_info(from.optional_tensor()),
        performance_info(from.optional_tensor()),
        group_tp(from.text()),
        tp_world_size(from.integer()),
        tp_rank_id(from.integer()),
        expert_shard_type(from.integer()),
        shared_expert_num(from.integer()),
        shared_expert_rank_num(from.integer()),
        quant_mode(from.integer()),
        global_bs(from.integer()),
        expert_token_nums_type(from.integer()),
        comm_alg(from.text()),
        zero_expert_num(from.integer()),
        copy_expert_num(from.integer()),
        const_expert_num(from.integer()),
        y_dtype(from.optional_integer()),
        x_dtype(from.optional_integer()),
        scales_dtype(from.optional_integer()) {}

  DispatchArgs args(Inputs& inputs) const {
    return {
        .x = inputs.view("x", x),
        .expert_ids = inputs.view("expert_ids", expert_ids),
        .ep_world_size = inputs.narrow("ep_world_size", ep_world_size),
        .ep_rank_id = inputs.narrow("ep_rank_id", ep_rank_id),
        .moe_expert_num = moe_expert_num,
        .scales = inputs.view("scales", scales),
        .x_active_mask = inputs.view("x_active_mask", x_active_mask),
        .expert_scales = inputs.view("expert_scales", expert_scales),
        .elastic_info = inputs.view("elastic_info", elastic_info),
        .performance_info = inputs.view("performance_info", performance_info),
        .tp_world_size = inputs.narrow("tp_world_size", tp_world_size),
        .tp_rank_id = inputs.narrow("tp_rank_id", tp_rank_id),
        .expert_shard_type = inputs.narrow("expert_shard_type", expert_shard_type),
        .shared_expert_num = shared_expert_num,
        .shared_expert_rank_num = shared_expert_rank_num,
        .quant_mode = inputs.narrow("quant_mode", quant_mode),
        .global_bs = global_bs,
        .expert_token_nums_type = inputs.narrow("expert_token_nums_type", expert_token_nums_type),
        .comm_alg = comm_alg,
        .zero_expert_num = zero_expert_num,
        .copy_expert_num = copy_expert_num,
        .const_expert_num = const_expert_num,
        .y_dtype = y_dtype,
        .x_dtype = x_dtype,
        .scales_dtype = scales_dtype,
    };
  }

  static Result<DispatchResult> call(Group& group, const DispatchArgs& args) {
    return dispatch(group, args);
  }

  static void put(Results& results, DispatchResult result) {
    results.add(std::move(result.expand_x));
    results.add(std::move(result.dynamic_scales));
    results.add(std::move(result.assist_info_for_combine));
    results.add(std::move(result.expert_token_nums));
    results.add(std::move(result.ep_recv_counts));
    results.add(std::move(result.tp_recv_counts));
    results.add(std::move(result.expand_scales));
  }

  TorchTensor x;
  TorchTensor expert_ids;
  std::string group_ep;
  std::int64_t ep_world_size;
  std::int64_t ep_rank_id;
  std::int64_t moe_expert_num;
  std::optional<TorchTensor> scales;
  std::optional<TorchTensor> x_active_mask;
  std::optional<TorchTensor> expert_scales;
  std::optional<TorchTensor> elastic_info;
  std::optional<TorchTensor> performance_info;
  std::string group_tp;
  std::int64_t tp_world_size;
  std::int64_t tp_rank_id;
  std::int64_t expert_shard_type;
  std::int64_t shared_expert_num;
  std::int64_t shared_expert_rank_num;
  std::int64_t quant_mode;
  std::int64_t global_bs;
  std::int64_t expert_token_nums_type;
  std::string comm_alg;
  std::int64_t zero_expert_num;
  std::int64_t copy_expert_num;
  std::int64_t const_expert_num;
  std::optional<std::int64_t> y_dtype;
  std::optional<std::int64_t> x_dtype;
  std::optional<std::int64_t> scales_dtype;
};

}  // namespace

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
    .kernel = call_operator<DispatchValues, contract::Operator::kDispatchV2, false>,
    .ordered_kernel = call_operator<DispatchValues, contract::Operator::kDispatchV2, true>,
};

}  // namespace waybill::binding
