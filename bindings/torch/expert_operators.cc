// Operators without a group: nothing is ordered, nothing waits.

#include "contract/check.h"
#include "contract/operators.h"
#include "errors.h"
#include "operator_inputs.h"
#include "operators.h"
#include "waybill/update_expert.h"

namespace waybill::binding {
namespace {

void raise_problem(const OperatorInputs& in, contract::Operator op) {
  if (in.problem()) {
    const auto& [argument, expected, got] = *in.problem();
    const contract::Checker check(op, {});
    raise(check.fail(argument, expected, got));
  }
}

/// The results' shape: that of expert_ids where it is one, else nothing is written anyway.
Dims shape_of(const TensorView& ids) { return ids.total_dims == 2 ? ids.shape : Dims{0, 0}; }

void update(StableIValue* stack, std::uint64_t /*arguments*/, std::uint64_t /*results*/) {
  OperatorInputs in(stack);
  UpdateExpertArgs args;
  args.expert_ids = in.tensor("expert_ids");
  args.eplb_table = in.tensor("eplb_table");
  args.expert_scales = in.optional_tensor("expert_scales");
  args.pruning_threshold = in.optional_tensor("pruning_threshold");
  args.active_mask = in.optional_tensor("active_mask");
  args.local_rank_id = in.integer();
  args.world_size = in.integer();
  args.balance_mode = in.integer();
  raise_problem(in, contract::Operator::kUpdateExpert);
  void* ids = nullptr;
  void* mask = nullptr;
  TorchTensor balanced = new_tensor(args.expert_ids.dtype, shape_of(args.expert_ids), ids);
  TorchTensor active = new_tensor(DType::kBool, shape_of(args.expert_ids), mask);
  if (Status status = update_expert(args, ids, static_cast<std::uint8_t*>(mask)); !status.ok()) {
    raise(status);
  }
  Results results(stack);
  results.add(std::move(balanced));
  results.add(std::move(active));
}

void eplb_update(StableIValue* stack, std::uint64_t /*arguments*/, std::uint64_t /*results*/) {
  OperatorInputs in(stack);
  EplbUpdateExpertArgs args;
  args.expert_ids = in.tensor("expert_ids");
  args.eplb_table = in.tensor("eplb_table");
  args.local_rank_id = in.integer();
  args.world_size = in.integer();
  args.balance_mode = in.integer();
  raise_problem(in, contract::Operator::kEplbUpdateExpert);
  void* ids = nullptr;
  TorchTensor balanced = new_tensor(args.expert_ids.dtype, shape_of(args.expert_ids), ids);
  if (Status status = eplb_update_expert(args, ids); !status.ok()) {
    raise(status);
  }
  Results(stack).add(std::move(balanced));
}

}  // namespace

const Operator kUpdateExpert = {
    .name = "npu_moe_update_expert",
    .positional = "Tensor expert_ids, Tensor eplb_table",
    .keyword =
        "Tensor? expert_scales=None, Tensor? pruning_threshold=None, Tensor? active_mask=None, "
        "int local_rank_id=-1, int world_size=-1, int balance_mode=0",
    .results = "(Tensor balanced_expert_ids, Tensor balanced_active_mask)",
    .kernel = update,
};

const Operator kEplbUpdateExpert = {
    .name = "npu_moe_eplb_update_expert",
    .positional = "Tensor expert_ids, Tensor eplb_table, int local_rank_id, int world_size",
    .keyword = "int balance_mode=0",
    .results = "Tensor",
    .kernel = eplb_update,
};

}  // namespace waybill::binding
