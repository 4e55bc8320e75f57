#pragma once

#include <cstdint>
#include <optional>

#include "waybill/dispatch.h"
#include "waybill/group.h"
#include "waybill/layer.h"
#include "waybill/status.h"
#include "waybill/tensor.h"
#include "waybill/tensor_view.h"

namespace waybill {

/// Inputs of combine; letters as in DispatchArgs. Fields have the names and defaults of
/// npu_moe_distribute_combine_v2; with IndexForm::kOccurrences it is npu_moe_distribute_combine.
struct CombineArgs {
  /// (n, H) bfloat16, float16 or float32: the experts' outputs in the row order of dispatch, n >=
  /// rows received. Rows in the group's pool (outputs of dispatch, expert_buffer) are published
  /// without a copy; then combine returns when every reader is done.
  TensorView expand_x = {};
  TensorView expert_ids = {};  ///< (BS, K) int32, -1 where dispatch had it
  /// int32 triples from dispatch, at least 3*rows; kOccurrences: (BS*K,) int32 expand_idx
  TensorView assist_info_for_combine = {};
  TensorView ep_send_counts = {};  ///< int32, ep_recv_counts of dispatch
  TensorView expert_scales = {};   ///< (BS, K) float32, the weights
  LayerArgs layer = {};

  std::optional<TensorView> tp_send_counts = {};  ///< (2,) int32, needed when TP is 2, else ignored
  std::optional<TensorView> x_active_mask = {};   ///< (BS,) or (BS, K) bool
  std::optional<TensorView> expand_scales = {};   ///< accepted and not read
  std::optional<TensorView> shared_expert_x =
      {};  ///< (BS, H) or (a, b, H), a*b = BS; only when SR = 0
  std::optional<TensorView> elastic_info = {};          ///< as dispatch's
  std::optional<TensorView> ori_x = {};                 ///< (BS, H), needed when C or N is not 0
  std::optional<TensorView> const_expert_alpha_1 = {};  ///< (N,) or (N, H), needed when N is not 0
  std::optional<TensorView> const_expert_alpha_2 = {};  ///< like alpha_1
  std::optional<TensorView> const_expert_v = {};        ///< (N, H), needed when N is not 0
  std::optional<TensorView> performance_info = {};      ///< as dispatch's
  Group* tp_group = nullptr;                            ///< group_tp, when TP is 2
  int tp_world_size = 0;                                ///< TP: 0, 1 or 2
  int tp_rank_id = 0;
  int comm_quant_mode = 0;            ///< 0 none, 2 int8 per 8 elements on the way back
  std::int64_t zero_expert_num = 0;   ///< Z
  std::int64_t copy_expert_num = 0;   ///< C
  std::int64_t const_expert_num = 0;  ///< N
  IndexForm form = IndexForm::kTriples;
  // Of npu_moe_distribute_combine and ..._add_rms_norm; nothing but these values is accepted.
  std::optional<TensorView> activation_scale = {};  ///< absent
  std::optional<TensorView> weight_scale = {};      ///< absent
  std::optional<TensorView> group_list = {};        ///< absent
  std::int64_t out_dtype = 0;
  std::int64_t group_list_type = 0;
};

/// Brings the rows back to their tokens and sums them: acc = 0; for k = 0..K-1 acc += row*w, where
/// a zero expert adds nothing, a copy expert ori_x*w, a constant expert its own mix of ori_x and v
/// times w; then the shared experts' rows and shared_expert_x with weight 1; float32, separate
/// multiply and add, rounded once. With TP = 2 each row is first added to the peer's part of it.
/// Returns (BS, H) of expand_x's dtype; a token that takes no part is zero. Collective, blocking,
/// errors: as dispatch. A pair that combine expects and no rank returns, or that two rows claim, is
/// kInvalidArgument on the token's rank, naming token and slot: its group needs a reset, and the
/// others get kInvalidState in their next call. Rows of different dispatches are kMismatch on every
/// rank, and the group needs a reset.
Result<Tensor> combine(Group& group, const CombineArgs& args);

/// Inputs of combine_add_rms_norm, npu_moe_distribute_combine_add_rms_norm.
struct CombineAddRmsNormArgs {
  /// Of `combine` the form is not read: assist_info_for_combine holds triples when it has more than
  /// BS*K elements, else occurrence indices. performance_info is absent.
  CombineArgs combine;
  TensorView residual_x = {};  ///< (BS, 1, H) or (BS, H), dtype of expand_x
  TensorView gamma = {};       ///< (H,), dtype of expand_x
  double norm_eps = 1e-6;      ///< used as float32
};

struct CombineAddRmsNormResult {
  Tensor y;     ///< (BS, 1, H), dtype of expand_x
  Tensor rstd;  ///< (BS, 1, 1) float32
  Tensor x;     ///< (BS, 1, H), dtype of expand_x
};

/// combine, then with f = sum + residual (float32, before rounding): x = RNE(f),
/// rstd = 1/sqrt(sum over h of (f*f)*(1/H) + eps), y = RNE(float(RNE(f*rstd)) * gamma). The order
/// of the sum is the one of docs/numerics.md. A token that takes no part: zeros, rstd 0.
/// Collective, blocking, errors: as combine.
Result<CombineAddRmsNormResult> combine_add_rms_norm(Group& group,
                                                     const CombineAddRmsNormArgs& args);

}  // namespace waybill
