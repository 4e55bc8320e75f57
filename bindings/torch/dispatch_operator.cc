#include "call_operator.h"
#include "operators.h"
#include "waybill/dispatch.h"

namespace waybill::binding {
namespace {

struct DispatchV2 {
  static constexpr const auto& kSignature = contract::signature::kDispatchV2;
  using Args = DispatchArgs;
  static auto call(Group& group, const Args& args) { return dispatch(group, args); }
  template <bool>
  static void put(Results& results, Result<DispatchResult>& result) {
    results.add(std::move(result->expand_x));
    results.add(std::move(result->dynamic_scales));
    results.add(std::move(result->assist_info_for_combine));
    results.add(std::move(result->expert_token_nums));
    results.add(std::move(result->ep_recv_counts));
    results.add(std::move(result->tp_recv_counts));
    results.add(std::move(result->expand_scales));
  }
};

struct DispatchV1 : DispatchV2 {
  static constexpr const auto& kSignature = contract::signature::kDispatch;
  struct Args : DispatchArgs {
    Args() { form = IndexForm::kOccurrences; }
  };
};

}  // namespace

const Operator kDispatch = {
    .signature = facts_of<contract::signature::kDispatch>(),
    .results =
        "(Tensor expand_x, Tensor dynamic_scales, Tensor expand_idx, "
        "Tensor expert_token_nums, Tensor ep_recv_counts, Tensor tp_recv_counts, "
        "Tensor expand_scales)",
    .kernel = call_operator<DispatchV1, false>,
    .ordered_kernel = call_operator<DispatchV1, true>,
};

const Operator kDispatchV2 = {
    .signature = facts_of<contract::signature::kDispatchV2>(),
    .results =
        "(Tensor expand_x, Tensor dynamic_scales, Tensor assist_info_for_combine, "
        "Tensor expert_token_nums, Tensor ep_recv_counts, Tensor tp_recv_counts, "
        "Tensor expand_scales)",
    .kernel = call_operator<DispatchV2, false>,
    .ordered_kernel = call_operator<DispatchV2, true>,
};

}  // namespace waybill::binding
