#include "support/layer_case.h"

#include <algorithm>
#include <cstring>
#include <sstream>

namespace waybill::testing {
namespace {

/// Random bits that are mostly ordinary numbers of the dtype.
void fill_random(DType dtype, std::mt19937_64& random, std::byte* out, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint64_t bits = random();
    if (dtype == DType::kFloat32) {
      // sign, exponent around 1, 23 bits of mantissa
      const auto value =
          static_cast<std::uint32_t>((bits & 0x807fffffU) | ((120 + (bits >> 40 & 15)) << 23));
      std::memcpy(out + 4 * i, &value, 4);
    } else if (dtype == DType::kBFloat16) {
      const auto value =
          static_cast<std::uint16_t>((bits & 0x807fU) | ((120 + (bits >> 40 & 15)) << 7));
      std::memcpy(out + 2 * i, &value, 2);
    } else {
      const auto value =
          static_cast<std::uint16_t>((bits & 0x83ffU) | ((10 + (bits >> 40 & 7)) << 10));
      std::memcpy(out + 2 * i, &value, 2);
    }
  }
}

class Draw {
 public:
  explicit Draw(std::uint64_t seed) : random_(seed) {}
  std::int64_t below(std::int64_t n) {
    return static_cast<std::int64_t>(random_() % static_cast<std::uint64_t>(n));
  }
  template <typename T>
  T of(std::initializer_list<T> values) {
    return values.begin()[below(static_cast<std::int64_t>(values.size()))];
  }
  bool one_in(std::int64_t n) { return below(n) == 0; }
  float unit() { return static_cast<float>(below(1 << 20)) / static_cast<float>(1 << 20); }
  std::mt19937_64& random() { return random_; }

 private:
  std::mt19937_64 random_;
};

void draw_experts(Draw& draw, LayerCase& layer, int max_ranks) {
  layer.num_ranks = static_cast<int>(1 + draw.below(max_ranks));
  if (layer.num_ranks > 1 && draw.one_in(3)) {
    layer.num_shared = static_cast<int>(1 + draw.below(std::min(4, layer.num_ranks - 1)));
    const std::int64_t most = (layer.num_ranks - 1) / layer.num_shared;
    layer.num_shared_ranks = static_cast<int>(layer.num_shared * (1 + draw.below(most)));
  } else {
    layer.num_shared = static_cast<int>(draw.below(2));
  }
  layer.num_experts = (layer.num_ranks - layer.num_shared_ranks) * (1 + draw.below(4));
}

void draw_rank(Draw& draw, LayerCase& layer, std::int64_t bs) {
  LayerCase::RankInput rank;
  rank.bs = bs;
  rank.mask_form = draw.of({MaskForm::kNone, MaskForm::kTokens, MaskForm::kPairs});
  const std::int64_t element = size_of(layer.dtype);
  rank.x.resize(static_cast<std::size_t>(std::max<std::int64_t>(bs * layer.x_stride * element, 1)));
  fill_random(layer.dtype, draw.random(), rank.x.data(), bs * layer.x_stride);
  rank.mask.resize(
      static_cast<std::size_t>(bs * (rank.mask_form == MaskForm::kPairs ? layer.k : 1)));
  for (auto& flag : rank.mask) {
    flag = draw.one_in(3) ? 0 : 1;
  }
  layer.ranks.push_back(std::move(rank));
  const int r = static_cast<int>(layer.ranks.size()) - 1;
  LayerCase::RankInput& input = layer.ranks.back();
  const bool distinct = layer.k <= layer.num_experts;
  for (std::int64_t t = 0; t < bs; ++t) {
    std::vector<std::int32_t> used;
    for (std::int64_t j = 0; j < layer.k; ++j) {
      std::int32_t id = static_cast<std::int32_t>(draw.below(layer.num_experts));
      while (distinct && std::find(used.begin(), used.end(), id) != used.end()) {
        id = static_cast<std::int32_t>((id + 1) % layer.num_experts);
      }
      used.push_back(id);
      input.ids.push_back(layer.active(r, t, j) ? id : -77);
      input.weights.push_back(draw.unit());
      input.dispatch_scales.push_back(draw.unit());
    }
  }
  const std::int64_t rows = layer.shared_experts() + layer.num_experts;
  for (std::int64_t i = 0; layer.smooth && i < rows * layer.h; ++i) {
    input.smooth.push_back(draw.unit() + 0.5F);
  }
  input.with_shared_x = layer.num_shared_ranks == 0 && draw.one_in(3);
  input.shared_x.resize(static_cast<std::size_t>(bs * layer.h * element));
  fill_random(layer.dtype, draw.random(), input.shared_x.data(), bs * layer.h);
}

}  // namespace

