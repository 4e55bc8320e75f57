#include "contract/combine_contract.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "calls.h"
#include "elastic_cases.h"
#include "layer_cases.h"

namespace waybill::contract {
namespace {

using BadCombine = BadCall<CombineCall>;

class CombineErrors : public ::testing::TestWithParam<BadCombine> {};

TEST_P(CombineErrors, NamesArgumentExpectedAndGot) {
  const BadCombine& bad = GetParam();
  CombineCall call;
  ASSERT_TRUE(check_combine(kGroup, call.args).ok());
  bad.change(call);
  const Status status = check_combine(kGroup, call.args).status();
  ASSERT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.info().op, "npu_moe_distribute_combine_v2");
  EXPECT_EQ(status.info().argument, bad.argument);
  EXPECT_TRUE(status.info().ranks.empty());
  EXPECT_EQ(status.message(), sentence_of("npu_moe_distribute_combine_v2", bad));
}

std::string name_of_case(const ::testing::TestParamInfo<BadCombine>& info) {
  return info.param.name;
}

INSTANTIATE_TEST_SUITE_P(Layer,
                         CombineErrors,
                         ::testing::ValuesIn(bad_layers<CombineCall>()),
                         name_of_case);
INSTANTIATE_TEST_SUITE_P(Elastic,
                         CombineErrors,
                         ::testing::ValuesIn(bad_elastic<CombineCall>()),
                         name_of_case);

constexpr const char* kRows = "(n, H) with 1 <= H < 2^31, bfloat16, float16 or float32";
constexpr const char* kIds = "(BS, K) int32 with K >= 1";
constexpr const char* kShared = "(BS, H) = (4, 16) or (a, b, H) with a*b = BS, bfloat16";
constexpr const char* kCounts = "a vector of at least 8 int32 (E*L, ep_recv_counts)";
constexpr const char* kTotal = "a total of at most the 6 rows of expand_x";
constexpr const char* kPrefix = "prefix sums, which do not fall";
constexpr const char* kVector = "a vector of at least 0 int32 (dispatch's third output)";
constexpr const char* kTriples = "a vector of at least 15 int32 (a triple a row)";

const std::vector<BadCombine> kTensors = {
    {"VectorRows",
     [](CombineCall& call) { call.args.expand_x = shaped(DType::kBFloat16, {6}); },
     "expand_x",
     kRows,
     "(6,) bfloat16"},
    {"EmptyRows",
     [](CombineCall& call) { call.args.expand_x = shaped(DType::kBFloat16, {6, 0}); },
     "expand_x",
     kRows,
     "(6, 0) bfloat16"},
    {"QuantisedRows",
     [](CombineCall& call) { call.args.expand_x = shaped(DType::kInt8, {6, 16}); },
     "expand_x",
     kRows,
     "(6, 16) int8"},
    {"FourDimensionalRows",
     [](CombineCall& call) { call.args.expand_x = with_four_dims(DType::kBFloat16); },
     "expand_x",
     kRows,
     "a tensor of 4 dimensions bfloat16"},
    {"VectorIds",
     [](CombineCall& call) { call.args.expert_ids = shaped(DType::kInt32, {4}); },
     "expert_ids",
     kIds,
     "(4,) int32"},
    {"LongIds",
     [](CombineCall& call) { call.args.expert_ids = shaped(DType::kInt64, {4, 2}); },
     "expert_ids",
     kIds,
     "(4, 2) int64"},
    {"NoChoices",
     [](CombineCall& call) { call.args.expert_ids = shaped(DType::kInt32, {4, 0}); },
     "expert_ids",
     kIds,
     "(4, 0) int32"},
    {"TooManyPairs",
     [](CombineCall& call) {
       call.args.expert_ids = shaped(DType::kInt32, {1 << 20, 1 << 11});
       call.args.expert_scales = shaped(DType::kFloat32, {1 << 20, 1 << 11});
     },
     "expert_ids",
     "BS*K < 2^31 and K < 2^31",
     "(1048576, 2048)"},
    {"WeightsOfAnotherShape",
     [](CombineCall& call) { call.args.expert_scales = shaped(DType::kFloat32, {4, 3}); },
     "expert_scales",
     "(BS, K) = (4, 2) float32",
     "(4, 3) float32"},
    {"WeightsOfAnotherDtype",
     [](CombineCall& call) { call.args.expert_scales = shaped(DType::kBFloat16, {4, 2}); },
     "expert_scales",
     "(BS, K) = (4, 2) float32",
     "(4, 2) bfloat16"},
    {"CommQuantMode",
     [](CombineCall& call) { call.args.comm_quant_mode = 1; },
     "comm_quant_mode",
     "0 or 2",
     "1"},
    {"NegativeCommQuantMode",
     [](CombineCall& call) { call.args.comm_quant_mode = -1; },
     "comm_quant_mode",
     "0 or 2",
     "-1"},
};

const std::vector<BadCombine> kSharedExpertX = {
    {"WithSharedRanks",
     [](CombineCall& call) {
       call.args.layer.shared_expert_rank_num = 2;
       call.args.shared_expert_x = shaped(DType::kBFloat16, {4, 16});
     },
     "shared_expert_x",
     "None since shared_expert_rank_num is not 0",
     "(4, 16) bfloat16"},
    {"OfAnotherBatch",
     [](CombineCall& call) { call.args.shared_expert_x = shaped(DType::kBFloat16, {5, 16}); },
     "shared_expert_x",
     kShared,
     "(5, 16) bfloat16"},
    {"OfAnotherHiddenSize",
     [](CombineCall& call) { call.args.shared_expert_x = shaped(DType::kBFloat16, {4, 8}); },
     "shared_expert_x",
     kShared,
     "(4, 8) bfloat16"},
    {"OfAnotherDtype",
     [](CombineCall& call) { call.args.shared_expert_x = shaped(DType::kFloat16, {4, 16}); },
     "shared_expert_x",
     kShared,
     "(4, 16) float16"},
    {"OfThreeDimensionsWithAnotherBatch",
     [](CombineCall& call) { call.args.shared_expert_x = shaped(DType::kBFloat16, {3, 2, 16}); },
     "shared_expert_x",
     kShared,
     "(3, 2, 16) bfloat16"},
    {"OfThreeDimensionsWithAnotherHiddenSize",
     [](CombineCall& call) { call.args.shared_expert_x = shaped(DType::kBFloat16, {2, 2, 15}); },
     "shared_expert_x",
     kShared,
     "(2, 2, 15) bfloat16"},
    {"OfOneDimension",
     [](CombineCall& call) { call.args.shared_expert_x = shaped(DType::kBFloat16, {64}); },
     "shared_expert_x",
     kShared,
     "(64,) bfloat16"},
};

const std::vector<BadCombine> kMetadata = {
    {"CountsOfTwoDimensions",
     [](CombineCall& call) { call.args.ep_send_counts = shaped(DType::kInt32, {2, 4}); },
     "ep_send_counts",
     kCounts,
     "(2, 4) int32"},
    {"LongCounts",
     [](CombineCall& call) { call.args.ep_send_counts = shaped(DType::kInt64, {8}); },
     "ep_send_counts",
     kCounts,
     "(8,) int64"},
    {"TooFewCounts",
     [](CombineCall& call) { call.args.ep_send_counts = shaped(DType::kInt32, {7}); },
     "ep_send_counts",
     kCounts,
     "(7,) int32"},
    {"NegativeTotal",
     [](CombineCall& call) { call.counts[7] = -1; },
     "ep_send_counts",
     kPrefix,
     "-1 at element 7"},
    {"NegativeFirstCount",
     [](CombineCall& call) { call.counts[0] = -1; },
     "ep_send_counts",
     kPrefix,
     "-1 at element 0"},
    {"FallingCounts",
     [](CombineCall& call) { call.counts[3] = 1; },
     "ep_send_counts",
     kPrefix,
     "1 at element 3"},
    {"MoreThanTheRows",
     [](CombineCall& call) { call.counts[7] = 7; },
     "ep_send_counts",
     kTotal,
     "7"},
    {"TooFewTriples",
     [](CombineCall& call) { call.args.assist_info_for_combine = shaped(DType::kInt32, {14}); },
     "assist_info_for_combine",
     kTriples,
     "(14,) int32"},
    {"TriplesOfAnotherDtype",
     [](CombineCall& call) { call.args.assist_info_for_combine = shaped(DType::kInt64, {15}); },
     "assist_info_for_combine",
     kVector,
     "(15,) int64"},
    {"TriplesOfTwoDimensions",
     [](CombineCall& call) { call.args.assist_info_for_combine = shaped(DType::kInt32, {5, 3}); },
     "assist_info_for_combine",
     kVector,
     "(5, 3) int32"},
};

INSTANTIATE_TEST_SUITE_P(Tensors, CombineErrors, ::testing::ValuesIn(kTensors), name_of_case);
INSTANTIATE_TEST_SUITE_P(SharedExpertX,
                         CombineErrors,
                         ::testing::ValuesIn(kSharedExpertX),
                         name_of_case);
INSTANTIATE_TEST_SUITE_P(Metadata, CombineErrors, ::testing::ValuesIn(kMetadata), name_of_case);

TEST(CombineContract, TakesTheRowsFromTheLastCount) {
  CombineCall call;
  const auto shape = check_combine(kGroup, call.args);
  ASSERT_TRUE(shape.ok());
  EXPECT_EQ(shape->rows, 5);
  EXPECT_EQ(shape->bs, 4);
  EXPECT_EQ(shape->h, 16);
  EXPECT_EQ(shape->slots(), 2);
}

TEST(CombineContract, CountsAndTriplesMayBeLongerAndStrided) {
  CombineCall call;
  std::vector<std::int32_t> strided = {1, -9, 1, -9, 2, -9, 2, -9, 3, -9, 4, -9, 4, -9, 6, -9, 99};
  call.args.ep_send_counts = TensorView::contiguous(strided.data(), DType::kInt32, {9});
  call.args.ep_send_counts.strides = {2};
  call.args.assist_info_for_combine = shaped(DType::kInt32, {1000});
  const auto shape = check_combine(kGroup, call.args);
  ASSERT_TRUE(shape.ok()) << shape.status().message();
  EXPECT_EQ(shape->rows, 6);
}

TEST(CombineContract, ASharedRankHasACountForEachSource) {
  CombineCall call;
  call.counts = {1, 2, 3, 4};
  call.args.ep_send_counts = TensorView::contiguous(call.counts.data(), DType::kInt32, {4});
  call.args.layer.shared_expert_num = 2;
  call.args.layer.shared_expert_rank_num = 2;
  call.args.assist_info_for_combine = shaped(DType::kInt32, {12});
  const auto shape = check_combine(kGroup, call.args);
  ASSERT_TRUE(shape.ok()) << shape.status().message();
  EXPECT_EQ(shape->rows, 4);
  EXPECT_EQ(shape->slots(), 4);
}

TEST(CombineContract, WithoutExpertsThereAreNoRows) {
  CombineCall call;
  call.args.layer.moe_expert_num = 0;
  call.args.ep_send_counts = shaped(DType::kInt32, {0});
  call.args.assist_info_for_combine = shaped(DType::kInt32, {0});
  const auto shape = check_combine(kGroup, call.args);
  ASSERT_TRUE(shape.ok()) << shape.status().message();
  EXPECT_EQ(shape->rows, 0);
}

TEST(CombineContract, AcceptsSharedExpertXInBothForms) {
  for (const Dims& dims : {Dims{4, 16}, Dims{2, 2, 16}, Dims{1, 4, 16}, Dims{4, 1, 16}}) {
    CombineCall call;
    call.args.shared_expert_x = shaped(DType::kBFloat16, dims);
    EXPECT_TRUE(check_combine(kGroup, call.args).ok());
  }
}

TEST(CombineContract, IgnoresWhatNothingNeeds) {
  CombineCall call;
  const TensorView anything = with_four_dims(DType::kComplex64);
  call.args.tp_send_counts = anything;
  call.args.expand_scales = anything;
  call.args.ori_x = anything;
  call.args.const_expert_alpha_1 = anything;
  call.args.const_expert_alpha_2 = anything;
  call.args.const_expert_v = anything;
  EXPECT_TRUE(check_combine(kGroup, call.args).ok());
}

TEST(CombineContract, ItsAgreementHoldsWhatRanksHaveToShare) {
  CombineCall call;
  call.args.comm_quant_mode = 2;
  call.args.layer.global_bs = 32;
  const auto shape = check_combine(kGroup, call.args);
  ASSERT_TRUE(shape.ok());
  EXPECT_TRUE(shape->quantised);
  const Agreement values = agreement_of(*shape, call.args.comm_quant_mode);
  EXPECT_EQ(values[Agreed::kOperator], static_cast<std::int64_t>(Operator::kCombineV2));
  EXPECT_EQ(values[Agreed::kEpWorldSize], 4);
  EXPECT_EQ(values[Agreed::kDtype], static_cast<std::int64_t>(DType::kBFloat16));
  EXPECT_EQ(values[Agreed::kHidden], 16);
  EXPECT_EQ(values[Agreed::kTopK], 2);
  EXPECT_EQ(values[Agreed::kMoeExpertNum], 8);
  EXPECT_EQ(values[Agreed::kCommQuantMode], 2);
  EXPECT_EQ(values[Agreed::kGlobalBs], 32);
  EXPECT_EQ(values[Agreed::kQuantMode], 0);
}

}  // namespace
}  // namespace waybill::contract
