#include "call_operator.h"
#include "operators.h"
#include "waybill/combine.h"

namespace waybill::binding {
namespace {

/// The arguments in the order of the schema, owned.
struct CombineValues {
  explicit CombineValues(Arguments& from)
      : expand_x(from.tensor()),
        expert_ids(from.tensor()),
        assist_info_for_combine(from.tensor()),
        ep_send_counts(from.tensor()),
        expert_scales(from.tensor()),
        group_ep(from.text()),
        ep_world_size(from.integer()),
        ep_rank_id(from.integer()),
        moe_expert_num(from.integer()),
        tp_send_counts(from.optional_tensor()),
        x_active_mask(from.optional_tensor()),
        expand_scales(from.optional_tensor()),
        shared_expert_x(from.optional_tensor()),
        elastic_info(from.optional_tensor()),
        ori_x(from.optional_tensor()),
        const_expert_alpha_1(from.optional_tensor()),
        const_expert_alpha_2(from.optional_tensor()),
        const_expert_v(from.optional_tensor()),
        performance_info(from.optional_tensor()),
        group_tp(from.text()),
        tp_world_size(from.integer()),
        tp_rank_id(from.integer()),
        expert_shard_type(from.integer()),
        shared_expert_num(from.integer()),
        shared_expert_rank_num(from.integer()),
        global_bs(from.integer()),
        comm_quant_mode(from.integer()),
        comm_alg(from.text()),
        zero_expert_num(from.integer()),
        copy_expert_num(from.integer()),
        const_expert_num(from.integer()) {}

  CombineArgs args(Inputs& inputs) const {
    return {
        .expand_x = inputs.view("expand_x", expand_x),
        .expert_ids = inputs.view("expert_ids", expert_ids),
        .assist_info_for_combine = inputs.view("assist_info_for_combine", assist_info_for_combine),
        .ep_send_counts = inputs.view("ep_send_counts", ep_send_counts),
        .expert_scales = inputs.view("expert_scales", expert_scales),
        .ep_world_size = inputs.narrow("ep_world_size", ep_world_size),
        .ep_rank_id = inputs.narrow("ep_rank_id", ep_rank_id),
        .moe_expert_num = moe_expert_num,
        .tp_send_counts = inputs.view("tp_send_counts", tp_send_counts),
        .x_active_mask = inputs.view("x_active_mask", x_active_mask),
        .expand_scales = inputs.view("expand_scales", expand_scales),
        .shared_expert_x = inputs.view("shared_expert_x", shared_expert_x),
        .elastic_info = inputs.view("elastic_info", elastic_info),
        .ori_x = inputs.view("ori_x", ori_x),
        .const_expert_alpha_1 = inputs.view("const_expert_alpha_1", const_expert_alpha_1),
        .const_expert_alpha_2 = inputs.view("const_expert_alpha_2", const_expert_alpha_2),
        .const_expert_v = inputs.view("const_expert_v", const_expert_v),
        .performance_info = inputs.view("performance_info", performance_info),
        .tp_world_size = inputs.narrow("tp_world_size", tp_world_size),
        .tp_rank_id = inputs.narrow("tp_rank_id", tp_rank_id),
        .expert_shard_type = inputs.narrow("expert_shard_type", expert_shard_type),
        .shared_expert_num = shared_expert_num,
        .shared_expert_rank_num = shared_expert_rank_num,
        .global_bs = global_bs,
        .comm_quant_mode = inputs.narrow("comm_quant_mode", comm_quant_mode),
        .comm_alg = comm_alg,
        .zero_expert_num = zero_expert_num,
        .copy_expert_num = copy_expert_num,
        .const_expert_num = const_expert_num,
    };
  }

  static Result<Tensor> call(Group& group, const CombineArgs& args) { return combine(group, args); }
  static void put(Results& results, Tensor result) { results.add(std::move(result)); }

  TorchTensor expand_x;
  TorchTensor expert_ids;
  TorchTensor assist_info_for_combine;
  TorchTensor ep_send_counts;
  TorchTensor expert_scales;
  std::string group_ep;
  std::int64_t ep_world_size;
  std::int64_t ep_rank_id;
  std::int64_t moe_expert_num;
  std::optional<TorchTensor> tp_send_counts;
  std::optional<TorchTensor> x_active_mask;
  std::optional<TorchTensor> expand_scales;
  std::optional<TorchTensor> shared_expert_x;
  std::optional<TorchTensor> elastic_info;
  std::optional<TorchTensor> ori_x;
  std::optional<TorchTensor> const_expert_alpha_1;
  std::optional<TorchTensor> const_expert_alpha_2;
  std::optional<TorchTensor> const_expert_v;
  std::optional<TorchTensor> performance_info;
  std::string group_tp;
  std::int64_t tp_world_size;
  std::int64_t tp_rank_id;
  std::int64_t expert_shard_type;
  std::int64_t shared_expert_num;
  std::int64_t shared_expert_rank_num;
  std::int64_t global_bs;
  std::int64_t comm_quant_mode;
  std::string comm_alg;
  std::int64_t zero_expert_num;
  std::int64_t copy_expert_num;
  std::int64_t const_expert_num;
};

}  // namespace

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
    .kernel = call_operator<CombineValues, contract::Operator::kCombineV2, false>,
    .ordered_kernel = call_operator<CombineValues, contract::Operator::kCombineV2, true>,
};

}  // namespace waybill::binding
