#include "contract/dispatch_contract.h"

#include <gtest/gtest.h>

#include <string>

#include "calls.h"
#include "elastic_cases.h"
#include "layer_cases.h"

namespace waybill::contract {
namespace {

using BadDispatch = BadCall<DispatchCall>;

class DispatchErrors : public ::testing::TestWithParam<BadDispatch> {};

TEST_P(DispatchErrors, NamesArgumentExpectedAndGot) {
  const BadDispatch& bad = GetParam();
  DispatchCall call;
  ASSERT_TRUE(check_dispatch(kGroup, call.args).ok());
  bad.change(call);
  const Status status = check_dispatch(kGroup, call.args).status();
  ASSERT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.info().op, "npu_moe_distribute_dispatch_v2");
  EXPECT_EQ(status.info().argument, bad.argument);
  EXPECT_TRUE(status.info().ranks.empty());
  EXPECT_EQ(status.message(), sentence_of("npu_moe_distribute_dispatch_v2", bad));
}

std::string name_of_case(const ::testing::TestParamInfo<BadDispatch>& info) {
  return info.param.name;
}

INSTANTIATE_TEST_SUITE_P(Layer,
                         DispatchErrors,
                         ::testing::ValuesIn(bad_layers<DispatchCall>()),
                         name_of_case);
INSTANTIATE_TEST_SUITE_P(Elastic,
                         DispatchErrors,
                         ::testing::ValuesIn(bad_elastic<DispatchCall>()),
                         name_of_case);

constexpr const char* kRows = "(BS, H) with 1 <= H < 2^31, bfloat16, float16 or float32";
constexpr const char* kIds = "(BS, K) int32 with BS = 4 and K >= 1";
constexpr const char* kNotYet = "a value that is supported (this one is not yet)";

const std::vector<BadDispatch> kTensors = {
    {"VectorX",
     [](DispatchCall& call) { call.args.x = shaped(DType::kBFloat16, {4}); },
     "x",
     kRows,
     "(4,) bfloat16"},
    {"ThreeDimensionalX",
     [](DispatchCall& call) { call.args.x = shaped(DType::kBFloat16, {4, 1, 16}); },
     "x",
     kRows,
     "(4, 1, 16) bfloat16"},
    {"FourDimensionalX",
     [](DispatchCall& call) { call.args.x = with_four_dims(DType::kFloat32); },
     "x",
     kRows,
     "a tensor of 4 dimensions float32"},
    {"EmptyRows",
     [](DispatchCall& call) { call.args.x = shaped(DType::kBFloat16, {4, 0}); },
     "x",
     kRows,
     "(4, 0) bfloat16"},
    {"DoubleX",
     [](DispatchCall& call) { call.args.x = shaped(DType::kFloat64, {4, 16}); },
     "x",
     kRows,
     "(4, 16) float64"},
    {"IntegerX",
     [](DispatchCall& call) { call.args.x = shaped(DType::kInt32, {4, 16}); },
     "x",
     kRows,
     "(4, 16) int32"},
    {"UnknownX",
     [](DispatchCall& call) { call.args.x = shaped(DType::kOther, {4, 16}); },
     "x",
     kRows,
     "(4, 16) another dtype"},
    {"VectorIds",
     [](DispatchCall& call) { call.args.expert_ids = shaped(DType::kInt32, {4}); },
     "expert_ids",
     kIds,
     "(4,) int32"},
    {"LongIds",
     [](DispatchCall& call) { call.args.expert_ids = shaped(DType::kInt64, {4, 2}); },
     "expert_ids",
     kIds,
     "(4, 2) int64"},
    {"IdsOfAnotherBatch",
     [](DispatchCall& call) { call.args.expert_ids = shaped(DType::kInt32, {3, 2}); },
     "expert_ids",
     kIds,
     "(3, 2) int32"},
    {"NoChoices",
     [](DispatchCall& call) { call.args.expert_ids = shaped(DType::kInt32, {4, 0}); },
     "expert_ids",
     kIds,
     "(4, 0) int32"},
    {"TooManyPairs",
     [](DispatchCall& call) {
       call.args.x = shaped(DType::kBFloat16, {1 << 20, 16});
       call.args.expert_ids = shaped(DType::kInt32, {1 << 20, 1 << 11});
     },
     "expert_ids",
     "BS*K < 2^31 and K < 2^31",
     "(1048576, 2048)"},
    {"ExpertScalesOfAnotherShape",
     [](DispatchCall& call) { call.args.expert_scales = shaped(DType::kFloat32, {4, 1}); },
     "expert_scales",
     "(BS, K) = (4, 2) float32",
     "(4, 1) float32"},
    {"ExpertScalesOfAnotherDtype",
     [](DispatchCall& call) { call.args.expert_scales = shaped(DType::kBFloat16, {4, 2}); },
     "expert_scales",
     "(BS, K) = (4, 2) float32",
     "(4, 2) bfloat16"},
    {"ScalesOfAnotherShape",
     [](DispatchCall& call) {
       call.args.quant_mode = 2;
       call.args.scales = shaped(DType::kFloat32, {9, 16});
     },
     "scales",
     "(S+M, H) = (8, 16) float32",
     "(9, 16) float32"},
    {"ScalesWithSharedExperts",
     [](DispatchCall& call) {
       call.args.quant_mode = 2;
       call.args.layer.shared_expert_rank_num = 2;
       call.args.layer.shared_expert_num = 2;
       call.args.scales = shaped(DType::kFloat32, {8, 16});
     },
     "scales",
     "(S+M, H) = (10, 16) float32",
     "(8, 16) float32"},
    {"ScalesOfAnotherDtype",
     [](DispatchCall& call) {
       call.args.quant_mode = 2;
       call.args.scales = shaped(DType::kFloat16, {8, 16});
     },
     "scales",
     "(S+M, H) = (8, 16) float32",
     "(8, 16) float16"},
    {"ScalesWithoutQuantisation",
     [](DispatchCall& call) { call.args.scales = shaped(DType::kFloat32, {8, 16}); },
     "scales",
     "None since quant_mode is 0",
     "(8, 16) float32"},
};

const std::vector<BadDispatch> kOptions = {
    {"NegativeQuantMode",
     [](DispatchCall& call) { call.args.quant_mode = -1; },
     "quant_mode",
     "0 or 2",
     "-1"},
    {"UnknownQuantMode",
     [](DispatchCall& call) { call.args.quant_mode = 5; },
     "quant_mode",
     "0 or 2",
     "5"},
    {"StaticQuantMode",
     [](DispatchCall& call) { call.args.quant_mode = 1; },
     "quant_mode",
     kNotYet,
     "1"},
    {"GroupQuantMode",
     [](DispatchCall& call) { call.args.quant_mode = 3; },
     "quant_mode",
     kNotYet,
     "3"},
    {"SharedExponentQuantMode",
     [](DispatchCall& call) { call.args.quant_mode = 4; },
     "quant_mode",
     kNotYet,
     "4"},
    {"YDtype",
     [](DispatchCall& call) {
       call.args.quant_mode = 2;
       call.args.y_dtype = 24;
     },
     "y_dtype",
     kNotYet,
     "24"},
    {"XDtype", [](DispatchCall& call) { call.args.x_dtype = 1; }, "x_dtype", "None", "1"},
    {"ScalesDtype",
     [](DispatchCall& call) { call.args.scales_dtype = 0; },
     "scales_dtype",
     "None",
     "0"},
    {"NumsType",
     [](DispatchCall& call) { call.args.expert_token_nums_type = 2; },
     "expert_token_nums_type",
     "0 or 1",
     "2"},
    {"NegativeNumsType",
     [](DispatchCall& call) { call.args.expert_token_nums_type = -1; },
     "expert_token_nums_type",
     "0 or 1",
     "-1"},
};

INSTANTIATE_TEST_SUITE_P(Tensors, DispatchErrors, ::testing::ValuesIn(kTensors), name_of_case);
INSTANTIATE_TEST_SUITE_P(Options, DispatchErrors, ::testing::ValuesIn(kOptions), name_of_case);

TEST(DispatchContract, TheFirstProblemInTheOrderOfTheChecksIsReported) {
  DispatchCall call;
  call.args.layer.global_bs = 1;
  call.args.quant_mode = 7;
  call.args.layer.ep_rank_id = 9;
  EXPECT_EQ(check_dispatch(kGroup, call.args).status().info().argument, "ep_rank_id");
  call.args.layer.ep_rank_id = 1;
  EXPECT_EQ(check_dispatch(kGroup, call.args).status().info().argument, "quant_mode");
  call.args.quant_mode = 2;
  EXPECT_EQ(check_dispatch(kGroup, call.args).status().info().argument, "global_bs");
}

TEST(DispatchContract, AcceptsEveryRowDtypeStrideAndMask) {
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16, DType::kFloat32}) {
    DispatchCall call;
    call.args.x = shaped(dtype, {4, 16});
    call.args.x.strides = {0, 7};
    call.args.expert_ids.strides = {1, 4};
    call.args.x_active_mask = shaped(DType::kBool, {4});
    EXPECT_TRUE(check_dispatch(kGroup, call.args).ok());
    call.args.x_active_mask = shaped(DType::kBool, {4, 2});
    const auto shape = check_dispatch(kGroup, call.args);
    ASSERT_TRUE(shape.ok());
    EXPECT_EQ(shape->row_dtype(), dtype);
    EXPECT_EQ(shape->row_bytes(), 16 * size_of(dtype));
  }
}

