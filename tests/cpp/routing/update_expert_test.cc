#include "waybill/update_expert.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "numerics/convert.h"

namespace waybill {
namespace {

using Ids = std::vector<std::int64_t>;
using Mask = std::vector<std::uint8_t>;

/// A matrix with room between its elements, so that strides matter.
template <typename T>
struct Spread {
  std::vector<T> data;
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t step;
  DType dtype;

  Spread(std::int64_t num_rows, std::int64_t num_columns, std::int64_t room, DType type, T filler)
      : data(static_cast<std::size_t>(num_rows * num_columns * room), filler),
        rows(num_rows),
        columns(num_columns),
        step(room),
        dtype(type) {}

  /// Columns lie one behind the other when there is room, as in a transposed tensor.
  Dims strides() const { return step == 1 ? Dims{columns, 1} : Dims{step, rows * step}; }
  T& operator()(std::int64_t row, std::int64_t column) {
    return data[static_cast<std::size_t>(row * strides()[0] + column * strides()[1])];
  }
  TensorView view() const { return {data.data(), dtype, {rows, columns}, strides(), 2}; }
  /// A row as a vector.
  TensorView vector() const { return {data.data(), dtype, {columns}, {strides()[1]}, 1}; }
  TensorView column() const { return {data.data(), dtype, {rows}, {strides()[0]}, 1}; }
};

std::vector<std::int32_t> remap(const std::vector<std::int32_t>& ids,
                                Dims shape,
                                const std::vector<std::int32_t>& table,
                                Dims table_shape,
                                UpdateExpertArgs args) {
  args.expert_ids = TensorView::contiguous(ids.data(), DType::kInt32, shape);
  args.eplb_table = TensorView::contiguous(table.data(), DType::kInt32, table_shape);
  std::vector<std::int32_t> balanced(ids.size(), -1);
  Mask mask(ids.size(), 9);
  const Status status = update_expert(args, balanced.data(), mask.data());
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(mask, Mask(ids.size(), 1));
  return balanced;
}

// Expert 0 once, expert 1 three times, expert 2 twice.
const std::vector<std::int32_t> kTable = {1, 4, -1, -1, 3, 0, 2, 5, 2, 1, 3, -1};

TEST(UpdateExpert, BalancesByRank) {
  const std::vector<std::int32_t> ids = {0, 1, 2};
  // ceil(4/3) = 2 ranks for an instance of expert 1, ceil(4/2) = 2 for one of expert 2.
  const std::vector<std::vector<std::int32_t>> want = {{4, 0, 1}, {4, 0, 1}, {4, 2, 3}, {4, 2, 3}};
  for (std::int64_t rank = 0; rank < 4; ++rank) {
    const auto got = remap(ids, {1, 3}, kTable, {3, 4}, {.local_rank_id = rank, .world_size = 4});
    EXPECT_EQ(got, want[static_cast<std::size_t>(rank)]);
    std::vector<std::int32_t> same(3);
    const EplbUpdateExpertArgs args{
        .expert_ids = TensorView::contiguous(ids.data(), DType::kInt32, {1, 3}),
        .eplb_table = TensorView::contiguous(kTable.data(), DType::kInt32, {3, 4}),
        .local_rank_id = rank,
        .world_size = 4};
    ASSERT_TRUE(eplb_update_expert(args, same.data()).ok());
    EXPECT_EQ(same, got);
  }
}

TEST(UpdateExpert, BalancesByToken) {
  const std::vector<std::int32_t> ids = {1, 2, 1, 2, 1, 2, 1, 0};
  EXPECT_EQ(remap(ids, {4, 2}, kTable, {3, 4}, {.balance_mode = 1}),
            (std::vector<std::int32_t>{0, 1, 2, 3, 5, 1, 0, 4}));
}

/// One token's mask.
Mask pruned(const std::vector<float>& scales,
            const std::vector<float>& threshold,
            std::optional<bool> active = {},
            std::vector<std::int32_t> ids = {}) {
  const auto k = static_cast<std::int64_t>(scales.size());
  ids.resize(scales.size(), 0);
  const std::uint8_t mask = active.value_or(false) ? 1 : 0;
  UpdateExpertArgs args{
      .expert_ids = TensorView::contiguous(ids.data(), DType::kInt32, {1, k}),
      .eplb_table = TensorView::contiguous(kTable.data(), DType::kInt32, {3, 4}),
      .expert_scales = TensorView::contiguous(scales.data(), DType::kFloat32, {1, k}),
      .pruning_threshold = TensorView::contiguous(threshold.data(), DType::kFloat32, {k}),
      .balance_mode = 1};
  if (active) {
    args.active_mask = TensorView::contiguous(&mask, DType::kBool, {1});
  }
  std::vector<std::int32_t> balanced(scales.size());
  Mask keep(scales.size(), 9);
  const Status status = update_expert(args, balanced.data(), keep.data());
  EXPECT_TRUE(status.ok()) << status.message();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    EXPECT_EQ(balanced[i], active.value_or(true) && ids[i] != -1 ? 4 : ids[i]);
  }
  return keep;
}

TEST(UpdateExpert, PrunesPairsOfLittleWeight) {
  EXPECT_EQ(pruned({0.5f, 0.25f, 0.25f}, {0.5f, 0.3f, 0.2f}), (Mask{1, 0, 1}));  // equality keeps
  EXPECT_EQ(pruned({0.5f, 0.5f}, {0.0f, 0.0f}, true), (Mask{1, 1}));
  EXPECT_EQ(pruned({0.5f, 0.5f}, {0.0f, 0.0f}, false), (Mask{0, 0}));
}

TEST(UpdateExpert, NotRoutedIsNotWeighed) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  // Without the NaN the sum is 0.75.
  EXPECT_EQ(pruned({nan, 0.5f, 0.25f}, {0.0f, 0.5f, 0.5f}, {}, {-1, 0, 0}), (Mask{0, 1, 0}));
  EXPECT_EQ(pruned({0.5f, 0.5f}, {-1.0f, -1.0f}, true, {-1, -1}), (Mask{0, 0}));
}