LayerCase draw_case(std::uint64_t seed, int max_ranks) {
  Draw draw(seed * 0x9e3779b97f4a7c15ULL + 1);
  LayerCase layer;
  draw_experts(draw, layer, max_ranks);
  layer.dtype = draw.of({DType::kBFloat16, DType::kFloat16, DType::kFloat32});
  layer.h = draw.of<std::int64_t>({1, 7, 8, 31, 64, 100, 257});
  layer.x_stride = layer.h + (draw.one_in(3) ? draw.below(5) : 0);
  // Without duplicates a rank never gets more than its capacity.
  layer.k = 1 + draw.below(std::min<std::int64_t>(layer.num_experts, 9));
  layer.quantised = draw.one_in(2);
  layer.smooth = layer.quantised && draw.one_in(2);
  layer.weighted = draw.one_in(2);
  layer.nums_type = static_cast<int>(draw.below(2));
  layer.comm_quant_mode = draw.one_in(3) ? 2 : 0;
  layer.expert_rows =
      draw.of({ExpertRows::kPrivate, ExpertRows::kInPlace, ExpertRows::kExpertBuffer});
  layer.row_seed = draw.random()();
  const bool equal = draw.one_in(2);
  const std::int64_t common = draw.below(9);
  std::int64_t most = 0;
  for (int r = 0; r < layer.num_ranks; ++r) {
    const std::int64_t bs = equal ? common : draw.below(9);
    most = std::max(most, bs);
    draw_rank(draw, layer, bs);
  }
  if (!equal || draw.one_in(3)) {
    layer.global_bs = layer.num_ranks * (std::max<std::int64_t>(most, 1) + draw.below(3));
  }
  return layer;
}

std::string LayerCase::describe() const {
  std::ostringstream text;
  text << "E=" << num_ranks << " H=" << h << " K=" << k << " M=" << num_experts
       << " S=" << num_shared << " SR=" << num_shared_ranks << " " << name_of(dtype)
       << " stride=" << x_stride << " quant=" << quantised << " smooth=" << smooth
       << " weighted=" << weighted << " type=" << nums_type << " gbs=" << global_bs
       << " comm=" << comm_quant_mode << " rows=" << static_cast<int>(expert_rows) << " BS=";
  for (const RankInput& rank : ranks) {
    text << rank.bs << "/" << static_cast<int>(rank.mask_form) << " ";
  }
  return text.str();
}

bool LayerCase::active(int rank, std::int64_t token, std::int64_t slot) const {
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

DispatchArgs LayerCase::dispatch_args(int rank) const {
  const RankInput& input = ranks[static_cast<std::size_t>(rank)];
  DispatchArgs args;
  args.x = x_view(rank);
  args.expert_ids = TensorView::contiguous(input.ids.data(), DType::kInt32, {input.bs, k});
  args.ep_world_size = num_ranks;
  args.ep_rank_id = rank;
  args.moe_expert_num = num_experts;
  if (smooth) {
    args.scales = TensorView::contiguous(
        input.smooth.data(), DType::kFloat32, {shared_experts() + num_experts, h});
  }
  if (input.mask_form == MaskForm::kTokens) {
    args.x_active_mask = TensorView::contiguous(input.mask.data(), DType::kBool, {input.bs});
  } else if (input.mask_form == MaskForm::kPairs) {
    args.x_active_mask = TensorView::contiguous(input.mask.data(), DType::kBool, {input.bs, k});
  }
  if (weighted) {
    args.expert_scales =
        TensorView::contiguous(input.dispatch_scales.data(), DType::kFloat32, {input.bs, k});
  }
  args.shared_expert_num = num_shared;
  args.shared_expert_rank_num = num_shared_ranks;
  args.quant_mode = quantised ? 2 : 0;
  args.global_bs = global_bs;
  args.expert_token_nums_type = nums_type;
  return args;
}

CombineArgs LayerCase::combine_args(int rank,
                                    const TensorView& expand_x,
                                    const DispatchResult& dispatched) const {
  const RankInput& input = ranks[static_cast<std::size_t>(rank)];
  const DispatchArgs sent = dispatch_args(rank);
  CombineArgs args;
  args.expand_x = expand_x;
  args.expert_ids = sent.expert_ids;
  args.assist_info_for_combine = dispatched.assist_info_for_combine.view();
  args.ep_send_counts = dispatched.ep_recv_counts.view();
  args.expert_scales = TensorView::contiguous(input.weights.data(), DType::kFloat32, {input.bs, k});
  args.ep_world_size = num_ranks;
  args.ep_rank_id = rank;
  args.moe_expert_num = num_experts;
  args.x_active_mask = sent.x_active_mask;
  if (input.with_shared_x) {
    args.shared_expert_x = TensorView::contiguous(input.shared_x.data(), dtype, {input.bs, h});
  }
  args.shared_expert_num = num_shared;
  args.shared_expert_rank_num = num_shared_ranks;
  args.global_bs = global_bs;
  args.comm_quant_mode = comm_quant_mode;
  return args;
}

void LayerCase::fill_expert_row(int rank, std::int64_t row, std::byte* out) const {
  std::mt19937_64 random(row_seed + static_cast<std::uint64_t>(rank * 100003 + row));
  fill_random(dtype, random, out, h);
}

}  // namespace waybill::testing
