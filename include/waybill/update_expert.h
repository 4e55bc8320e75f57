#pragma once

#include <cstdint>
#include <optional>

#include "waybill/env.h"
#include "waybill/status.h"
#include "waybill/tensor_view.h"

// Expert remapping: a logical expert may live several times, as physical instances. BS tokens, K
// experts a token, F columns of the table. Both operators are local: no group, no waiting.
namespace waybill {

/// Inputs of update_expert. Fields have the names and defaults of npu_moe_update_expert.
struct UpdateExpertArgs {
  TensorView expert_ids = {};  ///< (BS, K) int32 or int64, K >= 1: rows of eplb_table, or -1
  /// (logical experts, F) int32, row e = [c, id_1 .. id_c, padding]: 1 <= c <= F-1 instances, ids
  /// >= 0. Padding may hold anything.
  TensorView eplb_table = {};
  /// (BS, K) bfloat16, float16 or float32; with pruning_threshold or not at all
  std::optional<TensorView> expert_scales = {};
  std::optional<TensorView> pruning_threshold = {};  ///< (K,) or (1, K) float32
  std::optional<TensorView> active_mask = {};        ///< (BS,) bool, any pattern
  std::int64_t local_rank_id = -1;  ///< balance_mode 0: 0 <= local_rank_id < world_size
  std::int64_t world_size = -1;     ///< balance_mode 0: no c of the table is larger
  std::int64_t balance_mode = 0;    ///< 0 by rank, 1 by token
  Strict strict = Strict::kNone;    ///< kNone: WAYBILL_STRICT
};

/// Chooses an instance for every (t, k), and says which pairs are worth sending. -1 ("not routed")
/// and the ids of tokens whose active_mask is false stay as they are; the latter are not read.
///
/// balanced_ids: contiguous (BS, K) of expert_ids' dtype. With e = expert_ids[t,k], c =
/// table[e][0]:
///   c = 1            table[e][1]
///   balance_mode 0   table[e][1 + local_rank_id div ceil(world_size/c)]
///   balance_mode 1   table[e][1 + t mod c]
/// balanced_mask: contiguous (BS, K) bool. Whether active_mask[t] (true without a mask) and
/// expert_scales[t,k] >= pruning_threshold[k] * s, s the float32 sum of the token's scales in the
/// order of k (true without scales). Equality keeps, NaN prunes. False where the id is -1, whose
/// scale counts as 0.
///
/// Both are the caller's memory, which may be null when BS is 0 and overlaps no input. Local; may
/// allocate only for an error. kInvalidArgument when an argument is wrong: then nothing is written.
/// The whole table is checked, rows that no token uses among it; errors name the row.
Status update_expert(const UpdateExpertArgs& args, void* balanced_ids, std::uint8_t* balanced_mask);

/// Inputs of eplb_update_expert, npu_moe_eplb_update_expert: as in UpdateExpertArgs.
struct EplbUpdateExpertArgs {
  TensorView expert_ids = {};
  TensorView eplb_table = {};
  std::int64_t local_rank_id = -1;
  std::int64_t world_size = -1;
  std::int64_t balance_mode = 0;  ///< only 0
  Strict strict = Strict::kNone;
};

/// update_expert in balance_mode 0 and without a mask; the same guarantees.
Status eplb_update_expert(const EplbUpdateExpertArgs& args, void* balanced_ids);

}  // namespace waybill