TEST(UpdateExpert, LeavesTheIdsOfInactiveTokensAlone) {
  EXPECT_EQ(pruned({0.5f, 0.5f}, {0.0f, 0.0f}, false, {99, -7}), (Mask{0, 0}));
}

TEST(UpdateExpert, KeepsMinusOneWithoutScales) {
  const std::vector<std::int32_t> ids = {-1, 0, 2, -1};
  std::vector<std::int32_t> balanced(4, -5);
  Mask mask(4, 9);
  const UpdateExpertArgs args{
      .expert_ids = TensorView::contiguous(ids.data(), DType::kInt32, {2, 2}),
      .eplb_table = TensorView::contiguous(kTable.data(), DType::kInt32, {3, 4}),
      .local_rank_id = 0,
      .world_size = 4};
  ASSERT_TRUE(update_expert(args, balanced.data(), mask.data()).ok());
  EXPECT_EQ(balanced, (std::vector<std::int32_t>{-1, 4, 1, -1}));
  EXPECT_EQ(mask, (Mask{0, 1, 1, 0}));
  const EplbUpdateExpertArgs eplb{.expert_ids = args.expert_ids,
                                  .eplb_table = args.eplb_table,
                                  .local_rank_id = 0,
                                  .world_size = 4};
  std::vector<std::int32_t> same(4, -5);
  ASSERT_TRUE(eplb_update_expert(eplb, same.data()).ok());
  EXPECT_EQ(same, balanced);
}

TEST(UpdateExpert, NanPrunes) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(pruned({nan, 1.0f}, {0.0f, 0.0f}), (Mask{0, 0}));  // the sum is NaN
  EXPECT_EQ(pruned({1.0f, 1.0f}, {nan, 0.5f}), (Mask{0, 1}));
}

TEST(UpdateExpert, SumsInTheOrderOfK) {
  // (1 + 2^-24) + 2^-24 = 1, but (2^-24 + 2^-24) + 1 > 1.
  EXPECT_EQ(pruned({1.0f, 0x1p-24f, 0x1p-24f}, {1.0f, 0.0f, 0.0f})[0], 1);
  EXPECT_EQ(pruned({0x1p-24f, 0x1p-24f, 1.0f}, {0.0f, 0.0f, 1.0f})[2], 0);
}

TEST(UpdateExpert, WritesNothingWhenAnArgumentIsBad) {
  const std::vector<std::int32_t> ids = {0, 3};
  const UpdateExpertArgs args{
      .expert_ids = TensorView::contiguous(ids.data(), DType::kInt32, {1, 2}),
      .eplb_table = TensorView::contiguous(kTable.data(), DType::kInt32, {3, 4}),
      .local_rank_id = 0,
      .world_size = 4};
  std::vector<std::int32_t> balanced(2, -1);
  Mask mask(2, 9);
  EXPECT_EQ(update_expert(args, balanced.data(), mask.data()).info().argument, "expert_ids");
  EXPECT_EQ(balanced, (std::vector<std::int32_t>{-1, -1}));
  EXPECT_EQ(mask, (Mask{9, 9}));
}

