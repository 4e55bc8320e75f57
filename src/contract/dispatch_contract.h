#pragma once

#include <cstdint>

#include "contract/agreement.h"
#include "contract/check.h"
#include "contract/layer.h"
#include "waybill/dispatch.h"
#include "waybill/dtype.h"
#include "waybill/status.h"
#include "waybill/tensor_view.h"

namespace waybill::contract {

/// A call of dispatch whose arguments are right, as numbers.
struct DispatchShape : Layer {
  Operator op = Operator::kDispatchV2;
  std::int64_t bs = 0;
  std::int64_t h = 0;
  std::int64_t k = 0;
  std::int64_t rows_capacity = 0;    ///< A of this rank
  std::int64_t first_scale_row = 0;  ///< row of `scales` that belongs to expert 0
  DType dtype = DType::kBFloat16;    ///< of x
  bool quantised = false;            ///< quant_mode 2
  bool smooth = false;               ///< scales given
  bool weighted = false;             ///< expert_scales given
  bool occurrences = false;          ///< IndexForm::kOccurrences

  DType row_dtype() const noexcept { return quantised ? DType::kInt8 : dtype; }
  std::int64_t row_bytes() const noexcept { return h * size_of(row_dtype()); }
};

/// Shapes and dtypes of the outputs (docs/contract/operators.md section 2).
struct DispatchOutputs {
  Dims expand_x;
  DType expand_x_dtype = DType::kBFloat16;
  Dims dynamic_scales;
  Dims assist_info_for_combine;
  Dims expert_token_nums;
  Dims ep_recv_counts;
  Dims tp_recv_counts;
  Dims expand_scales;
};

/// The operator that `args` are a call of.
inline Operator operator_of(const DispatchArgs& args) noexcept {
  return args.form == IndexForm::kTriples ? Operator::kDispatchV2 : Operator::kDispatch;
}

/// Checks every argument but the values of expert_ids, which routing reads anyway. `op` is
/// operator_of(args) or kDispatchSetup.
Result<DispatchShape> check_dispatch(const GroupFacts& group,
                                     const DispatchArgs& args,
                                     Operator op);

inline Result<DispatchShape> check_dispatch(const GroupFacts& group, const DispatchArgs& args) {
  return check_dispatch(group, args, operator_of(args));
}

DispatchOutputs output_shapes(const DispatchShape& shape);

/// What the other ranks have to agree with.
Agreement agreement_of(const DispatchShape& shape, const DispatchArgs& args);

}  // namespace waybill::contract
