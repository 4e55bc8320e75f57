#include "call_operator.h"
#include "operators.h"
#include "waybill/combine.h"

namespace waybill::binding {
namespace {

struct CombineV2 {
  static constexpr const auto& kSignature = contract::signature::kCombineV2;
  using Args = CombineArgs;
  static auto call(Group& group, const Args& args) { return combine(group, args); }
  template <bool>
  static void put(Results& results, Result<Tensor>& result) {
    results.add(std::move(*result));
  }
};

struct CombineV1 : CombineV2 {
  static constexpr const auto& kSignature = contract::signature::kCombine;
  struct Args : CombineArgs {
    Args() { form = IndexForm::kOccurrences; }
  };
};

struct CombineAddRmsNorm {
  static constexpr const auto& kSignature = contract::signature::kCombineAddRmsNorm;
  using Args = CombineAddRmsNormArgs;
  static auto call(Group& group, const Args& args) { return combine_add_rms_norm(group, args); }
  template <bool>
  static void put(Results& results, Result<CombineAddRmsNormResult>& result) {
    results.add(std::move(result->y));
    results.add(std::move(result->rstd));
    results.add(std::move(result->x));
  }
};

}  // namespace

const Operator kCombine = {
    .signature = facts_of<contract::signature::kCombine>(),
    .results = "Tensor",
    .kernel = call_operator<CombineV1, false>,
    .ordered_kernel = call_operator<CombineV1, true>,
};

const Operator kCombineV2 = {
    .signature = facts_of<contract::signature::kCombineV2>(),
    .results = "Tensor",
    .kernel = call_operator<CombineV2, false>,
    .ordered_kernel = call_operator<CombineV2, true>,
};

const Operator kCombineAddRmsNorm = {
    .signature = facts_of<contract::signature::kCombineAddRmsNorm>(),
    .results = "(Tensor y, Tensor rstd, Tensor x)",
    .kernel = call_operator<CombineAddRmsNorm, false>,
    .ordered_kernel = call_operator<CombineAddRmsNorm, true>,
};

}  // namespace waybill::binding