TEST(UpdateExpert, AnEmptyBatchNeedsNoMemory) {
  const UpdateExpertArgs args{
      .expert_ids = TensorView::contiguous(nullptr, DType::kInt64, {0, 2}),
      .eplb_table = TensorView::contiguous(kTable.data(), DType::kInt32, {3, 4}),
      .local_rank_id = 0,
      .world_size = 4};
  EXPECT_TRUE(update_expert(args, nullptr, nullptr).ok());
}

TEST(UpdateExpert, StrictModesComeFromTheCallOrTheEnvironment) {
  const std::vector<std::int32_t> ids = {0};
  UpdateExpertArgs args{.expert_ids = TensorView::contiguous(ids.data(), DType::kInt32, {1, 1}),
                        .eplb_table = TensorView::contiguous(kTable.data(), DType::kInt32, {3, 4}),
                        .local_rank_id = 0,
                        .world_size = 4};
  std::int32_t balanced = -1;
  std::uint8_t mask = 9;
  const auto argument = [&] {
    const Status status = update_expert(args, &balanced, &mask);
    return status.ok() ? std::string() : status.info().argument;
  };
  EXPECT_EQ(argument(), "");
  ASSERT_EQ(setenv("WAYBILL_STRICT", "a2", 1), 0);
  EXPECT_EQ(argument(), "strict");
  args.strict = Strict::kA3;  // six instances on four ranks
  EXPECT_EQ(argument(), "eplb_table");
  ASSERT_EQ(unsetenv("WAYBILL_STRICT"), 0);
}

/// A drawn call with strided inputs, beside the plain numbers that a model reads.
struct Drawn {
  std::int64_t bs = *rc::gen::inRange<std::int64_t>(0, 9);
  std::int64_t k = *rc::gen::inRange<std::int64_t>(1, 9);
  std::int64_t experts = *rc::gen::inRange<std::int64_t>(1, 9);
  std::int64_t columns = *rc::gen::inRange<std::int64_t>(2, 8);
  std::int64_t world = *rc::gen::inRange<std::int64_t>(columns - 1, 40);
  std::int64_t rank = *rc::gen::inRange<std::int64_t>(0, world);
  std::int64_t mode = *rc::gen::inRange<std::int64_t>(0, 2);
  std::int64_t room = *rc::gen::inRange<std::int64_t>(1, 4);
  bool has_scales = *rc::gen::arbitrary<bool>();
  bool has_mask = *rc::gen::arbitrary<bool>();
  bool flat_threshold = *rc::gen::arbitrary<bool>();
  Spread<std::int32_t> table{experts, columns, room, DType::kInt32, -1};
  Spread<std::uint8_t> mask{bs, 1, room, DType::kBool, 7};
  Spread<float> threshold{1, k, room, DType::kFloat32, NAN};

  Drawn() {
    for (std::int64_t e = 0; e < experts; ++e) {
      table(e, 0) = *rc::gen::inRange(1, static_cast<int>(columns));
      for (std::int32_t i = 1; i <= table(e, 0); ++i) {
        table(e, i) = *rc::gen::inRange(0, 1000);
      }
    }
    for (std::int64_t t = 0; t < bs; ++t) {
      mask(t, 0) = *rc::gen::arbitrary<bool>() ? 1 : 0;
    }
    for (std::int64_t i = 0; i < k; ++i) {
      threshold(0, i) = *rc::gen::element(0.0f, 0.125f, 0.25f, 0.5f, 1.0f / 3.0f, -1.0f);
    }
  }

  std::int64_t instance(std::int64_t token, std::int64_t expert) {
    const std::int64_t count = table(expert, 0);
    std::int64_t which = token % count;
    if (mode == 0) {
      which = rank / ((world + count - 1) / count);
    }
    return table(expert, 1 + which);
  }
};

