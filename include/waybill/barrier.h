#pragma once

#include <optional>

#include "waybill/group.h"
#include "waybill/status.h"
#include "waybill/tensor_view.h"

namespace waybill {

/// Inputs of barrier, _npu_distribute_barrier.
struct BarrierArgs {
  int world_size = 0;                           ///< the size of the group
  std::optional<TensorView> time_out = {};      ///< (1,) int32, microseconds, > 0: for this call
  std::optional<TensorView> elastic_info = {};  ///< (4+2E,) int32, as dispatch's
};

/// Returns when every rank of the group, with elastic_info every rank it names, has called it.
/// Collective, blocking, errors: as dispatch; the timeout is time_out where given.
Status barrier(Group& group, const BarrierArgs& args);

}  // namespace waybill
