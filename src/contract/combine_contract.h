#pragma once

#include <cstdint>

#include "contract/agreement.h"
#include "contract/check.h"
#include "contract/topology.h"
#include "waybill/combine.h"
#include "waybill/dtype.h"
#include "waybill/status.h"

namespace waybill::contract {

/// A call of combine whose arguments are right, as numbers.
struct CombineShape {
  Topology topology;
  std::int64_t bs = 0;
  std::int64_t h = 0;
  std::int64_t k = 0;
  std::int64_t gbs = 0;
  std::int64_t rows = 0;  ///< rows that ep_send_counts describes
  DType dtype = DType::kBFloat16;
  bool quantised = false;  ///< comm_quant_mode 2

  /// K + S: the places of a token that a row can come back to.
  std::int64_t slots() const noexcept { return k + topology.num_shared; }
};

/// Checks every argument but the values of expert_ids and of the triples, which routing reads.
Result<CombineShape> check_combine(const GroupFacts& group, const CombineArgs& args);

/// What the other ranks have to agree with.
Agreement agreement_of(const CombineShape& shape, const CombineArgs& args);

}  // namespace waybill::contract
