#pragma once

#include <cstdint>

#include "contract/agreement.h"
#include "contract/check.h"
#include "contract/layer.h"
#include "waybill/combine.h"
#include "waybill/dtype.h"
#include "waybill/status.h"

namespace waybill::contract {

/// A call of combine whose arguments are right, as numbers.
struct CombineShape : Layer {
  Operator op = Operator::kCombineV2;
  std::int64_t bs = 0;
  std::int64_t h = 0;
  std::int64_t k = 0;
  std::int64_t rows = 0;       ///< rows that ep_send_counts describes
  std::int64_t peer_rows = 0;  ///< TP = 2: rows of the peer behind them
  DType dtype = DType::kBFloat16;
  bool quantised = false;  ///< comm_quant_mode 2
  std::int64_t form = kFormTriples;

  /// K + S: the places of a token that a row can come back to.
  std::int64_t slots() const noexcept { return k + topology.num_shared; }
};

/// The operator that `args` are a call of.
inline Operator operator_of(const CombineArgs& args) noexcept {
  return args.form == IndexForm::kTriples ? Operator::kCombineV2 : Operator::kCombine;
}
/// Checks every argument but the values of expert_ids and of the triples, which routing reads.
/// `op` is operator_of(args) or kCombineAddRmsNorm, which finds the form by itself.
Result<CombineShape> check_combine(const GroupFacts& group, const CombineArgs& args, Operator op);
inline Result<CombineShape> check_combine(const GroupFacts& group, const CombineArgs& args) {
  return check_combine(group, args, operator_of(args));
}
/// The two parts of it, for the set-up family: the rows that go back and where they came from ...
Result<CombineShape> check_rows(const GroupFacts& group, const CombineArgs& args, Operator op);
/// ... and the tokens that they come back to, whose K and BS are those of `shape`.
Status check_tokens(const GroupFacts& group,
                    const CombineShape& shape,
                    const CombineArgs& args,
                    Operator op);
/// The arguments that only combine_add_rms_norm has.
Status check_norm(const GroupFacts& group,
                  const CombineShape& shape,
                  const CombineAddRmsNormArgs& args);

/// What the other ranks have to agree with.
Agreement agreement_of(const CombineShape& shape, int comm_quant_mode);

}  // namespace waybill::contract
