#include "call_operator.h"
#include "operators.h"
#include "waybill/barrier.h"

namespace waybill::binding {
namespace {

struct Barrier {
  static constexpr const auto& kSignature = contract::signature::kBarrier;
  struct Args : BarrierArgs {
    const TorchTensor* passed_on = nullptr;  ///< x_ref
  };
  /// The tensor to return a copy of.
  static Result<const TorchTensor*> call(Group& group, const Args& args) {
    if (Status status = barrier(group, args); !status.ok()) {
      return status;
    }
    return args.passed_on;
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
    .signature = facts_of<contract::signature::kBarrier>(),
    .results = "Tensor",
    .kernel = call_operator<Barrier, false>,
    .ordered_kernel = call_operator<Barrier, true>,
    .ordered_results = "()",  // waybill._npu_distribute_barrier returns x_ref itself
};

}  // namespace waybill::binding
