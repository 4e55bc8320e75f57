#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <vector>

#include "calls.h"
#include "contract/dispatch_contract.h"
#include "contract/topology.h"

namespace waybill::contract {
namespace {

/// The sizes of a layer, and the outputs of dispatch on one of its ranks.
struct Layer {
  int e = 1;
  std::int64_t m = 1;
  std::int64_t bs = 1;
  std::int64_t k = 1;
  std::int64_t h = 16;
  int s = 1;
  int sr = 0;
  std::int64_t global_bs = 0;
  int quant_mode = 0;
  bool weighted = false;
  int tp = 0;
  std::vector<std::int32_t> elastic = {};

  DispatchOutputs outputs(int rank) const {
    DispatchArgs args{.x = shaped(DType::kBFloat16, {bs, h}),
                      .expert_ids = shaped(DType::kInt32, {bs, k}),
                      .layer = {.ep_world_size = e,
                                .ep_rank_id = rank,
                                .moe_expert_num = m,
                                .shared_expert_num = s,
                                .shared_expert_rank_num = sr,
                                .global_bs = global_bs},
                      .tp_world_size = tp,
                      .quant_mode = quant_mode};
    if (weighted) {
      args.expert_scales = shaped(DType::kFloat32, {bs, k});
    }
    if (!elastic.empty()) {
      args.elastic_info = TensorView::contiguous(
          elastic.data(), DType::kInt32, {static_cast<std::int64_t>(elastic.size())});
    }
    const auto shape = check_dispatch({.rank = rank, .world_size = e}, args);
    EXPECT_TRUE(shape.ok()) << shape.status().message();
    return output_shapes(*shape);
  }
};

TEST(OutputShapes, ThoseOfTheContractsExample) {
  // docs/contract/operators.md section 2: x (32, 256) bfloat16, K 8, E 16, M 16, defaults.
  const Layer layer{.e = 16, .m = 16, .bs = 32, .k = 8, .h = 256};
  for (int rank : {0, 15}) {
    const DispatchOutputs outputs = layer.outputs(rank);
    EXPECT_EQ(outputs.expand_x, (Dims{512, 256}));
    EXPECT_EQ(outputs.expand_x_dtype, DType::kBFloat16);
    EXPECT_EQ(outputs.dynamic_scales, (Dims{512}));
    EXPECT_EQ(outputs.assist_info_for_combine, (Dims{65536}));
    EXPECT_EQ(outputs.expert_token_nums, (Dims{1}));
    EXPECT_EQ(outputs.ep_recv_counts, (Dims{16}));
    EXPECT_EQ(outputs.tp_recv_counts, (Dims{0}));
    EXPECT_EQ(outputs.expand_scales, (Dims{512}));
  }
}

TEST(OutputShapes, ThoseOfTheWorkedExample) {
  // docs/contract/operators.md section 9: E=2, M=4, BS=2, K=2.
  const Layer layer{.e = 2, .m = 4, .bs = 2, .k = 2};
  const DispatchOutputs outputs = layer.outputs(1);
  EXPECT_EQ(outputs.expand_x, (Dims{8, 16}));
  EXPECT_EQ(outputs.assist_info_for_combine, (Dims{1024}));
  EXPECT_EQ(outputs.expert_token_nums, (Dims{2}));
  EXPECT_EQ(outputs.ep_recv_counts, (Dims{4}));
}

TEST(OutputShapes, QuantisedRowsAreInt8) {
  const Layer layer{.e = 2, .m = 4, .bs = 2, .k = 2, .quant_mode = 2};
  EXPECT_EQ(layer.outputs(0).expand_x_dtype, DType::kInt8);
}

TEST(OutputShapes, SharedRanksReceiveATokenOnce) {
  // R = SR/S = 2 ranks for each of two shared experts; six MoE ranks with two experts each.
  const Layer layer{.e = 10, .m = 12, .bs = 3, .k = 4, .s = 2, .sr = 4};
  const DispatchOutputs shared = layer.outputs(3);
  EXPECT_EQ(shared.expand_x, (Dims{3 * 5, 16}));
  EXPECT_EQ(shared.expert_token_nums, (Dims{1}));
  EXPECT_EQ(shared.ep_recv_counts, (Dims{10}));
  const DispatchOutputs moe = layer.outputs(4);
  EXPECT_EQ(moe.expand_x, (Dims{30 * 2, 16}));
  EXPECT_EQ(moe.expert_token_nums, (Dims{2}));
  EXPECT_EQ(moe.ep_recv_counts, (Dims{20}));
}

TEST(OutputShapes, SourcesThatDoNotDivideAreRoundedUp) {
  // E = 5, R = 3: two sources at most for one of the shared ranks.
  const Layer layer{.e = 5, .m = 2, .bs = 7, .k = 1, .s = 1, .sr = 3};
  EXPECT_EQ(layer.outputs(0).expand_x, (Dims{7 * 2, 16}));
}

TEST(OutputShapes, CapacitiesFollowGlobalBs) {
  const Layer layer{.e = 4, .m = 4, .bs = 2, .k = 3, .global_bs = 40};
  EXPECT_EQ(layer.outputs(0).expand_x, (Dims{40, 16}));
  EXPECT_EQ(layer.outputs(0).assist_info_for_combine, (Dims{40 * 128}));
}

TEST(OutputShapes, TriplesNeverHaveFewerElementsThanPairs) {
  // A*128 = 2*128, BS*K = 2*300.
  const Layer layer{.e = 1, .m = 1, .bs = 2, .k = 300};
  EXPECT_EQ(layer.outputs(0).assist_info_for_combine, (Dims{600}));
}

TEST(OutputShapes, TheFormWithExpertScalesHasLongerCounts) {
  struct Case {
    int e;
    std::int64_t more;  ///< 2*GBS*K*max(E/8, 1)
  };
  for (const auto& [e, more] : {Case{1, 2 * 3 * 2},
                                Case{7, 2 * 21 * 2},
                                Case{8, 2 * 24 * 2},
                                Case{15, 2 * 45 * 2},
                                Case{16, 2 * 48 * 2 * 2},
                                Case{20, 2 * 60 * 2 * 2},
                                Case{64, 2 * 192 * 2 * 8}}) {
    Layer layer{.e = e, .m = 2 * e, .bs = 3, .k = 2};
    EXPECT_EQ(layer.outputs(0).ep_recv_counts, (Dims{2 * e}));
    layer.weighted = true;
    EXPECT_EQ(layer.outputs(0).ep_recv_counts, (Dims{2 * e + more})) << e;
  }
}

TEST(OutputShapes, TheFormWithExpertScalesOnASharedRank) {
  const Layer layer{.e = 16, .m = 30, .bs = 3, .k = 2, .sr = 1, .weighted = true};
  EXPECT_EQ(layer.outputs(0).ep_recv_counts, (Dims{16 + 2 * 48 * 2 * 2}));
  EXPECT_EQ(layer.outputs(1).ep_recv_counts, (Dims{32 + 2 * 48 * 2 * 2}));
}

TEST(OutputShapes, TpRecvCountsHasAnEntryForEachTpRank) {
  Layer layer{.e = 2, .m = 2};
  EXPECT_EQ(layer.outputs(0).tp_recv_counts, (Dims{0}));
  layer.tp = 1;
  EXPECT_EQ(layer.outputs(0).tp_recv_counts, (Dims{1}));
}

/// Ranks 1 and 4 of six are gone; S = 1.
std::vector<std::int32_t> four_of_six(int sr, int m) {
  return {1, 4, sr, m, 0, -1, 1, 2, -1, 3, 0, 2, 3, 5, -1, -1};
}

TEST(OutputShapes, UnderElasticInfoFollowTheOriginalSizes) {
  // E = 6, SR = 2, M = 12: L = 3, R = 2. A: MoE 24*min(3,2) = 48, shared 4*3 = 12.
  Layer layer{.e = 6, .m = 12, .bs = 4, .k = 2, .sr = 2};
  EXPECT_EQ(layer.outputs(0).expand_x, (Dims{12, 16}));
  layer.elastic = four_of_six(1, 9);
  for (const int rank : {0, 2, 3, 5}) {
    const DispatchOutputs outputs = layer.outputs(rank);
    EXPECT_EQ(outputs.expand_x, (Dims{48, 16}));
    EXPECT_EQ(outputs.dynamic_scales, (Dims{48}));
    EXPECT_EQ(outputs.expand_scales, (Dims{48}));
    EXPECT_EQ(outputs.assist_info_for_combine, (Dims{48 * 128}));
    EXPECT_EQ(outputs.expert_token_nums, (Dims{3}));
    EXPECT_EQ(outputs.ep_recv_counts, (Dims{6 * 3}));
  }
  layer.weighted = true;
  EXPECT_EQ(layer.outputs(0).ep_recv_counts, (Dims{6 * 3 + 2 * 24 * 2}));
}

TEST(OutputShapes, AreThoseOfElasticInfoWithoutTheFlagToo) {
  Layer layer{.e = 6, .m = 12, .bs = 4, .k = 2, .sr = 2};
  layer.elastic = {0, -3, 99, 1, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7};  // nothing else is read
  EXPECT_EQ(layer.outputs(1).expand_x, (Dims{48, 16}));
  EXPECT_EQ(layer.outputs(1).expert_token_nums, (Dims{3}));
  EXPECT_EQ(layer.outputs(1).ep_recv_counts, (Dims{18}));
}

TEST(OutputShapes, UnderElasticInfoCountAtLeastOneExpert) {
  // Only shared experts: L = 0.
  Layer layer{.e = 6, .m = 0, .bs = 4, .k = 2, .sr = 2};
  layer.elastic = four_of_six(1, 0);
  for (const int rank : {0, 5}) {
    EXPECT_EQ(layer.outputs(rank).expand_x, (Dims{12, 16}));
    EXPECT_EQ(layer.outputs(rank).expert_token_nums, (Dims{1}));
    EXPECT_EQ(layer.outputs(rank).ep_recv_counts, (Dims{6}));
  }
}

TEST(OutputShapes, UnderElasticInfoTakeTheSharedRanksCapacityWhereThatIsLarger) {
  // A: MoE 6*min(1,1) = 6, shared 1*ceil(6/1) = 6; with L = 0 the MoE ranks have none.
  Layer layer{.e = 6, .m = 5, .bs = 1, .k = 1, .sr = 1};
  layer.elastic = four_of_six(1, 3);
  EXPECT_EQ(layer.outputs(5).expand_x, (Dims{6, 16}));
}

TEST(OutputShapes, OccurrencesAreAsLongAsTheIds) {
  DispatchArgs args{.x = shaped(DType::kBFloat16, {3, 16}),
                    .expert_ids = shaped(DType::kInt32, {3, 2}),
                    .layer = {.ep_world_size = 2, .ep_rank_id = 0, .moe_expert_num = 4},
                    .form = IndexForm::kOccurrences};
  const auto shape = check_dispatch({.rank = 0, .world_size = 2}, args);
  ASSERT_TRUE(shape.ok());
  EXPECT_EQ(output_shapes(*shape).assist_info_for_combine, (Dims{6}));
}

TEST(OutputShapes, WithoutTokensNothingCanArrive) {
  const Layer layer{.e = 4, .m = 8, .bs = 0, .k = 2};
  const DispatchOutputs outputs = layer.outputs(2);
  EXPECT_EQ(outputs.expand_x, (Dims{0, 16}));
  EXPECT_EQ(outputs.assist_info_for_combine, (Dims{0}));
  EXPECT_EQ(outputs.ep_recv_counts, (Dims{8}));
}

TEST(Capacity, TheLargestThatFitsIsAccepted) {
  // A*128 < 2^31: A = GBS*min(L,K) up to 2^24 - 1.
  DispatchArgs args{
      .x = shaped(DType::kInt8, {1, 16}),
      .expert_ids = shaped(DType::kInt32, {1, 1}),
      .layer = {
          .ep_world_size = 1, .ep_rank_id = 0, .moe_expert_num = 1, .global_bs = (1 << 24) - 1}};
  args.x = shaped(DType::kBFloat16, {1, 16});
  EXPECT_TRUE(check_dispatch({.rank = 0, .world_size = 1}, args).ok());
  args.layer.global_bs = 1 << 24;
  EXPECT_EQ(check_dispatch({.rank = 0, .world_size = 1}, args).status().info().argument,
            "global_bs");
}

RC_GTEST_PROP(Capacity, EveryRankOfAKindHasTheSame, ()) {
  const int sr = *rc::gen::inRange(0, 20);
  const int moe = *rc::gen::inRange(1, 150);
  const std::int64_t local = *rc::gen::inRange(1, 5);
  const std::int64_t k = *rc::gen::inRange(1, 10);
  const std::int64_t max_bs = *rc::gen::inRange(0, 100);
  std::vector<int> divisors;
  for (int s = 1; s <= sr; ++s) {
    if (sr % s == 0) {
      divisors.push_back(s);
    }
  }
  const int shared = sr == 0 ? 0 : *rc::gen::elementOf(divisors);
  const int e = sr + moe;
  const Topology topology{.num_ranks = e,
                          .rank = 0,
                          .num_experts = moe * local,
                          .num_shared_ranks = sr,
                          .num_shared = shared};
  for (int r = 0; r < e; ++r) {
    std::int64_t sources = 0;
    for (int source = 0; source < e; ++source) {
      sources += topology.sends_to_shared(source, r) ? 1 : 0;
    }
    const std::int64_t a = capacity(topology, r, max_bs * e, k);
    if (topology.is_shared(r)) {
      const int per_shared = sr / shared;
      RC_ASSERT(sources == e / per_shared || sources == (e + per_shared - 1) / per_shared);
      RC_ASSERT(a == max_bs * ((e + per_shared - 1) / per_shared));
    } else {
      RC_ASSERT(sources == 0);
      RC_ASSERT(a == max_bs * e * std::min(local, k));
    }
  }
}

RC_GTEST_PROP(Topology, EveryTokenReachesEachSharedExpertOnce, ()) {
  const int s = *rc::gen::inRange(1, 5);
  const int per_shared = *rc::gen::inRange(1, 5);
  const int moe = *rc::gen::inRange(1, 20);
  const int e = s * per_shared + moe;
  const Topology topology{.num_ranks = e,
                          .rank = 0,
                          .num_experts = moe,
                          .num_shared_ranks = s * per_shared,
                          .num_shared = s};
  for (int source = 0; source < e; ++source) {
    std::vector<int> reached(static_cast<std::size_t>(s));
    for (int target = 0; target < e; ++target) {
      if (topology.sends_to_shared(source, target)) {
        ++reached[static_cast<std::size_t>(topology.shared_of(target))];
      }
    }
    RC_ASSERT(reached == std::vector<int>(static_cast<std::size_t>(s), 1));
  }
}

RC_GTEST_PROP(Topology, OwnersHoldTheirExpertsInOrder, ()) {
  const int sr = *rc::gen::inRange(0, 4);
  const int moe = *rc::gen::inRange(1, 200);
  const std::int64_t local = *rc::gen::inRange(1, 9);
  const Topology topology{.num_ranks = sr + moe,
                          .rank = 0,
                          .num_experts = moe * local,
                          .num_shared_ranks = sr,
                          .num_shared = sr > 0 ? 1 : 0};
  for (std::int64_t expert = 0; expert < moe * local; ++expert) {
    const int owner = topology.owner_of(expert);
    RC_ASSERT(owner >= sr && owner < sr + moe);
    RC_ASSERT(expert >= topology.first_expert(owner));
    RC_ASSERT(expert < topology.first_expert(owner) + local);
  }
}

}  // namespace
}  // namespace waybill::contract
