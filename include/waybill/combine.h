#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "waybill/group.h"
#include "waybill/status.h"
#include "waybill/tensor.h"
#include "waybill/tensor_view.h"

namespace waybill {

/// Inputs of combine; letters as in DispatchArgs. Fields have the names and defaults of
/// npu_moe_distribute_combine_v2.
struct CombineArgs {
  /// (n, H) bfloat16, float16 or float32: the experts' outputs in the row order of dispatch, n >=
  /// rows received. Rows in the group's pool (outputs of dispatch, expert_buffer) are published
  /// without a copy; then combine returns when every reader is done.
  TensorView expand_x = {};
  TensorView expert_ids = {};               ///< (BS, K) int32
  TensorView assist_info_for_combine = {};  ///< int32 triples from dispatch, at least 3*rows
  TensorView ep_send_counts = {};           ///< int32, ep_recv_counts of dispatch
  TensorView expert_scales = {};            ///< (BS, K) float32, the weights
  int ep_world_size = 0;                    ///< E
  int ep_rank_id = 0;
  std::int64_t moe_expert_num = 0;  ///< M

  std::optional<TensorView> tp_send_counts = {};  ///< only with TP = 2; ignored
  std::optional<TensorView> x_active_mask = {};   ///< (BS,) or (BS, K) bool
  std::optional<TensorView> expand_scales = {};   ///< accepted and not read
  std::optional<TensorView> shared_expert_x =
      {};  ///< (BS, H) or (a, b, H), a*b = BS; only when SR = 0
  std::optional<TensorView> elastic_info = {};          ///< not yet
  std::optional<TensorView> ori_x = {};                 ///< not yet
  std::optional<TensorView> const_expert_alpha_1 = {};  ///< not yet
  std::optional<TensorView> const_expert_alpha_2 = {};  ///< not yet
  std::optional<TensorView> const_expert_v = {};        ///< not yet
  std::optional<TensorView> performance_info = {};      ///< not yet
  int tp_world_size = 0;                                ///< 0 or 1; 2 not yet
  int tp_rank_id = 0;
  int expert_shard_type = 0;                ///< 0
  std::int64_t shared_expert_num = 1;       ///< S
  std::int64_t shared_expert_rank_num = 0;  ///< SR
  std::int64_t global_bs = 0;
  int comm_quant_mode = 0;  ///< 0 none, 2 int8 per 8 elements on the way back
  std::string_view comm_alg = {};
  std::int64_t zero_expert_num = 0;   ///< not yet
  std::int64_t copy_expert_num = 0;   ///< not yet
  std::int64_t const_expert_num = 0;  ///< not yet
};

/// Brings the rows back to their tokens and sums them: acc = 0; for k = 0..K-1 acc += row*w; then
/// the shared experts' rows and shared_expert_x with weight 1; float32, separate multiply and add,
/// rounded once. Returns (BS, H) of expand_x's dtype; a token that takes no part is zero.
/// Collective, blocking, errors: as dispatch. A pair that combine expects and no rank returns, or
/// that two rows claim, is kInvalidArgument on the token's rank, naming token and slot.
Result<Tensor> combine(Group& group, const CombineArgs& args);

}  // namespace waybill
