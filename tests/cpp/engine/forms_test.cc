// The forms of combine_add_rms_norm, layers without routed experts, and inputs of any strides.
#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "support/ranks.h"
#include "waybill/combine.h"

namespace waybill {
namespace {

using testing::LayerCase;
using testing::plain_layer;
using testing::Ranks;
using testing::run_layer;
using testing::status_of;

/// What the norm reads beside combine's inputs.
LayerCase with_norm(LayerCase layer) {
  layer.norm = true;
  layer.gamma.resize(static_cast<std::size_t>(layer.h * 4), std::byte{0x3f});
  for (auto& rank : layer.ranks) {
    rank.residual.resize(static_cast<std::size_t>(rank.bs * layer.h * 4), std::byte{0x3e});
  }
  return layer;
}

TEST(AddRmsNorm, TriplesAndOccurrencesDoNotMeet) {
  Ranks ranks(2);
  const LayerCase layer = with_norm(plain_layer(2));
  LayerCase old = layer;
  old.form = IndexForm::kOccurrences;
  const auto results = ranks.run([&](Group& group) -> Status {
    const int rank = group.rank();
    auto first = dispatch(group, layer.dispatch_args(rank));
    auto second = dispatch(group, old.dispatch_args(rank));
    if (!first.ok() || !second.ok()) {
      return first.ok() ? second.status() : first.status();
    }
    const DispatchResult& sent = rank == 0 ? *first : *second;
    return combine_add_rms_norm(
               group, layer.norm_args(rank, layer.combine_args(rank, sent.expand_x.view(), sent)))
        .status();
  });
  for (const Status& status : results) {
    ASSERT_EQ(status.code(), StatusCode::kMismatch) << status.message();
    EXPECT_EQ(status.info().argument, "expand_idx");
    EXPECT_NE(status.message().find("triples on rank 0, occurrence indices on rank 1"),
              std::string::npos)
        << status.message();
  }
  ranks.expect_resets();
  ranks.expect_works();
}

/// Every token goes to the shared expert of rank 0 and to a zero expert; M = 0.
LayerCase without_routed_experts() {
  LayerCase layer = plain_layer(3);
  layer.num_experts = 0;
  layer.num_shared_ranks = 1;
  layer.num_zero = 1;
  for (auto& rank : layer.ranks) {
    rank.ids.assign(rank.ids.size(), 0);
  }
  return layer;
}

TEST(SharedExpertsOnly, EveryFormWorks) {
  Ranks ranks(3);
  for (const IndexForm form : {IndexForm::kTriples, IndexForm::kOccurrences}) {
    for (const bool norm : {false, true}) {
      // With the norm ranks 1 and 2, which can receive nothing, cannot know the form.
      LayerCase layer = without_routed_experts();
      layer.form = form;
      layer = norm ? with_norm(layer) : layer;
      testing::expect_all_ok(
          ranks.run([&](Group& group) { return status_of(run_layer(group, layer)); }));
    }
  }
}

TEST(SharedExpertsOnly, UnderElasticInfoToo) {
  Ranks ranks(3);
  LayerCase layer = without_routed_experts();
  layer.num_ranks = 2;
  layer.ranks.pop_back();
  layer.global_bs = 9;
  layer.given = {.num_ranks = 3,
                 .num_experts = 0,
                 .num_shared_ranks = 1,
                 .members = {2, 0},
                 .info = {1, 2, 1, 0, 1, -1, 0, 2, 0, -1}};
  testing::expect_all_ok(
      ranks.run([&](Group& group) { return status_of(run_layer(group, layer)); }));
}

/// A copy of a (rows, columns) float tensor whose columns are contiguous, seen as the original.
struct Transposed {
  std::vector<float> data;
  TensorView view;
  explicit Transposed(const TensorView& of) : view(of) {
    const bool vector = of.shape.rank() == 1;
    const std::int64_t rows = vector ? 1 : of.shape[0];
    const std::int64_t columns = of.shape[of.shape.rank() - 1];
    // Twice as far apart as they need to be, so that vectors have a stride, too.
    data.resize(static_cast<std::size_t>(2 * rows * columns));
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t c = 0; c < columns; ++c) {
        data[static_cast<std::size_t>(2 * (c * rows + r))] =
            static_cast<const float*>(of.data)[r * columns + c];
      }
    }
    view.data = data.data();
    view.strides = vector ? Dims{2} : Dims{2, 2 * rows};
  }
};

std::string bytes_of(const Tensor& tensor) {
  return {tensor.data<char>(),
          static_cast<std::size_t>(tensor.shape.product() * size_of(tensor.dtype))};
}

TEST(Strides, OfCombinesInputsChangeNothing) {
  Ranks ranks(1);
  LayerCase layer = with_norm(plain_layer(1));
  layer.num_copy = 1;
  layer.num_constant = 2;
  std::mt19937_64 random(3);
  for (auto* numbers : {&layer.alpha_1, &layer.alpha_2, &layer.const_v}) {
    numbers->resize(static_cast<std::size_t>(2 * layer.h * 4));
    testing::fill_random(layer.dtype, random, numbers->data(), 2 * layer.h);
  }
  testing::fill_random(layer.dtype, random, layer.ranks[0].ori_x.data(), 3 * layer.h);
  layer.ranks[0].ids = {2, 3, 4, 0, 1, 3};
  for (const bool wide : {false, true}) {
    layer.wide_alphas = wide;
    auto sent = dispatch(ranks[0], layer.dispatch_args(0));
    ASSERT_TRUE(sent.ok()) << sent.status().message();
    for (std::int64_t row = 0; row < sent->rows; ++row) {
      layer.fill_expert_row(0, row, sent->expand_x.buffer.data() + row * layer.h * 4);
    }
    const TensorView rows =
        TensorView::contiguous(sent->expand_x.buffer.data(), layer.dtype, {sent->rows, layer.h});
    CombineAddRmsNormArgs args = layer.norm_args(0, layer.combine_args(0, rows, *sent));
    args.residual_x = TensorView::contiguous(args.residual_x.data, layer.dtype, {3, layer.h});
    auto want = combine_add_rms_norm(ranks[0], args);
    ASSERT_TRUE(want.ok()) << want.status().message();
    EXPECT_EQ(testing::check_norm(layer, 0, *want), "");
    const Transposed expand_x(rows);
    const Transposed weights(args.combine.expert_scales);
    const Transposed ori_x(*args.combine.ori_x);
    const Transposed alpha_1(*args.combine.const_expert_alpha_1);
    const Transposed alpha_2(*args.combine.const_expert_alpha_2);
    const Transposed const_v(*args.combine.const_expert_v);
    const Transposed residual(args.residual_x);
    const Transposed gamma(args.gamma);
    args.combine.expand_x = expand_x.view;
    args.combine.expert_scales = weights.view;
    args.combine.ori_x = ori_x.view;
    args.combine.const_expert_alpha_1 = alpha_1.view;
    args.combine.const_expert_alpha_2 = alpha_2.view;
    args.combine.const_expert_v = const_v.view;
    args.residual_x = residual.view;
    args.gamma = gamma.view;
    auto got = combine_add_rms_norm(ranks[0], args);
    ASSERT_TRUE(got.ok()) << got.status().message();
    EXPECT_EQ(bytes_of(got->x), bytes_of(want->x));
    EXPECT_EQ(bytes_of(got->y), bytes_of(want->y));
    EXPECT_EQ(bytes_of(got->rstd), bytes_of(want->rstd));
  }
}

}  // namespace
}  // namespace waybill
