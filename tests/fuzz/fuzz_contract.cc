// Arbitrary arguments. Each call of the contract ends with an error about an argument, or with
// numbers that keep their invariants: the shapes of docs/contract/operators.md section 2, and
// layouts whose sections lie one behind the other.

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "contract/agreement.h"
#include "contract/combine_contract.h"
#include "contract/dispatch_contract.h"
#include "contract/layer.h"
#include "drawing.h"
#include "window/layout.h"

namespace waybill::fuzz {
namespace {

using contract::Agreed;
using contract::Agreement;
using contract::CombineShape;
using contract::DispatchShape;
using contract::GroupFacts;
using contract::Layer;
using contract::Operator;
using window::Section;

/// Sizes that most calls agree in, so that not each is refused by the first check.
struct Sizes {
  GroupFacts group;
  std::int64_t bs, h, k, num_shared, num_shared_ranks, num_experts, num_constant, global_bs;
  DType dtype;
};

Sizes draw_sizes(Draw& draw) {
  Sizes sizes{};
  sizes.group.world_size = static_cast<int>(draw.seldom() ? draw.in(1, 1024) : draw.in(1, 64));
  sizes.group.rank = static_cast<int>(draw.in(0, sizes.group.world_size - 1));
  sizes.group.tp_world_size = static_cast<int>(draw.in(0, 2));
  sizes.group.tp_rank = sizes.group.tp_world_size < 2 ? 0 : static_cast<int>(draw.in(0, 1));
  sizes.group.strict = static_cast<Strict>(draw.in(0, 2));
  sizes.group.hccl_buffsize_mb = draw.in(1, 1 << 20);
  const bool large = draw.seldom();
  sizes.bs = large ? draw.any() : draw.in(0, 9);
  sizes.h = large ? draw.any() : draw.flag() ? draw.in(1, 40) : draw.in(32, 256) * 32;
  sizes.k = large ? draw.any() : draw.in(1, 9);
  const std::int64_t ranks = sizes.group.world_size;
  sizes.num_shared = draw.in(1, 4);
  sizes.num_shared_ranks =
      draw.flag() ? draw.in(0, (ranks - 1) / sizes.num_shared) * sizes.num_shared : 0;
  sizes.num_shared = sizes.num_shared_ranks == 0 ? 1 : sizes.num_shared;
  const std::int64_t local = draw.seldom() ? draw.in(0, 1 << 20) : draw.in(0, 30);
  sizes.num_experts = local * (ranks - sizes.num_shared_ranks);
  sizes.num_constant = draw.seldom() ? draw.in(0, 3) : 0;
  sizes.global_bs = draw.flag() ? 0 : ranks * draw.in(0, 12);
  sizes.dtype = draw.row_dtype();
  return sizes;
}

template <typename Args>
void set_common(Args& args, Draw& draw, const Sizes& sizes) {
  args.layer.ep_world_size = draw.wild_int(sizes.group.world_size);
  args.layer.ep_rank_id = draw.wild_int(sizes.group.rank);
  args.layer.moe_expert_num = draw.wild(sizes.num_experts);
  args.layer.shared_expert_num = draw.wild(sizes.num_shared);
  args.layer.shared_expert_rank_num = draw.wild(sizes.num_shared_ranks);
  args.layer.global_bs = draw.wild(sizes.global_bs);
  args.tp_world_size = draw.seldom() ? static_cast<int>(draw.in(-1, 3)) : 0;
  args.tp_rank_id = draw.wild_int(sizes.group.tp_rank);
  args.layer.expert_shard_type = draw.wild_int(0);
  args.layer.comm_alg = draw.comm_alg();
  args.zero_expert_num = draw.wild(0);
  args.copy_expert_num = draw.wild(0);
  args.const_expert_num = draw.wild(sizes.num_constant);
  args.expert_ids = draw.wild_tensor(DType::kInt32, {sizes.bs, sizes.k});
  if (draw.seldom()) {
    args.x_active_mask = draw.flag() ? draw.wild_tensor(DType::kBool, {sizes.bs})
                                     : draw.wild_tensor(DType::kBool, {sizes.bs, sizes.k});
  }
  if (draw.seldom()) {
    const std::int64_t ranks = sizes.group.world_size;
    args.elastic_info = draw.wild_tensor(DType::kInt32, {4 + 2 * ranks}, [&](std::int64_t i) {
      return i == 0   ? draw.in(0, 1)
             : i == 1 ? ranks
             : i == 2 ? sizes.num_shared_ranks
             : i == 3 ? sizes.num_experts
                      : (i - 4) % ranks;
    });
  }
  if (draw.seldom()) {
    args.performance_info = draw.wild_tensor(DType::kInt64, {sizes.group.world_size});
  }
}

/// A, as docs/contract/operators.md section 2 has it.
__int128 capacity(const Layer& layer, std::int64_t k) {
  const contract::Topology& given = layer.given;
  const std::int64_t moe_ranks = given.num_ranks - given.num_shared_ranks;
  const __int128 routed =
      static_cast<__int128>(layer.gbs) * std::min(given.num_experts / moe_ranks, k);
  if (given.num_shared_ranks == 0) {
    return routed;
  }
  const std::int64_t each = given.num_shared_ranks / given.num_shared;
  const __int128 shared =
      static_cast<__int128>(layer.gbs / given.num_ranks) * ((given.num_ranks + each - 1) / each);
  if (layer.elastic.given) {
    return std::max(routed, shared);
  }
  return given.rank < given.num_shared_ranks ? shared : routed;
}

void check_layer(const Layer& layer, const Sizes& sizes, std::int64_t bs, std::int64_t k) {
  const contract::Topology& now = layer.topology;
  const contract::Topology& given = layer.given;
  expect(given.num_ranks == sizes.group.world_size && given.rank == sizes.group.rank,
         "the group's ranks");
  expect(now.num_ranks >= 1 && now.num_ranks <= given.num_ranks && now.rank >= 0 &&
             now.rank < now.num_ranks,
         "the own rank among those in force");
  expect(now.num_shared_ranks >= 0 && now.num_shared_ranks < now.num_ranks, "0 <= SR < E");
  expect(now.num_experts >= 0 && now.num_experts <= given.num_experts, "newM <= M");
  expect(now.special_begin == given.num_experts && now.special_end >= now.special_begin &&
             now.special_end < (std::int64_t{1} << 31),
         "special ids after those of M");
  expect(bs >= 0 && k >= 1 && layer.gbs >= bs * given.num_ranks &&
             layer.gbs % given.num_ranks == 0 && layer.max_bs() >= bs,
         "GBS that holds BS");
  const __int128 most = capacity(layer, k);
  expect(most == layer.capacity_of(given.rank, k), "A of section 2");
  expect(most >= 0 && most * 128 < (__int128{1} << 31), "triples of A rows in int32");
  for (int r = 0; r < now.num_ranks; ++r) {
    expect(layer.elastic.members[r] >= 0 && layer.elastic.members[r] < given.num_ranks,
           "members that are ranks");
  }
}

/// Sections on lines of their own, one behind the other; their end.
void check_sections(std::span<const Section> sections, std::int64_t end) {
  std::int64_t last = 0;
  for (const Section& section : sections) {
    expect(section.bytes >= 0 && section.offset >= last && section.offset % 64 == 0,
           "sections one behind the other");
    last = section.offset + section.bytes;
  }
  expect(end >= last && end - last < 64, "an end behind the last section");
}

void check_dispatch_layout(const DispatchShape& shape) {
  const std::int64_t pairs = shape.bs * shape.k;
  const std::int64_t shared = shape.topology.num_shared;
  const auto layout =
      window::DispatchLayout::of({.num_ranks = shape.topology.num_ranks,
                                  .num_experts = shape.topology.num_experts,
                                  .num_entries = pairs,
                                  .num_active = shared > 0 ? shape.bs : 0,
                                  .num_weights = shape.weighted ? pairs : 0,
                                  .num_rows = shape.smooth ? pairs + shared * shape.bs : shape.bs,
                                  .row_bytes = shape.row_bytes(),
                                  .quantised = shape.quantised});
  check_sections(std::vector<Section>{layout.rows_to,
                                      layout.expert_offsets,
                                      layout.entries,
                                      layout.active,
                                      layout.weights,
                                      layout.row_scales,
                                      layout.rows},
                 layout.end);
}

void check_outputs(const DispatchShape& shape) {
  const contract::DispatchOutputs outputs = contract::output_shapes(shape);
  const __int128 a = capacity(shape, shape.k);
  const std::int64_t parts = shape.tp_world_size == 2 ? 2 : 1;
  const bool shared = shape.given.rank < shape.given.num_shared_ranks;
  const std::int64_t l =
      shape.given.num_experts / (shape.given.num_ranks - shape.given.num_shared_ranks);
  const std::int64_t local = shape.elastic.given ? std::max<std::int64_t>(l, 1) : (shared ? 1 : l);
  __int128 counts = static_cast<__int128>(parts) * shape.given.num_ranks * local;
  if (shape.weighted) {
    counts +=
        static_cast<__int128>(2) * shape.gbs * shape.k * std::max(shape.given.num_ranks / 8, 1);
  }
  const __int128 pairs = static_cast<__int128>(shape.bs) * shape.k;
  expect(outputs.expand_x[0] == a * parts && outputs.expand_x[1] == shape.h, "(A*TP, H)");
  expect(outputs.dynamic_scales[0] == a * parts, "(A*TP,)");
  expect(
      outputs.assist_info_for_combine[0] == (shape.occurrences ? pairs : std::max(pairs, a * 128)),
      "the size of the third output");
  expect(outputs.expert_token_nums[0] == local, "(localE,)");
  expect(outputs.ep_recv_counts[0] == counts && counts < (__int128{1} << 60), "(E*localE,)");
  expect(outputs.tp_recv_counts[0] == shape.tp_world_size, "(TP,)");
  expect(outputs.expand_scales[0] == a, "(A,)");
  expect(a * parts * shape.h * 8 < (__int128{1} << 62), "bytes that are counted in 63 bits");
}

void dispatch(Draw& draw, const Sizes& sizes) {
  DispatchArgs args;
  set_common(args, draw, sizes);
  args.x = draw.wild_tensor(sizes.dtype, {sizes.bs, sizes.h});
  args.quant_mode = draw.seldom() ? static_cast<int>(draw.any()) : draw.flag() ? 2 : 0;
  if (args.quant_mode == 2 && draw.flag()) {
    const std::int64_t shared = sizes.num_shared_ranks == 0 ? 0 : sizes.num_shared;
    args.scales = draw.wild_tensor(DType::kFloat32, {shared + sizes.num_experts, sizes.h});
  }
  if (draw.flag()) {
    args.expert_scales = draw.wild_tensor(DType::kFloat32, {sizes.bs, sizes.k});
  }
  args.expert_token_nums_type = draw.wild_int(1);
  std::optional<std::int64_t>* const reserved[] = {
      &args.y_dtype, &args.x_dtype, &args.scales_dtype};
  if (draw.seldom()) {
    *reserved[draw.index(std::size(reserved))] = draw.any();
  }
  args.form = draw.flag() ? IndexForm::kTriples : IndexForm::kOccurrences;
  const Operator op = draw.seldom() ? Operator::kDispatchSetup : contract::operator_of(args);
  const auto shape = contract::check_dispatch(sizes.group, args, op);
  if (!shape.ok()) {
    expect_error(shape.status(), StatusCode::kInvalidArgument);
    return;
  }
  check_layer(*shape, sizes, shape->bs, shape->k);
  check_outputs(*shape);
  check_dispatch_layout(*shape);
  expect(shape->first_scale_row >= 0 &&
             (!args.scales ||
              shape->first_scale_row + shape->given.num_experts == args.scales->shape[0]),
         "a row of scales for each expert");
}

CombineArgs draw_combine(Draw& draw, const Sizes& sizes) {
  CombineArgs args;
  set_common(args, draw, sizes);
  const bool shared = sizes.group.rank < sizes.num_shared_ranks;
  const std::int64_t local = sizes.num_experts / (sizes.group.world_size - sizes.num_shared_ranks);
  const std::int64_t cells = sizes.group.world_size * (shared ? 1 : local);
  const std::int64_t rows = draw.in(0, 20);
  args.expand_x = draw.wild_tensor(sizes.dtype, {rows + draw.in(0, 3), sizes.h});
  // The counts are read in whole: an expanded vector of any size would take for ever.
  if (count_elements({cells})) {
    args.ep_send_counts = draw.wild_tensor(DType::kInt32, {cells}, [&](std::int64_t i) {
      return i + 1 == cells ? rows : draw.seldom() ? draw.any() : rows / 2;
    });
  } else {
    args.ep_send_counts = draw.tensor(DType::kInt32, {8});
  }
  args.assist_info_for_combine =
      draw.wild_tensor(DType::kInt32, {std::max(3 * rows, draw.in(0, 90))});
  args.expert_scales = draw.wild_tensor(DType::kFloat32, {sizes.bs, sizes.k});
  if (draw.flag()) {
    args.tp_send_counts = draw.wild_tensor(DType::kInt32, {2});
  }
  if (draw.seldom()) {
    args.shared_expert_x = draw.flag() ? draw.wild_tensor(sizes.dtype, {sizes.bs, sizes.h})
                                       : draw.wild_tensor(sizes.dtype, {1, sizes.bs, sizes.h});
  }
  if (draw.seldom() || sizes.num_constant > 0) {
    const Dims alphas = draw.flag() ? Dims{sizes.num_constant} : Dims{sizes.num_constant, sizes.h};
    args.ori_x = draw.wild_tensor(sizes.dtype, {sizes.bs, sizes.h});
    args.const_expert_alpha_1 = draw.wild_tensor(sizes.dtype, alphas);
    args.const_expert_alpha_2 = draw.wild_tensor(sizes.dtype, alphas);
    args.const_expert_v = draw.wild_tensor(sizes.dtype, {sizes.num_constant, sizes.h});
  }
  args.comm_quant_mode = draw.seldom() ? static_cast<int>(draw.any()) : draw.flag() ? 2 : 0;
  if (draw.seldom()) {
    args.group_list = draw.tensor(DType::kInt64, {1});
  }
  args.out_dtype = draw.wild(0);
  args.group_list_type = draw.wild(0);
  args.form = draw.flag() ? IndexForm::kTriples : IndexForm::kOccurrences;
  return args;
}

void check_combine_layout(const CombineShape& shape) {
  const std::int64_t groups = (shape.h + 7) / 8;
  const auto layout = window::CombineLayout::of(
      {.num_ranks = shape.topology.num_ranks,
       .num_entries = shape.rows,
       .num_counts = shape.topology.num_ranks * shape.local_experts(),
       .copied_rows = shape.rows,
       .row_bytes = shape.quantised ? shape.h : shape.h * size_of(shape.dtype),
       .scales_bytes = shape.quantised ? groups * size_of(shape.dtype) : 0});
  check_sections(
      std::vector<Section>{
          layout.owner_offsets, layout.entries, layout.counts, layout.scales, layout.rows},
      layout.end);
}

void combine(Draw& draw, const Sizes& sizes) {
  CombineAddRmsNormArgs args{.combine = draw_combine(draw, sizes)};
  args.residual_x = draw.flag() ? draw.wild_tensor(sizes.dtype, {sizes.bs, 1, sizes.h})
                                : draw.wild_tensor(sizes.dtype, {sizes.bs, sizes.h});
  args.gamma = draw.wild_tensor(sizes.dtype, {sizes.h});
  const Operator ops[] = {
      contract::operator_of(args.combine), Operator::kCombineAddRmsNorm, Operator::kCombineSetup};
  const Operator op = ops[draw.index(std::size(ops))];
  const auto shape = op == Operator::kCombineSetup
                         ? contract::check_rows(sizes.group, args.combine, op)
                         : contract::check_combine(sizes.group, args.combine, op);
  if (!shape.ok()) {
    expect_error(shape.status(), StatusCode::kInvalidArgument);
    return;
  }
  check_layer(*shape, sizes, shape->bs, shape->k);
  check_combine_layout(*shape);
  const TensorView& x = args.combine.expand_x;
  expect(shape->rows >= 0 && shape->peer_rows >= 0 && shape->rows + shape->peer_rows <= x.shape[0],
         "rows that expand_x has");
  expect(shape->slots() >= shape->k && shape->h == x.shape[1], "the slots of a token");
  expect(shape->form != contract::kFormTriples ||
             args.combine.assist_info_for_combine.shape[0] >= 3 * shape->rows,
         "a triple a row");
  static_cast<void>(x.is_contiguous());
  if (op == Operator::kCombineSetup) {
    const Status tokens =
        contract::check_tokens(sizes.group, *shape, args.combine, Operator::kCombineTeardown);
    expect(tokens.ok() || tokens.code() == StatusCode::kInvalidArgument, "an argument's error");
  } else if (op == Operator::kCombineAddRmsNorm) {
    const Status norm = contract::check_norm(sizes.group, *shape, args);
    expect(norm.ok() || norm.code() == StatusCode::kInvalidArgument, "an argument's error");
  }
}

/// Agreements of several ranks: an error where they differ, which names ranks of the call.
void agreement(Draw& draw) {
  const auto ranks = static_cast<std::size_t>(draw.in(1, 6));
  std::vector<Agreement> by_rank(ranks);
  std::vector<int> members;
  Agreement common;
  for (std::int64_t& value : common.values) {
    value = draw.seldom() ? draw.any() : draw.in(0, 2);
  }
  for (Agreement& one : by_rank) {
    one = common;
    members.push_back(static_cast<int>(members.size()) * 2);
    if (draw.flag()) {
      one.values[draw.index(one.values.size())] = draw.flag() ? draw.in(-1, 3) : draw.any();
    }
  }
  const auto form = static_cast<std::size_t>(Agreed::kForm);
  const auto mark = static_cast<std::size_t>(Agreed::kDispatchCall);
  bool differ = false;
  for (const Agreement& a : by_rank) {
    for (const Agreement& b : by_rank) {
      for (std::size_t i = 0; i < a.values.size(); ++i) {
        const std::int64_t unknown = i == form ? contract::kFormUnknown : contract::kUnmarked;
        const bool either =
            (i == form || i == mark) && (a.values[i] == unknown || b.values[i] == unknown);
        differ = differ || (a.values[i] != b.values[i] && !either);
      }
    }
  }
  const contract::Checker check(Operator::kDispatchV2, {.world_size = 16});
  const std::vector<std::uint32_t> completed(by_rank.size(), 0);
  const Status status = contract::compare(check, by_rank, members, completed).status;
  expect(status.ok() != differ, "an error where ranks differ");
  if (differ) {
    expect_error(status, StatusCode::kMismatch);
    for (const int rank : status.info().ranks) {
      expect(std::find(members.begin(), members.end(), rank) != members.end(), "ranks of the call");
    }
  }
}

void run(Draw& draw) {
  switch (draw.in(0, 4)) {
    case 0:
      agreement(draw);
      break;
    case 1:
    case 2:
      dispatch(draw, draw_sizes(draw));
      break;
    default:
      combine(draw, draw_sizes(draw));
  }
}

}  // namespace
}  // namespace waybill::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  waybill::fuzz::Draw draw(data, size);
  waybill::fuzz::run(draw);
  return 0;
}
