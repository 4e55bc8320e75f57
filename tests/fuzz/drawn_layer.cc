#include "drawn_layer.h"

#include <algorithm>

namespace waybill::fuzz {

DrawnLayer::DrawnLayer(Draw& draw, bool tp) {
  num_ranks = static_cast<int>(draw.in(1, 4));
  rank = static_cast<int>(draw.in(0, num_ranks - 1));
  h = draw.flag() ? draw.in(1, 9) : draw.in(1, 70);
  k = draw.in(1, 3);
  bs = draw.in(0, 4);
  global_bs = draw.flag() ? 0 : num_ranks * (bs + draw.in(0, 2));
  experts_per_rank = tp ? 1 : draw.in(0, 3);
  if (draw.flag()) {
    num_shared_ranks = draw.in(0, num_ranks - 1);
    num_shared = num_shared_ranks % 2 == 0 && draw.flag() ? 2 : 1;
    num_shared = num_shared_ranks == 0 ? 1 : num_shared;
  }
  num_experts = experts_per_rank * (num_ranks - num_shared_ranks);
  if (draw.flag()) {
    num_zero = draw.in(0, 2);
    num_copy = draw.in(0, 2);
    num_constant = draw.in(0, 2);
  }
  dtype = draw.row_dtype();
  quantised = draw.flag();
  comm_quant_mode = !tp && draw.flag() ? 2 : 0;
  if (!tp && draw.seldom()) {
    draw_elastic(draw);
  }
  const std::int64_t all = num_experts + num_zero + num_copy + num_constant;
  for (std::int64_t i = 0; i < bs * k; ++i) {
    ids.push_back(static_cast<std::int32_t>(all == 0 || draw.seldom() ? draw.in(-1, all + 1)
                                                                      : draw.in(0, all - 1)));
  }
}

/// Leaves out the last ranks, or nobody; the tables may have a wrong element.
void DrawnLayer::draw_elastic(Draw& draw) {
  const auto now = static_cast<std::int32_t>(draw.in(rank + 1, num_ranks));
  const auto shared = static_cast<std::int32_t>(std::min<std::int64_t>(num_shared_ranks, now - 1));
  elastic = {draw.flag() ? 1 : 0,
             now,
             shared,
             static_cast<std::int32_t>(experts_per_rank) * (now - shared)};
  for (int table = 0; table < 2; ++table) {
    for (std::int32_t r = 0; r < num_ranks; ++r) {
      elastic.push_back(r < now ? r : -1);
    }
  }
  if (draw.seldom()) {
    elastic[draw.index(elastic.size())] = static_cast<std::int32_t>(draw.in(-2, 5));
  }
}

template <typename Args>
void DrawnLayer::set_common(Args& args, Draw& draw) const {
  args.expert_ids = ids_view(draw);
  args.layer.ep_world_size = num_ranks;
  args.layer.ep_rank_id = rank;
  args.layer.moe_expert_num = num_experts;
  args.layer.shared_expert_num = num_shared;
  args.layer.shared_expert_rank_num = num_shared_ranks;
  args.layer.global_bs = global_bs;
  args.layer.comm_alg = draw.comm_alg();
}

TensorView DrawnLayer::ids_view(Draw& draw) const {
  return draw.wild_tensor(DType::kInt32, {bs, k}, [this](std::int64_t i) {
    return static_cast<std::size_t>(i) < ids.size() ? ids[static_cast<std::size_t>(i)] : 0;
  });
}

std::optional<TensorView> DrawnLayer::mask(Draw& draw, bool of_tokens) const {
  if (!draw.flag()) {
    return std::nullopt;
  }
  const auto value = [&draw](std::int64_t) { return draw.in(0, 1); };
  return of_tokens || draw.flag() ? draw.wild_tensor(DType::kBool, {bs}, value)
                                  : draw.wild_tensor(DType::kBool, {bs, k}, value);
}

DispatchArgs DrawnLayer::dispatch_args(Draw& draw) const {
  DispatchArgs args;
  set_common(args, draw);
  args.x = draw.wild_tensor(dtype, {bs, h});
  args.quant_mode = quantised ? 2 : 0;
  if (quantised && draw.flag()) {
    const std::int64_t shared = num_shared_ranks == 0 ? 0 : num_shared;
    args.scales = draw.wild_tensor(DType::kFloat32, {shared + num_experts, h});
  }
  args.x_active_mask = mask(draw, false);
  if (draw.flag()) {
    args.expert_scales = draw.wild_tensor(DType::kFloat32, {bs, k});
  }
  args.zero_expert_num = num_zero;
  args.copy_expert_num = num_copy;
  args.const_expert_num = num_constant;
  args.expert_token_nums_type = draw.flag() ? 1 : 0;
  if (!elastic.empty()) {
    args.elastic_info =
        draw.tensor(DType::kInt32, {static_cast<std::int64_t>(elastic.size())}, [this](auto i) {
          return elastic[static_cast<std::size_t>(i)];
        });
  }
  if (draw.seldom()) {
    args.performance_info = draw.wild_tensor(DType::kInt64, {num_ranks});
  }
  return args;
}

std::vector<window::ReturnEntry> DrawnLayer::places() const {
  std::vector<window::ReturnEntry> places;
  const std::int64_t shared = num_shared_ranks == 0 ? 0 : num_shared;
  for (std::int64_t t = 0; t < bs; ++t) {
    for (std::int64_t slot = 0; slot < k + shared; ++slot) {
      const std::int64_t id = slot < k ? ids[static_cast<std::size_t>(t * k + slot)] : -1;
      if (slot >= k || (id >= 0 && id < num_experts)) {
        places.push_back({static_cast<std::int32_t>(places.size()),
                          static_cast<std::int32_t>(t),
                          static_cast<std::int32_t>(slot)});
      }
    }
  }
  return places;
}

std::vector<std::int64_t> DrawnLayer::local_experts() const {
  std::vector<std::int64_t> local(static_cast<std::size_t>(num_ranks), experts_per_rank);
  std::fill_n(local.begin(), num_shared_ranks, 1);
  return local;
}

TensorView DrawnLayer::counts(Draw& draw, std::int64_t rows) const {
  const bool shared = rank < num_shared_ranks;
  const std::int64_t cells = num_ranks * (shared ? 1 : experts_per_rank);
  std::int64_t sum = 0;
  return draw.wild_tensor(DType::kInt32, {cells}, [&, rows](std::int64_t i) {
    sum = i + 1 == cells ? rows : std::min(rows, sum + draw.in(0, 2));
    return draw.seldom() ? sum + draw.in(-2, 2) : sum;
  });
}

CombineArgs DrawnLayer::combine_args(Draw& draw,
                                     const TensorView& expand_x,
                                     std::int64_t rows) const {
  CombineArgs args;
  set_common(args, draw);
  args.expand_x = expand_x;
  args.form = draw.flag() ? IndexForm::kTriples : IndexForm::kOccurrences;
  const std::int64_t most_bs = global_bs == 0 ? bs : global_bs / num_ranks;
  const std::int64_t slots = k + (num_shared_ranks == 0 ? 0 : num_shared);
  if (args.form == IndexForm::kTriples) {
    const std::int64_t limits[] = {num_ranks, most_bs, slots};
    // add_rms_norm takes it for triples when it is longer than the ids.
    const std::int64_t length = std::max(3 * rows, bs * k + 1);
    args.assist_info_for_combine = draw.wild_tensor(DType::kInt32, {length}, [&](std::int64_t i) {
      return draw.in(0, std::max<std::int64_t>(limits[i % 3] - 1, 0)) - (draw.seldom() ? 1 : 0);
    });
  } else {
    args.assist_info_for_combine =
        draw.wild_tensor(DType::kInt32, {bs * k}, [&](auto) { return draw.in(0, 2); });
  }
  args.ep_send_counts = counts(draw, rows);
  args.expert_scales = draw.wild_tensor(DType::kFloat32, {bs, k});
  args.x_active_mask = mask(draw, false);
  if (num_shared_ranks == 0 && draw.flag()) {
    args.shared_expert_x =
        draw.flag() ? draw.wild_tensor(dtype, {bs, h}) : draw.wild_tensor(dtype, {1, bs, h});
  }
  args.comm_quant_mode = comm_quant_mode;
  args.zero_expert_num = num_zero;
  args.copy_expert_num = num_copy;
  args.const_expert_num = num_constant;
  if (num_copy + num_constant > 0) {
    args.ori_x = draw.wild_tensor(dtype, {bs, h});
  }
  if (num_constant > 0) {
    const Dims alphas = draw.flag() ? Dims{num_constant} : Dims{num_constant, h};
    args.const_expert_alpha_1 = draw.wild_tensor(dtype, alphas);
    args.const_expert_alpha_2 = draw.wild_tensor(dtype, alphas);
    args.const_expert_v = draw.wild_tensor(dtype, {num_constant, h});
  }
  if (!elastic.empty()) {
    args.elastic_info =
        draw.tensor(DType::kInt32, {static_cast<std::int64_t>(elastic.size())}, [this](auto i) {
          return elastic[static_cast<std::size_t>(i)];
        });
  }
  return args;
}

CombineAddRmsNormArgs DrawnLayer::norm_args(Draw& draw, const CombineArgs& combine) const {
  CombineAddRmsNormArgs args;
  args.combine = combine;
  args.residual_x =
      draw.flag() ? draw.wild_tensor(dtype, {bs, 1, h}) : draw.wild_tensor(dtype, {bs, h});
  args.gamma = draw.wild_tensor(dtype, {h});
  return args;
}

SetupCommonArgs DrawnLayer::common_args(Draw& draw) const {
  SetupCommonArgs args;
  set_common(args, draw);
  args.comm_type = draw.seldom() ? draw.in(0, 3) : 0;
  return args;
}

}  // namespace waybill::fuzz