TEST(DispatchContract, AcceptsEveryAlgorithmAndOneTpRank) {
  for (const char* name : {"", "fullmesh", "fullmesh_v1", "fullmesh_v2", "hierarchy"}) {
    DispatchCall call;
    call.args.layer.comm_alg = name;
    call.args.tp_world_size = 1;
    call.args.tp_rank_id = 5;  // ignored without TP
    EXPECT_TRUE(check_dispatch(kGroup, call.args).ok()) << name;
  }
}

TEST(DispatchContract, SharedExpertsWithoutRanksDoNotCount) {
  for (const std::int64_t s : {0, 1}) {
    DispatchCall call;
    call.args.layer.shared_expert_num = s;
    const auto shape = check_dispatch(kGroup, call.args);
    ASSERT_TRUE(shape.ok());
    EXPECT_EQ(shape->topology.num_shared, 0);
    EXPECT_EQ(agreement_of(*shape, call.args)[Agreed::kSharedExpertNum], 0);
  }
}

TEST(DispatchContract, GlobalBsMayBeLargerThanTheBatch) {
  DispatchCall call;
  call.args.layer.global_bs = 64;
  const auto shape = check_dispatch(kGroup, call.args);
  ASSERT_TRUE(shape.ok());
  EXPECT_EQ(shape->gbs, 64);
  EXPECT_EQ(shape->max_bs(), 16);
  EXPECT_EQ(shape->rows_capacity, 64 * 2);
}

