// A rank's windows stay within 1.2 x (2 x the rows of the largest call) + 1 MiB.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "support/ranks.h"

namespace waybill {
namespace {

using testing::ExpertRows;
using testing::LayerCase;

constexpr int kRanks = 4;
constexpr std::int64_t kTopK = 8;
constexpr std::int64_t kExperts = 24;
constexpr std::int64_t kWindow = std::int64_t{1} << 30;

struct Form {
  const char* name;
  DType dtype = DType::kBFloat16;
  bool quantised = false;
  bool smooth = false;
  ExpertRows rows = ExpertRows::kPrivate;
  int shared_ranks = 0;
  int comm_quant_mode = 0;
  bool skewed = false;  ///< everything goes to the lowest experts
};

const std::vector<Form> kForms = {
    {.name = "bfloat16"},
    {.name = "in_place", .rows = ExpertRows::kInPlace},
    {.name = "float32", .dtype = DType::kFloat32},
    {.name = "int8", .quantised = true},
    {.name = "int8_in_place", .quantised = true, .rows = ExpertRows::kExpertBuffer},
    {.name = "smooth", .quantised = true, .smooth = true, .rows = ExpertRows::kExpertBuffer},
    {.name = "smooth_private", .quantised = true, .smooth = true},
    {.name = "shared", .shared_ranks = 2},
    {.name = "shared_smooth",
     .quantised = true,
     .smooth = true,
     .rows = ExpertRows::kExpertBuffer,
     .shared_ranks = 2},
    {.name = "comm_int8", .comm_quant_mode = 2},
    {.name = "skewed", .skewed = true},
    {.name = "skewed_in_place",
     .quantised = true,
     .rows = ExpertRows::kExpertBuffer,
     .skewed = true},
};

LayerCase layer_of(const Form& form, std::int64_t bs, std::int64_t h) {
  LayerCase layer;
  layer.num_ranks = kRanks;
  layer.num_shared_ranks = form.shared_ranks;
  layer.h = h;
  layer.x_stride = h;
  layer.k = kTopK;
  layer.num_experts = kExperts;
  layer.dtype = form.dtype;
  layer.quantised = form.quantised;
  layer.smooth = form.smooth;
  layer.comm_quant_mode = form.comm_quant_mode;
  layer.weighted = true;
  for (int r = 0; r < kRanks; ++r) {
    LayerCase::RankInput input;
    input.bs = bs;
    input.x.resize(static_cast<std::size_t>(bs * h * size_of(form.dtype)), std::byte{0x3c});
    for (std::int64_t i = 0; i < bs * kTopK; ++i) {
      const std::int64_t spread = form.skewed ? 0 : 5 * (i / kTopK) + r;
      input.ids.push_back(static_cast<std::int32_t>((spread + i % kTopK) % kExperts));
    }
    if (form.smooth) {
      input.smooth.assign(static_cast<std::size_t>((layer.shared_experts() + kExperts) * h), 0.5F);
    }
    input.weights.assign(static_cast<std::size_t>(bs * kTopK), 0.125F);
    input.dispatch_scales = input.weights;
    layer.ranks.push_back(std::move(input));
  }
  return layer;
}

/// What the windows are to be measured by: bytes of the rows of the largest call, or of BS rows of
/// x where that is more.
std::int64_t row_bytes_of(const Form& form, const LayerCase& layer, std::int64_t rows_received) {
  const std::int64_t bs = layer.ranks[0].bs;
  const std::int64_t sent = form.smooth ? bs * (kTopK + layer.shared_experts()) : bs;
  const std::int64_t dispatched = sent * layer.h * (form.quantised ? 1 : size_of(form.dtype));
  const std::int64_t returned = rows_received * layer.h * size_of(form.dtype);
  return std::max(dispatched, form.rows == ExpertRows::kPrivate ? returned : 0);
}

/// Both halves get a dispatch and a combine: calls use the halves by turns. What the rank received.
Result<std::int64_t> fill_both_halves(Group& group, const Form& form, const LayerCase& layer) {
  DispatchResult sent;
  for (int i = 0; i < 2; ++i) {
    auto made = dispatch(group, layer.dispatch_args(group.rank()));
    if (!made.ok()) {
      return made.status();
    }
    sent = std::move(*made);
  }
  const std::int64_t rows = sent.rows;
  std::vector<std::byte> own;
  TensorView expert_rows = sent.expand_x.view();
  Tensor buffer;
  if (form.rows == ExpertRows::kPrivate) {
    own.resize(static_cast<std::size_t>(rows * layer.h * size_of(form.dtype)));
    expert_rows = TensorView::contiguous(own.data(), form.dtype, {rows, layer.h});
  } else if (form.rows == ExpertRows::kExpertBuffer) {
    auto made = group.expert_buffer(rows, layer.h, form.dtype);
    if (!made.ok()) {
      return made.status();
    }
    buffer = std::move(*made);
    expert_rows = buffer.view();
  }
  for (int i = 0; i < 2; ++i) {
    auto back = combine(group, layer.combine_args(group.rank(), expert_rows, sent));
    if (!back.ok()) {
      return back.status();
    }
  }
  return rows;
}

std::int64_t bound(std::int64_t row_bytes) { return 2 * row_bytes * 12 / 10 + (1 << 20); }

class MemoryBound : public ::testing::TestWithParam<Form> {
 protected:
  std::vector<Group> groups_ = [] {
    GroupOptions options;
    options.window_bytes = kWindow;
    options.threads = 1;
    auto groups = Group::local(kRanks, options);
    EXPECT_TRUE(groups.ok());
    return std::move(*groups);
  }();
};

TEST_P(MemoryBound, WindowsGrowWithTheRowsAndNotMore) {
  const Form& form = GetParam();
  std::vector<std::int64_t> largest(kRanks);
  // Largest rows at few tokens, largest batch at the smallest hidden size; then small calls again.
  for (const auto& [bs, h] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {1, 1024}, {1, 7168}, {7, 5120}, {32, 7168}, {512, 1024}, {3, 7168}}) {
    const LayerCase layer = layer_of(form, bs, h);
    testing::expect_all_ok(testing::on_threads(kRanks, [&](std::size_t r) {
      auto rows = fill_both_halves(groups_[r], form, layer);
      if (rows.ok()) {
        largest[r] = std::max(largest[r], row_bytes_of(form, layer, *rows));
      }
      return rows.status();
    }));
    for (std::size_t r = 0; r < kRanks; ++r) {
      const GroupStats stats = groups_[r].stats();
      EXPECT_LE(stats.window_bytes, bound(largest[r]))
          << "BS " << bs << " H " << h << " rank " << r << ": rows of " << largest[r] << " bytes";
      if (form.comm_quant_mode == 0) {  // else the rows that come back are smaller than x's
        EXPECT_GE(stats.window_bytes, 2 * largest[r]);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, MemoryBound, ::testing::ValuesIn(kForms), [](const auto& given) {
  return std::string(given.param.name);
});

}  // namespace
}  // namespace waybill