template <typename Id, typename Scale, typename ToFloat>
void compare_with_model(DType id_type, DType scale_type, ToFloat to_float, auto draw_scale) {
  Drawn drawn;
  Spread<Id> ids(drawn.bs, drawn.k, drawn.room, id_type, -1);
  Spread<Scale> scales(drawn.bs, drawn.k, drawn.room, scale_type, Scale{});
  Ids want;
  Mask want_mask;
  for (std::int64_t t = 0; t < drawn.bs; ++t) {
    float sum = 0.0f;
    for (std::int64_t i = 0; i < drawn.k; ++i) {
      const bool active = !drawn.has_mask || drawn.mask(t, 0) != 0;
      const auto expert = *rc::gen::inRange<std::int64_t>(active ? -1 : -9, drawn.experts);
      ids(t, i) = static_cast<Id>(expert);
      scales(t, i) = draw_scale();
      sum += expert == -1 ? 0.0f : to_float(scales(t, i));
      want.push_back(active && expert != -1 ? drawn.instance(t, expert) : expert);
    }
    for (std::int64_t i = 0; i < drawn.k; ++i) {
      bool keep = (!drawn.has_mask || drawn.mask(t, 0) != 0) && ids(t, i) != -1;
      if (drawn.has_scales) {
        keep = keep && to_float(scales(t, i)) >= drawn.threshold(0, i) * sum;
      }
      want_mask.push_back(keep ? 1 : 0);
    }
  }
  UpdateExpertArgs args{.expert_ids = ids.view(),
                        .eplb_table = drawn.table.view(),
                        .local_rank_id = drawn.rank,
                        .world_size = drawn.world,
                        .balance_mode = drawn.mode};
  if (drawn.has_scales) {
    args.expert_scales = scales.view();
    args.pruning_threshold =
        drawn.flat_threshold ? drawn.threshold.vector() : drawn.threshold.view();
  }
  if (drawn.has_mask) {
    args.active_mask = drawn.mask.column();
  }
  std::vector<Id> balanced(want.size(), -1);
  Mask mask(want.size(), 9);
  const Status status = update_expert(args, balanced.data(), mask.data());
  RC_ASSERT(status.message() == "ok");
  RC_ASSERT(Ids(balanced.begin(), balanced.end()) == want);
  RC_ASSERT(mask == want_mask);
}

float draw_weight() {
  return *rc::gen::element(0.0f, 0.1f, 0.25f, 0.5f, 1.0f, 0x1p-20f, -0.5f, NAN, INFINITY);
}

RC_GTEST_PROP(UpdateExpert, IsTheNaiveModelOfIntIdsAndFloatScales, ()) {
  compare_with_model<std::int32_t, float>(
      DType::kInt32, DType::kFloat32, [](float f) { return f; }, draw_weight);
}

RC_GTEST_PROP(UpdateExpert, IsTheNaiveModelOfLongIdsAndBfloatScales, ()) {
  compare_with_model<std::int64_t, std::uint16_t>(
      DType::kInt64, DType::kBFloat16, numerics::bfloat16_to_float, [] {
        return numerics::float_to_bfloat16(draw_weight());
      });
}

RC_GTEST_PROP(UpdateExpert, IsTheNaiveModelOfLongIdsAndHalfScales, ()) {
  compare_with_model<std::int64_t, std::uint16_t>(
      DType::kInt64, DType::kFloat16, numerics::float16_to_float, [] {
        return numerics::float_to_float16(draw_weight());
      });
}

TEST(UpdateExpert, ErrorsReachTheCallerOfBothOperators) {
  const std::vector<std::int32_t> ids = {0, 5};
  const std::vector<std::int32_t> table = {1, 0, 1, 1};
  UpdateExpertArgs args{
      .expert_ids = TensorView::contiguous(ids.data(), DType::kInt32, {1, 2}),
      .eplb_table = TensorView::contiguous(table.data(), DType::kInt32, {2, 2}),
      .local_rank_id = 0,
      .world_size = 1,
  };
  const EplbUpdateExpertArgs eplb{.expert_ids = args.expert_ids,
                                  .eplb_table = args.eplb_table,
                                  .local_rank_id = 0,
                                  .world_size = 1};
  std::vector<std::int32_t> balanced(2, -1);
  Mask mask(2);
  const std::string text = "expected ids in [0, 2), the rows of eplb_table (-1";
  for (const Status& status : {update_expert(args, balanced.data(), mask.data()),
                               eplb_update_expert(eplb, balanced.data())}) {
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find("argument expert_ids: " + text), std::string::npos)
        << status.message();
  }
  setenv("WAYBILL_STRICT", "a9", 1);
  for (const Status& status : {update_expert(args, balanced.data(), mask.data()),
                               eplb_update_expert(eplb, balanced.data())}) {
    EXPECT_EQ(status.message(), "WAYBILL_STRICT: expected a2 or a3, got 'a9'");
  }
  unsetenv("WAYBILL_STRICT");
  EXPECT_EQ(balanced, std::vector<std::int32_t>(2, -1)) << "nothing was written";
}

}  // namespace
}  // namespace waybill