TEST(DispatchContract, ARankMayHaveNoTokens) {
  DispatchCall call;
  call.args.x = shaped(DType::kFloat16, {0, 16});
  call.args.expert_ids = shaped(DType::kInt32, {0, 2});
  const auto alone = check_dispatch(kGroup, call.args);
  ASSERT_TRUE(alone.ok());
  EXPECT_EQ(alone->gbs, 0);
  call.args.layer.global_bs = 8;
  EXPECT_EQ(check_dispatch(kGroup, call.args)->rows_capacity, 16);
}

TEST(DispatchContract, ElasticInfoPutsAnotherPlacementInForce) {
  // E = 6, SR = 2, M = 12; rank 1, a shared one, and rank 4 are gone. Rank 5 becomes rank 3.
  const std::vector<std::int32_t> info = {1, 4, 1, 9, 0, -1, 1, 2, -1, 3, 0, 2, 3, 5, -1, -1};
  DispatchCall call;
  call.args.layer.ep_world_size = 6;
  call.args.layer.ep_rank_id = 2;
  call.args.layer.moe_expert_num = 12;
  call.args.layer.shared_expert_rank_num = 2;
  call.args.elastic_info = TensorView::contiguous(info.data(), DType::kInt32, {16});
  const auto shape = check_dispatch({.rank = 2, .world_size = 6}, call.args);
  ASSERT_TRUE(shape.ok()) << shape.status().message();
  EXPECT_EQ(shape->topology.num_ranks, 4);
  EXPECT_EQ(shape->topology.rank, 1);
  EXPECT_EQ(shape->topology.num_experts, 9);
  EXPECT_EQ(shape->topology.num_shared_ranks, 1);
  EXPECT_EQ(shape->topology.experts_per_rank(), 3);
  EXPECT_EQ(shape->given.num_ranks, 6);
  EXPECT_EQ(shape->gbs, 4 * 6);
  std::vector<int> members;
  for (int i = 0; i < 4; ++i) {
    members.push_back(shape->elastic.members[i]);
  }
  EXPECT_EQ(members, (std::vector<int>{0, 2, 3, 5}));
  const Agreement values = agreement_of(*shape, call.args);
  EXPECT_EQ(values[Agreed::kEpWorldSize], 6);
  EXPECT_EQ(values[Agreed::kMoeExpertNum], 12);
  EXPECT_EQ(values[Agreed::kSharedExpertRankNum], 2);
  EXPECT_EQ(values[Agreed::kElastic], 1);
  EXPECT_EQ(values[Agreed::kElasticRanks], 4);
  EXPECT_EQ(values[Agreed::kElasticShared], 1);
  EXPECT_EQ(values[Agreed::kElasticExperts], 9);
}

