#include "support/layer_case.h"

#include <algorithm>
#include <sstream>

namespace waybill::testing {

std::string LayerCase::describe() const {
  std::ostringstream text;
  text << "E=" << num_ranks << " H=" << h << " K=" << k << " M=" << num_experts
       << " S=" << num_shared << " SR=" << num_shared_ranks << " Z=" << num_zero
       << " C=" << num_copy << " N=" << num_constant << (wide_alphas ? " wide " : " ")
       << name_of(dtype) << " stride=" << x_stride << " quant=" << quantised << " smooth=" << smooth
       << " weighted=" << weighted << " type=" << nums_type << " gbs=" << global_bs
       << " comm=" << comm_quant_mode << " rows=" << static_cast<int>(expert_rows)
       << " form=" << static_cast<int>(form) << " norm=" << norm << " set_up=" << set_up
       << " tp_rank=" << tp_rank << " not_routed=" << not_routed << " elastic=";
  for (const std::int32_t value : given.info) {
    text << value << ",";
  }
  text << " BS=";
  for (const RankInput& rank : ranks) {
    text << rank.bs << "/" << static_cast<int>(rank.mask_form) << " ";
  }
  return text.str();
}

int LayerCase::rank_in_layer(int group_rank) const {
  if (!is_scaled_in()) {
    return group_rank;
  }
  const auto place = std::find(given.members.begin(), given.members.end(), group_rank);
  return place == given.members.end() ? -1 : static_cast<int>(place - given.members.begin());
}

bool LayerCase::unmasked(int rank, std::int64_t token, std::int64_t slot) const {
  const RankInput& input = ranks[static_cast<std::size_t>(rank)];
  switch (input.mask_form) {
    case MaskForm::kNone:
      return true;
    case MaskForm::kTokens:
      return input.mask[static_cast<std::size_t>(token)] != 0;
    case MaskForm::kPairs:
      return input.mask[static_cast<std::size_t>(token * k + slot)] != 0;
  }
  return false;
}

bool LayerCase::active(int rank, std::int64_t token, std::int64_t slot) const {
  const std::vector<std::int32_t>& ids = ranks[static_cast<std::size_t>(rank)].ids;
  return unmasked(rank, token, slot) && ids[static_cast<std::size_t>(token * k + slot)] != -1;
}

bool LayerCase::active(int rank, std::int64_t token) const {
  for (std::int64_t j = 0; j < k; ++j) {
    if (active(rank, token, j)) {
      return true;
    }
  }
  return false;
}

TensorView LayerCase::x_view(int rank) const {
  const RankInput& input = ranks[static_cast<std::size_t>(rank)];
  TensorView view = TensorView::contiguous(input.x.data(), dtype, {input.bs, h});
  view.strides = {x_stride, 1};
  return view;
}

namespace {

/// What dispatch and combine name alike.
template <typename Args>
void fill_common(const LayerCase& layer, int rank, Args& args) {
  const LayerCase::RankInput& input = layer.ranks[static_cast<std::size_t>(rank)];
  args.expert_ids = TensorView::contiguous(input.ids.data(), DType::kInt32, {input.bs, layer.k});
  args.layer.ep_world_size = layer.given_ranks();
  args.layer.ep_rank_id = layer.group_rank(rank);
  args.layer.moe_expert_num = layer.given_experts();
  if (input.mask_form == MaskForm::kTokens) {
    args.x_active_mask = TensorView::contiguous(input.mask.data(), DType::kBool, {input.bs});
  } else if (input.mask_form == MaskForm::kPairs) {
    args.x_active_mask =
        TensorView::contiguous(input.mask.data(), DType::kBool, {input.bs, layer.k});
  }
  args.layer.shared_expert_num = layer.num_shared;
  args.layer.shared_expert_rank_num = layer.given_shared_ranks();
  args.layer.global_bs = layer.global_bs;
  args.zero_expert_num = layer.num_zero;
  args.copy_expert_num = layer.num_copy;
  args.const_expert_num = layer.num_constant;
  args.form = layer.form;
  args.tp_world_size = layer.has_tp() ? 2 : 0;
  args.tp_rank_id = layer.has_tp() ? layer.tp_rank : 0;
  if (layer.elastic()) {
    args.elastic_info =
        TensorView::contiguous(layer.given.info.data(),
                               DType::kInt32,
                               {static_cast<std::int64_t>(layer.given.info.size())});
  }
}

}  // namespace

DispatchArgs LayerCase::dispatch_args(int rank) const {
  const RankInput& input = ranks[static_cast<std::size_t>(rank)];
  DispatchArgs args;
  fill_common(*this, rank, args);
  args.x = x_view(rank);
  if (smooth) {
    const std::int64_t rows = shared_experts() + (scale_of_shared ? 1 : 0) + given_experts();
    args.scales = TensorView::contiguous(input.smooth.data(), DType::kFloat32, {rows, h});
  }
  if (weighted) {
    args.expert_scales =
        TensorView::contiguous(input.dispatch_scales.data(), DType::kFloat32, {input.bs, k});
  }
  args.quant_mode = quantised ? 2 : 0;
  args.expert_token_nums_type = nums_type;
  return args;
}

CombineArgs LayerCase::combine_args(int rank,
                                    const TensorView& expand_x,
                                    const DispatchResult& dispatched) const {
  const RankInput& input = ranks[static_cast<std::size_t>(rank)];
  CombineArgs args;
  fill_common(*this, rank, args);
  args.expand_x = expand_x;
  args.assist_info_for_combine = dispatched.assist_info_for_combine.view();
  args.ep_send_counts = dispatched.ep_recv_counts.view();
  if (has_tp()) {
    args.tp_send_counts = dispatched.tp_recv_counts.view();
  }
  args.expert_scales = TensorView::contiguous(input.weights.data(), DType::kFloat32, {input.bs, k});
  if (input.with_shared_x) {
    args.shared_expert_x = TensorView::contiguous(input.shared_x.data(), dtype, {input.bs, h});
  }
  if (num_copy + num_constant > 0) {
    args.ori_x = TensorView::contiguous(input.ori_x.data(), dtype, {input.bs, h});
  }
  if (num_constant > 0) {
    const Dims alphas = wide_alphas ? Dims{num_constant, h} : Dims{num_constant};
    args.const_expert_alpha_1 = TensorView::contiguous(alpha_1.data(), dtype, alphas);
    args.const_expert_alpha_2 = TensorView::contiguous(alpha_2.data(), dtype, alphas);
    args.const_expert_v = TensorView::contiguous(const_v.data(), dtype, {num_constant, h});
  }
  args.comm_quant_mode = comm_quant_mode;
  return args;
}

CombineAddRmsNormArgs LayerCase::norm_args(int rank, const CombineArgs& combine) const {
  const RankInput& input = ranks[static_cast<std::size_t>(rank)];
  CombineAddRmsNormArgs args{.combine = combine};
  args.residual_x = TensorView::contiguous(input.residual.data(), dtype, {input.bs, 1, h});
  args.gamma = TensorView::contiguous(gamma.data(), dtype, {h});
  args.norm_eps = 1e-5;
  return args;
}

SetupCommonArgs LayerCase::setup_args(int rank) const {
  const RankInput& input = ranks[static_cast<std::size_t>(rank)];
  SetupCommonArgs args;
  args.expert_ids = TensorView::contiguous(input.ids.data(), DType::kInt32, {input.bs, k});
  args.layer.ep_world_size = num_ranks;
  args.layer.ep_rank_id = rank;
  args.layer.moe_expert_num = num_experts;
  args.layer.shared_expert_num = num_shared;
  args.layer.shared_expert_rank_num = num_shared_ranks;
  args.layer.global_bs = global_bs;
  return args;
}

void LayerCase::fill_expert_row(int rank, std::int64_t row, std::byte* out) const {
  std::mt19937_64 random(row_seed + static_cast<std::uint64_t>(rank * 100003 + row));
  fill_random(dtype, random, out, h);
}

}  // namespace waybill::testing
