#pragma once

#include <cstdint>

#include "contract/agreement.h"
#include "contract/check.h"
#include "contract/topology.h"
#include "waybill/dispatch.h"
#include "waybill/dtype.h"
#include "waybill/status.h"
#include "waybill/tensor_view.h"

namespace waybill::contract {

/// A call of dispatch whose arguments are right, as numbers.
struct DispatchShape {
  Topology topology;
  std::int64_t bs = 0;
  std::int64_t h = 0;
  std::int64_t k = 0;
  std::int64_t gbs = 0;
  std::int64_t rows_capacity = 0;  ///< A of this rank
  DType dtype = DType::kBFloat16;  ///< of x
  bool quantised = false;          ///< quant_mode 2
  bool smooth = false;             ///< scales given
  bool weighted = false;           ///< expert_scales given

  std::int64_t max_bs() const noexcept { return gbs / topology.num_ranks; }
  std::int64_t local_experts() const noexcept { return topology.local_experts(topology.rank); }
  DType row_dtype() const noexcept { return quantised ? DType::kInt8 : dtype; }
  std::int64_t row_bytes() const noexcept { return h * size_of(row_dtype()); }
};

/// Shapes and dtypes of the outputs (ops.md section 2).
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

/// Checks every argument but the values of expert_ids, which routing reads anyway.
Result<DispatchShape> check_dispatch(const GroupFacts& group, const DispatchArgs& args);

DispatchOutputs output_shapes(const DispatchShape& shape, int tp_world_size);

/// What the other ranks have to agree with.
Agreement agreement_of(const DispatchShape& shape, const DispatchArgs& args);

}  // namespace waybill::contract
