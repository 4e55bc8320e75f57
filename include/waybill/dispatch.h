#pragma once

#include <cstdint>
#include <optional>

#include "waybill/group.h"
#include "waybill/layer.h"
#include "waybill/status.h"
#include "waybill/tensor.h"
#include "waybill/tensor_view.h"

namespace waybill {

/// How rows are told apart on their way back.
enum class IndexForm : std::uint8_t {
  kTriples,      ///< assist_info_for_combine: (source rank, token, slot) a row; the _v2 operators
  kOccurrences,  ///< expand_idx: a (token, k)'s place among its rank's rows for the same expert
};

/// Inputs of dispatch. Letters: E ranks of the group, BS rows of x on this rank, H hidden size,
/// K top-k, M MoE experts, SR ranks of shared experts, S shared experts (0 when SR is 0),
/// L = M/(E-SR) experts of a MoE rank, GBS = global_bs or BS*E, maxBS = GBS/E, Z, C, N numbers of
/// zero, copy and constant experts. Fields have the names and defaults of
/// npu_moe_distribute_dispatch_v2; with IndexForm::kOccurrences it is npu_moe_distribute_dispatch.
struct DispatchArgs {
  TensorView x = {};           ///< (BS, H) bfloat16, float16 or float32; BS may be 0
  TensorView expert_ids = {};  ///< (BS, K) int32, K >= 1; not masked: [0, M+Z+C+N) or -1
  LayerArgs layer = {};

  std::optional<TensorView> scales =
      {};  ///< (S+M, H) float32, smooth scales; only with quant_mode 2
  std::optional<TensorView> x_active_mask = {};  ///< (BS,) or (BS, K) bool, any pattern
  std::optional<TensorView> expert_scales =
      {};  ///< (BS, K) float32; gives expand_scales and A2 counts
  /// (4+2E,) int32: [flag, newE, newSR, newM, old to new rank or -1, new to old rank or -1]. With
  /// the flag set only the ranks it names take part, under their new numbers.
  std::optional<TensorView> elastic_info = {};
  /// (E,) int64, written to: microseconds waited for each rank, where more than what is there
  std::optional<TensorView> performance_info = {};
  Group* tp_group = nullptr;          ///< group_tp: the two ranks that exchange rows when TP is 2
  int tp_world_size = 0;              ///< TP: 0, 1 or 2; 2 needs L = 1 and no elastic_info
  int tp_rank_id = 0;                 ///< position in tp_group when TP is 2
  int quant_mode = 0;                 ///< 0 none, 2 int8 per row
  int expert_token_nums_type = 1;     ///< 1 counts, 0 inclusive prefix sums
  std::int64_t zero_expert_num = 0;   ///< Z, ids [M, M+Z): nothing is sent
  std::int64_t copy_expert_num = 0;   ///< C, the ids after those
  std::int64_t const_expert_num = 0;  ///< N, the ids after those
  std::optional<std::int64_t> y_dtype = {};       ///< absent
  std::optional<std::int64_t> x_dtype = {};       ///< must be absent
  std::optional<std::int64_t> scales_dtype = {};  ///< must be absent
  IndexForm form = IndexForm::kTriples;
};

/// Outputs of dispatch. A, the most rows a rank can receive: GBS*min(L,K) on a MoE rank,
/// maxBS*ceil(E/R) on a shared rank (R = SR/S), with elastic_info the larger of the two. With TP =
/// 2 expand_x and dynamic_scales have 2*A rows: this rank's, directly followed by its peer's.
struct DispatchResult {
  /// (A, H), dtype of x, int8 with quant_mode 2. Received rows from row 0 on, ordered by (local
  /// expert, source rank, flat position t*K+k), on a shared rank by (source rank, token). Rows past
  /// the count are unspecified.
  Tensor expand_x;
  Tensor dynamic_scales;  ///< (A,) float32, per received row with quant_mode 2
  /// (max(BS*K, A*128),) int32: (source rank, token, slot) a row received. kOccurrences: (BS*K,)
  /// int32, how many earlier (t,k) of this rank chose the same expert.
  Tensor assist_info_for_combine;
  Tensor expert_token_nums;  ///< (L,), on a shared rank (1,), int64; elastic (max(1,L),)
  Tensor ep_recv_counts;     ///< (E*L,), shared rank (E,), int32 inclusive prefix sums; A2: longer
  Tensor tp_recv_counts;     ///< (TP,) int32: rows of each TP rank; zeros when TP is not 2
  Tensor expand_scales;   ///< (A,) float32: expert_scales of each row, 1 for shared experts' rows
  std::int64_t rows = 0;  ///< rows received, without the TP peer's
};

/// Sends every active token to the ranks that own its experts.
/// Collective among the ranks of the group; blocks until all have published, at most the group's
/// timeout. Bad arguments (kInvalidArgument) and a shortage of memory (kOutOfMemory) are found
/// before anything is sent, and are kMismatch on the other ranks. Arguments that differ between
/// ranks are kMismatch on every rank, more rows for a rank than it has memory for kOutOfMemory on
/// every rank. After these the group can be used at once, unless the message says that it needs a
/// reset.
/// Formula of quant_mode 2: per row amax = max|x*scale|, q = RNE(x*scale*(127/amax)),
/// dynamic_scale = 1/(127/amax), all in float32.
Result<DispatchResult> dispatch(Group& group, const DispatchArgs& args);

}  // namespace waybill
