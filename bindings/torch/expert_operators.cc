// Operators without a group: nothing is ordered, nothing waits.

#include "contract/check.h"
#include "contract/operators.h"
#include "contract/signatures.h"
#include "errors.h"
#include "operator_inputs.h"
#include "operators.h"
#include "schema.h"
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
  read_arguments(in, contract::signature::kUpdateExpert, args);
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
  read_arguments(in, contract::signature::kEplbUpdateExpert, args);
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
    .signature = facts_of<contract::signature::kUpdateExpert>(),
    .results = "(Tensor balanced_expert_ids, Tensor balanced_active_mask)",
    .kernel = update,
};

const Operator kEplbUpdateExpert = {
    .signature = facts_of<contract::signature::kEplbUpdateExpert>(),
    .results = "Tensor",
    .kernel = eplb_update,
};

}  // namespace waybill::binding
