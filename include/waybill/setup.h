#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "waybill/group.h"
#include "waybill/layer.h"
#include "waybill/status.h"
#include "waybill/tensor.h"
#include "waybill/tensor_view.h"

// dispatch and combine in two halves: setup publishes and returns without waiting for anybody,
// teardown waits and pulls; the caller computes in between. A pair is one call of the group. While
// a setup is open its teardown is the only legal call on the group; anything else is
// kInvalidState, takes no call number and leaves the setup open.
namespace waybill {

/// The arguments that all four have in common; letters and defaults as in DispatchArgs. Those of a
/// teardown equal those of its setup (else kInvalidState).
struct SetupCommonArgs {
  TensorView expert_ids = {};  ///< (BS, K) int32; not masked: [0, M) or -1
  LayerArgs layer = {};
  std::int64_t comm_type = 0;  ///< 0 or 2, without effect
};

/// npu_moe_distribute_dispatch_setup. S0 is shared_expert_num as passed.
struct DispatchSetupArgs {
  SetupCommonArgs common;
  TensorView x = {};  ///< (BS, H); read before setup returns
  /// (S0+M, H) float32, row S0+e for expert e; without shared ranks and S0 = 1 (M, H) too
  std::optional<TensorView> scales = {};
  std::optional<TensorView> x_active_mask = {};  ///< (BS,) bool
  int quant_mode = 0;
  std::optional<std::int64_t> y_dtype = {};  ///< absent
};

struct DispatchSetupResult {
  Tensor y;              ///< (BS*(K+S0), token_msg_size): reserved, nothing reads it
  Tensor expand_idx;     ///< (BS*K,) int32, as dispatch's with IndexForm::kOccurrences
  Tensor comm_cmd_info;  ///< ((BS*(K+S0) + E*localE)*16,) int32: opaque, for teardown
};

struct DispatchTeardownArgs {
  SetupCommonArgs common;
  TensorView x = {};              ///< only its shape and dtype are read
  TensorView comm_cmd_info = {};  ///< of the setup
  int quant_mode = 0;
  int expert_token_nums_type = 1;
};

struct DispatchTeardownResult {
  Tensor expand_x;                 ///< as dispatch's
  Tensor dynamic_scales;           ///< as dispatch's
  Tensor assist_info_for_combine;  ///< (max(A*128, E*localE),) int32: ep_recv_counts, unspecified
  Tensor expert_token_nums;        ///< as dispatch's
};

/// npu_moe_distribute_combine_setup.
struct CombineSetupArgs {
  SetupCommonArgs common;
  TensorView expand_x = {};  ///< (A, H); unchanged until teardown returns
  /// Held until teardown has returned: whatever keeps expand_x alive.
  std::shared_ptr<const void> expand_x_owner = {};
  TensorView assist_info_for_combine = {};  ///< of dispatch_teardown
  int comm_quant_mode = 0;
};

struct CombineSetupResult {
  Tensor quant_expand_x;  ///< (A, Align512(Align32(H) + Align8(H)/8*4)) int8: reserved
  Tensor comm_cmd_info;   ///< ((A+E)*16,) int32: opaque, for teardown
};

struct CombineTeardownArgs {
  SetupCommonArgs common;
  TensorView expand_x = {};                        ///< only its shape and dtype are read
  TensorView expand_idx = {};                      ///< (BS*K,) int32 of dispatch_setup
  TensorView expert_scales = {};                   ///< (BS, K) float32
  TensorView comm_cmd_info = {};                   ///< of the setup
  std::optional<TensorView> x_active_mask = {};    ///< (BS,) bool, the one dispatch_setup had
  std::optional<TensorView> shared_expert_x = {};  ///< as combine's
  int comm_quant_mode = 0;
};

/// Publishes; local after successful calls: waits for nobody. What it read may be overwritten at
/// once.
Result<DispatchSetupResult> dispatch_setup(Group& group, const DispatchSetupArgs& args);
/// Collective, blocking; errors as dispatch, those of other ranks' setups among them.
Result<DispatchTeardownResult> dispatch_teardown(Group& group, const DispatchTeardownArgs& args);
/// Publishes; local after successful calls. Rows in the pool are published without a copy.
Result<CombineSetupResult> combine_setup(Group& group, const CombineSetupArgs& args);
/// Collective, blocking; returns (BS, H) when every reader of expand_x is done.
Result<Tensor> combine_teardown(Group& group, const CombineTeardownArgs& args);

}  // namespace waybill