TEST(DispatchContract, TheExampleOfSectionEight) {
  // E=16, SR=4, M=12 (S=1): ranks 3 and 15 are lost.
  const std::vector<std::int32_t> info = {1, 14, 3, 11, 0,  1,  2,  -1, 3,  4,  5,  6,
                                          7, 8,  9, 10, 11, 12, 13, -1, 0,  1,  2,  4,
                                          5, 6,  7, 8,  9,  10, 11, 12, 13, 14, -1, -1};
  DispatchCall call;
  call.args.layer.ep_world_size = 16;
  call.args.layer.ep_rank_id = 14;
  call.args.layer.moe_expert_num = 12;
  call.args.layer.shared_expert_rank_num = 4;
  call.args.elastic_info = TensorView::contiguous(info.data(), DType::kInt32, {36});
  const auto shape = check_dispatch({.rank = 14, .world_size = 16}, call.args);
  ASSERT_TRUE(shape.ok()) << shape.status().message();
  EXPECT_EQ(shape->topology.rank, 13);
  call.args.layer.shared_expert_num = 2;  // does not divide three
  EXPECT_EQ(check_dispatch({.rank = 14, .world_size = 16}, call.args).status().info().argument,
            "elastic_info");
}

TEST(DispatchContract, ElasticInfoMayBeStridedAndDiffersFromNone) {
  DispatchCall call;
  const Agreement none = agreement_of(*check_dispatch(kGroup, call.args), call.args);
  std::vector<std::int32_t> strided;
  for (const std::int32_t value : call.elastic) {
    strided.insert(strided.end(), {value, -99});
  }
  call.args.elastic_info = TensorView::contiguous(strided.data(), DType::kInt32, {12});
  call.args.elastic_info->strides = {2};
  const auto shape = check_dispatch(kGroup, call.args);
  ASSERT_TRUE(shape.ok()) << shape.status().message();
  EXPECT_EQ(shape->elastic.members[2], 3);
  const Agreement scaled = agreement_of(*shape, call.args);
  call.args.elastic_info = call.elastic_view();
  EXPECT_EQ(agreement_of(*check_dispatch(kGroup, call.args), call.args).values, scaled.values);
  call.elastic[0] = 0;
  const Agreement off = agreement_of(*check_dispatch(kGroup, call.args), call.args);
  EXPECT_EQ(none[Agreed::kElastic], -1);
  EXPECT_EQ(off[Agreed::kElastic], 0);
  EXPECT_EQ(scaled[Agreed::kElastic], 1);
  EXPECT_EQ(off[Agreed::kElasticTables], none[Agreed::kElasticTables]);
  EXPECT_NE(scaled[Agreed::kElasticTables], none[Agreed::kElasticTables]);
}

TEST(DispatchContract, ItsAgreementHoldsWhatRanksHaveToShare) {
  DispatchCall call;
  call.args.quant_mode = 2;
  call.args.layer.shared_expert_rank_num = 2;
  call.args.scales = shaped(DType::kFloat32, {9, 16});
  const auto shape = check_dispatch(kGroup, call.args);
  ASSERT_TRUE(shape.ok()) << shape.status().message();
  const Agreement values = agreement_of(*shape, call.args);
  EXPECT_EQ(values[Agreed::kOperator], static_cast<std::int64_t>(Operator::kDispatchV2));
  EXPECT_EQ(values[Agreed::kEpWorldSize], 4);
  EXPECT_EQ(values[Agreed::kDtype], static_cast<std::int64_t>(DType::kBFloat16));
  EXPECT_EQ(values[Agreed::kHidden], 16);
  EXPECT_EQ(values[Agreed::kTopK], 2);
  EXPECT_EQ(values[Agreed::kMoeExpertNum], 8);
  EXPECT_EQ(values[Agreed::kSharedExpertNum], 1);
  EXPECT_EQ(values[Agreed::kSharedExpertRankNum], 2);
  EXPECT_EQ(values[Agreed::kQuantMode], 2);
  EXPECT_EQ(values[Agreed::kScalesGiven], 1);
  EXPECT_EQ(values[Agreed::kGlobalBs], 16);
  EXPECT_EQ(values[Agreed::kCommQuantMode], 0);
}

}  // namespace
}  // namespace waybill::contract
