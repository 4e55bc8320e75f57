#include "call_operator.h"
#include "operators.h"
#include "waybill/setup.h"

namespace waybill::binding {
namespace {

struct DispatchSetup {
  static constexpr const auto& kSignature = contract::signature::kDispatchSetup;
  using Args = DispatchSetupArgs;
  static auto call(Group& group, const Args& args) { return dispatch_setup(group, args); }
  template <bool>
  static void put(Results& results, Result<DispatchSetupResult>& result) {
    results.add(std::move(result->y));
    results.add(std::move(result->expand_idx));
    results.add(std::move(result->comm_cmd_info));
  }
};

struct DispatchTeardown {
  static constexpr const auto& kSignature = contract::signature::kDispatchTeardown;
  using Args = DispatchTeardownArgs;
  static auto call(Group& group, const Args& args) { return dispatch_teardown(group, args); }
  template <bool>
  static void put(Results& results, Result<DispatchTeardownResult>& result) {
    results.add(std::move(result->expand_x));
    results.add(std::move(result->dynamic_scales));
    results.add(std::move(result->assist_info_for_combine));
    results.add(std::move(result->expert_token_nums));
  }
};

struct CombineSetup {
  static constexpr const auto& kSignature = contract::signature::kCombineSetup;
  using Args = CombineSetupArgs;
  static auto call(Group& group, const Args& args) { return combine_setup(group, args); }
  template <bool>
  static void put(Results& results, Result<CombineSetupResult>& result) {
    results.add(std::move(result->quant_expand_x));
    results.add(std::move(result->comm_cmd_info));
  }
};

struct CombineTeardown {
  static constexpr const auto& kSignature = contract::signature::kCombineTeardown;
  using Args = CombineTeardownArgs;
  static auto call(Group& group, const Args& args) { return combine_teardown(group, args); }
  template <bool>
  static void put(Results& results, Result<Tensor>& result) {
    results.add(std::move(*result));
  }
};

}  // namespace

const Operator kDispatchSetup = {
    .signature = facts_of<contract::signature::kDispatchSetup>(),
    .results = "(Tensor y, Tensor expand_idx, Tensor comm_cmd_info)",
    .kernel = call_operator<DispatchSetup, false>,
    .ordered_kernel = call_operator<DispatchSetup, true>,
};

const Operator kDispatchTeardown = {
    .signature = facts_of<contract::signature::kDispatchTeardown>(),
    .results =
        "(Tensor expand_x, Tensor dynamic_scales, Tensor assist_info_for_combine, "
        "Tensor expert_token_nums)",
    .kernel = call_operator<DispatchTeardown, false>,
    .ordered_kernel = call_operator<DispatchTeardown, true>,
};

const Operator kCombineSetup = {
    .signature = facts_of<contract::signature::kCombineSetup>(),
    .results = "(Tensor quant_expand_x, Tensor comm_cmd_info)",
    .kernel = call_operator<CombineSetup, false>,
    .ordered_kernel = call_operator<CombineSetup, true>,
};

const Operator kCombineTeardown = {
    .signature = facts_of<contract::signature::kCombineTeardown>(),
    .results = "Tensor",
    .kernel = call_operator<CombineTeardown, false>,
    .ordered_kernel = call_operator<CombineTeardown, true>,
};

}  // namespace waybill::binding
