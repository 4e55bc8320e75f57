#include "call_operator.h"
#include "operators.h"
#include "waybill/barrier.h"

namespace waybill::binding {
namespace {

struct Barrier {
  struct Args : BarrierArgs {
    const TorchTensor* x_ref = nullptr;
  };
  static constexpr auto kOperator = contract::Operator::kBarrier;
  static Args read(OperatorInputs& in) {
    Args args;
    args.x_ref = &in.raw_tensor();
    in.group();
    args.world_size = in.number("world_size");
    args.time_out = in.optional_tensor("time_out");
    args.elastic_info = in.optional_tensor("elastic_info");
    return args;
  }
  /// The tensor to return a copy of.
  static Result<const TorchTensor*> call(Group& group, const Args& args) {
    if (Status status = barrier(group, args); !status.ok()) {
      return status;
    }
    return args.x_ref;
  }
  template <bool kHasToken>
  static void put(Results& results, Result<const TorchTensor*>& result) {
    if constexpr (!kHasToken) {
      results.add(copy_of(**result));
    }
  }
};

}  // namespace

const Operator kBarrier = {
    .name = "_npu_distribute_barrier",
    .positional = "Tensor x_ref, str group, int world_size",
    .keyword = "Tensor? time_out=None, Tensor? elastic_info=None",
    .results = "Tensor",
    .kernel = call_operator<Barrier, false>,
    .ordered_kernel = call_operator<Barrier, true>,
    .ordered_results = "()",  // waybill._npu_distribute_barrier returns x_ref itself
};

}  // namespace waybill::binding
