#pragma once

#include <utility>

#include "support/layer_case.h"
#include "waybill/setup.h"

namespace waybill {

/// The four calls of the set-up family by one rank of a layer, with the arguments they share.
struct SetupCalls {
  const testing::LayerCase& layer;
  int rank;

  DispatchSetupArgs dispatch_args() const {
    const DispatchArgs args = layer.dispatch_args(rank);
    return {.common = layer.setup_args(rank),
            .x = args.x,
            .scales = args.scales,
            .x_active_mask = args.x_active_mask,
            .quant_mode = args.quant_mode};
  }
  DispatchTeardownArgs dispatch_end(const Tensor& comm_cmd_info) const {
    return {.common = layer.setup_args(rank),
            .x = layer.x_view(rank),
            .comm_cmd_info = comm_cmd_info.view(),
            .quant_mode = layer.quantised ? 2 : 0};
  }
  /// `rows`: expand_x; `assist`: of dispatch_teardown.
  CombineSetupArgs combine_args(const TensorView& rows, const Tensor& assist) const {
    return {.common = layer.setup_args(rank),
            .expand_x = rows,
            .expand_x_owner = nullptr,
            .assist_info_for_combine = assist.view()};
  }
  CombineTeardownArgs combine_end(const TensorView& rows,
                                  const Tensor& expand_idx,
                                  const Tensor& comm_cmd_info) const {
    const auto& input = layer.ranks[static_cast<std::size_t>(rank)];
    return {.common = layer.setup_args(rank),
            .expand_x = rows,
            .expand_idx = expand_idx.view(),
            .expert_scales =
                TensorView::contiguous(input.weights.data(), DType::kFloat32, {input.bs, layer.k}),
            .comm_cmd_info = comm_cmd_info.view()};
  }
};

}  // namespace waybill
