#include "contract/agreement.h"

#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

#include "contract/dispatch_mark.h"
#include "waybill/dtype.h"

namespace waybill::contract {
namespace {

const Checker kCheck(Operator::kDispatchV2, {0, 4});

std::vector<Agreement> equal_ranks(std::size_t count) { return std::vector<Agreement>(count); }

std::vector<int> first_ranks(std::size_t count) {
  std::vector<int> ranks(count);
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

/// Among all ranks of a group.
Status compare_all(const Checker& check, const std::vector<Agreement>& by_rank) {
  const std::vector<std::uint32_t> completed(by_rank.size(), 7);
  return compare(check, by_rank, first_ranks(by_rank.size()), completed).status;
}

Status compare_values(Agreed field, const std::vector<std::int64_t>& values) {
  std::vector<Agreement> by_rank(values.size());
  for (std::size_t r = 0; r < values.size(); ++r) {
    by_rank[r][field] = values[r];
  }
  return compare_all(kCheck, by_rank);
}

TEST(Agreement, EqualRanksAgree) {
  for (const std::size_t ranks : {1U, 2U, 128U, 1024U}) {
    EXPECT_TRUE(compare_all(kCheck, equal_ranks(ranks)).ok());
  }
}

/// What an error says when ranks differ in a field.
struct FieldCase {
  Agreed field;
  const char* name;
  std::int64_t usual;  ///< on ranks 0, 1 and 3
  std::int64_t odd;    ///< on rank 2
  const char* argument;
  const char* sentence;
};

void PrintTo(const FieldCase& field, std::ostream* out) { *out << field.name; }

class EveryField : public ::testing::TestWithParam<FieldCase> {};

TEST_P(EveryField, IsNamedWithRanksAndValues) {
  const FieldCase& field = GetParam();
  const Status status =
      compare_values(field.field, {field.usual, field.usual, field.odd, field.usual});
  ASSERT_EQ(status.code(), StatusCode::kMismatch);
  EXPECT_EQ(status.info().op, "npu_moe_distribute_dispatch_v2");
  EXPECT_EQ(status.info().argument, field.argument);
  EXPECT_EQ(status.info().ranks, std::vector<int>{2});
  EXPECT_EQ(status.message(), std::string("npu_moe_distribute_dispatch_v2: ") + field.sentence);
}

constexpr auto kDispatch = static_cast<std::int64_t>(Operator::kDispatchV2);
constexpr auto kCombine = static_cast<std::int64_t>(Operator::kCombineV2);
constexpr auto kBFloat16 = static_cast<std::int64_t>(DType::kBFloat16);
constexpr auto kFloat32 = static_cast<std::int64_t>(DType::kFloat32);

// What follows where ranks are at different places of their programs.
#define OUT_OF_STEP                                          \
  "; the ranks are out of step and need a reset; completed " \
  "calls: 7 on ranks 0, 1, 2 and 3"

const std::vector<FieldCase> kFields = {
    {Agreed::kOperator,
     "Operator",
     kDispatch,
     kCombine,
     "",
     "expected the same operator on all ranks, got npu_moe_distribute_dispatch_v2 on ranks 0, 1 "
     "and 3, npu_moe_distribute_combine_v2 on rank 2" OUT_OF_STEP},
    {Agreed::kEpWorldSize,
     "EpWorldSize",
     4,
     5,
     "ep_world_size",
     "argument ep_world_size: expected the same E on all ranks, got 4 on ranks 0, 1 and 3, 5 on "
     "rank 2"},
    {Agreed::kDtype,
     "Dtype",
     kBFloat16,
     kFloat32,
     "x",
     "argument x: expected the same dtype on all ranks, got bfloat16 on ranks 0, 1 and 3, float32 "
     "on rank 2"},
    {Agreed::kHidden,
     "Hidden",
     128,
     256,
     "x",
     "argument x: expected the same hidden size H on all ranks, got 128 on ranks 0, 1 and 3, 256 "
     "on rank 2"},
    {Agreed::kTopK,
     "TopK",
     8,
     2,
     "expert_ids",
     "argument expert_ids: expected the same K on all ranks, got 2 on rank 2, 8 on ranks 0, 1 and "
     "3"},
    {Agreed::kMoeExpertNum,
     "MoeExpertNum",
     16,
     32,
     "moe_expert_num",
     "argument moe_expert_num: expected the same M on all ranks, got 16 on ranks 0, 1 and 3, 32 on "
     "rank 2"},
    {Agreed::kSharedExpertNum,
     "SharedExpertNum",
     1,
     2,
     "shared_expert_num",
     "argument shared_expert_num: expected the same S on all ranks, got 1 on ranks 0, 1 and 3, 2 "
     "on rank 2"},
    {Agreed::kSharedExpertRankNum,
     "SharedExpertRankNum",
     2,
     0,
     "shared_expert_rank_num",
     "argument shared_expert_rank_num: expected the same SR on all ranks, got 0 on rank 2, 2 on "
     "ranks 0, 1 and 3"},
    {Agreed::kTpWorldSize,
     "TpWorldSize",
     0,
     2,
     "tp_world_size",
     "argument tp_world_size: expected the same TP on all ranks, got 0 on ranks 0, 1 and 3, 2 on "
     "rank 2"},
    {Agreed::kQuantMode,
     "QuantMode",
     0,
     2,
     "quant_mode",
     "argument quant_mode: expected the same value on all ranks, got 0 on ranks 0, 1 and 3, 2 on "
     "rank 2"},
    {Agreed::kYDtype,
     "YDtype",
     0,
     24,
     "y_dtype",
     "argument y_dtype: expected the same value on all ranks, got 0 on ranks 0, 1 and 3, 24 on "
     "rank 2"},
    {Agreed::kScalesGiven,
     "ScalesGiven",
     1,
     0,
     "scales",
     "argument scales: expected the same presence on all ranks, got None on rank 2, given on ranks "
     "0, 1 and 3"},
    {Agreed::kCommQuantMode,
     "CommQuantMode",
     2,
     0,
     "comm_quant_mode",
     "argument comm_quant_mode: expected the same value on all ranks, got 0 on rank 2, 2 on ranks "
     "0, 1 and 3"},
    {Agreed::kZeroExpertNum,
     "ZeroExpertNum",
     0,
     1,
     "zero_expert_num",
     "argument zero_expert_num: expected the same value on all ranks, got 0 on ranks 0, 1 and 3, 1 "
     "on rank 2"},
    {Agreed::kCopyExpertNum,
     "CopyExpertNum",
     0,
     1,
     "copy_expert_num",
     "argument copy_expert_num: expected the same value on all ranks, got 0 on ranks 0, 1 and 3, 1 "
     "on rank 2"},
    {Agreed::kConstExpertNum,
     "ConstExpertNum",
     0,
     1,
     "const_expert_num",
     "argument const_expert_num: expected the same value on all ranks, got 0 on ranks 0, 1 and 3, "
     "1 on rank 2"},
    {Agreed::kGlobalBs,
     "GlobalBs",
     64,
     32,
     "global_bs",
     "argument global_bs: expected the same global batch (global_bs, or BS*E where it is 0) on all "
     "ranks, got 32 on rank 2, 64 on ranks 0, 1 and 3"},
    {Agreed::kElastic,
     "Elastic",
     -1,
     1,
     "elastic_info",
     "argument elastic_info: expected the same flag on all ranks, got None on ranks 0, 1 and 3, 1 "
     "on rank 2"},
    {Agreed::kElasticRanks,
     "ElasticRanks",
     4,
     3,
     "elastic_info",
     "argument elastic_info: expected the same newE on all ranks, got 3 on rank 2, 4 on ranks 0, 1 "
     "and 3"},
    {Agreed::kElasticShared,
     "ElasticShared",
     2,
     1,
     "elastic_info",
     "argument elastic_info: expected the same newSR on all ranks, got 1 on rank 2, 2 on ranks 0, "
     "1 and 3"},
    {Agreed::kElasticExperts,
     "ElasticExperts",
     8,
     6,
     "elastic_info",
     "argument elastic_info: expected the same newM on all ranks, got 6 on rank 2, 8 on ranks 0, 1 "
     "and 3"},
    {Agreed::kElasticTables,
     "ElasticTables",
     77,
     78,
     "elastic_info",
     "argument elastic_info: expected the same tables (by their hash) on all ranks, got 77 on "
     "ranks 0, 1 and 3, 78 on rank 2"},
    {Agreed::kForm,
     "Form",
     kFormTriples,
     kFormOccurrences,
     "expand_idx",
     "argument expand_idx: expected the same form on all ranks, got triples on ranks 0, 1 and 3, "
     "occurrence indices on rank 2" OUT_OF_STEP},
    {Agreed::kEpRankId,
     "EpRankId",
     0,
     1,
     "ep_rank_id",
     "argument ep_rank_id: expected the same EP rank of both TP peers on all ranks, got 0 on ranks "
     "0, 1 and 3, 1 on rank 2"},
    {Agreed::kDispatchCall,
     "DispatchCall",
     7,
     8,
     "expand_idx",
     "argument expand_idx: expected the same dispatch behind the rows on all ranks, got call 7 on "
     "ranks 0, 1 and 3, call 8 on rank 2" OUT_OF_STEP},
    {Agreed::kHistory,
     "History",
     0,
     std::int64_t{1} << 48,
     "",
     "expected the same operators in the calls before on all ranks, got sequence 0 on ranks 0, 1 "
     "and 3, sequence 1 on rank 2" OUT_OF_STEP},
};

std::string name_of_case(const ::testing::TestParamInfo<FieldCase>& info) {
  return info.param.name;
}

INSTANTIATE_TEST_SUITE_P(Agreement, EveryField, ::testing::ValuesIn(kFields), name_of_case);

TEST(Agreement, TheTableAboveHasEveryField) {
  ASSERT_EQ(kFields.size(), static_cast<std::size_t>(Agreed::kCount));
  for (std::size_t i = 0; i < kFields.size(); ++i) {
    EXPECT_EQ(static_cast<std::size_t>(kFields[i].field), i);
  }
}

TEST(Agreement, TheFirstFieldThatDiffersIsReported) {
  std::vector<Agreement> by_rank = equal_ranks(3);
  by_rank[1][Agreed::kGlobalBs] = 7;
  by_rank[2][Agreed::kHidden] = 7;
  EXPECT_EQ(compare_all(kCheck, by_rank).info().argument, "x");
  by_rank[0][Agreed::kOperator] = kCombine;
  EXPECT_EQ(compare_all(kCheck, by_rank).info().argument, "");
}

TEST(Agreement, AnUnknownOperatorHasAName) {
  const Status status = compare_values(Agreed::kOperator, {kDispatch, 99});
  EXPECT_NE(status.message().find("an unknown operator on rank 1"), std::string::npos);
}

TEST(Agreement, NumbersThatNameNothingAreSaidAsTheyAre) {
  for (const Agreed field : {Agreed::kOperator, Agreed::kDtype, Agreed::kForm}) {
    const std::int64_t value = (std::int64_t{1} << 32) + 1;  // 1 in fewer bits
    const Status status = compare_values(field, {1, value});
    EXPECT_NE(status.message().find(" on rank 0, 4294967297 on rank 1"), std::string::npos)
        << status.message();
  }
}

TEST(Agreement, RanksOfACallAreNamedByTheirPlaceInTheGroup) {
  std::vector<Agreement> by_rank = equal_ranks(3);
  by_rank[1][Agreed::kHidden] = 7;
  const std::vector<std::uint32_t> completed(3, 0);
  const Status status = compare(kCheck, by_rank, std::vector<int>{5, 2, 9}, completed).status;
  EXPECT_EQ(status.info().ranks, std::vector<int>{2});
  EXPECT_NE(status.message().find("0 on ranks 5 and 9, 7 on rank 2"), std::string::npos)
      << status.message();
}

TEST(Agreement, AnUnknownFormGoesWithEveryForm) {
  constexpr Agreed kForm = Agreed::kForm;
  for (const std::int64_t form : {kFormTriples, kFormOccurrences, kFormUnknown}) {
    EXPECT_TRUE(compare_values(kForm, {kFormUnknown, form, form, kFormUnknown}).ok());
    EXPECT_TRUE(compare_values(kForm, {form, kFormUnknown, form}).ok());
  }
  for (const auto& values :
       {std::vector{kFormUnknown, kFormTriples, kFormOccurrences},
        {kFormTriples, kFormUnknown, kFormOccurrences},
        {kFormOccurrences, kFormTriples, kFormUnknown},
        {kFormUnknown, kFormUnknown, kFormOccurrences, kFormUnknown, kFormTriples}}) {
    const Status status = compare_values(kForm, values);
    ASSERT_EQ(status.code(), StatusCode::kMismatch);
    EXPECT_EQ(status.info().argument, "expand_idx");
    EXPECT_NE(status.message().find("triples on rank"), std::string::npos) << status.message();
  }
}

TEST(OddRanks, OfTwoAreBoth) {
  EXPECT_EQ(compare_values(Agreed::kTopK, {1, 2}).info().ranks, (std::vector<int>{0, 1}));
}

TEST(OddRanks, HalfIsNoMajority) {
  EXPECT_EQ(compare_values(Agreed::kTopK, {1, 1, 2, 2}).info().ranks,
            (std::vector<int>{0, 1, 2, 3}));
  EXPECT_EQ(compare_values(Agreed::kTopK, {1, 1, 2, 3}).info().ranks,
            (std::vector<int>{0, 1, 2, 3}));
}

TEST(OddRanks, AreThoseOutsideTheMajority) {
  EXPECT_EQ(compare_values(Agreed::kTopK, {1, 2, 1}).info().ranks, std::vector<int>{1});
  EXPECT_EQ(compare_values(Agreed::kTopK, {3, 1, 1, 2, 1}).info().ranks, (std::vector<int>{0, 3}));
  EXPECT_EQ(compare_values(Agreed::kTopK, {1, 2, 3}).info().ranks, (std::vector<int>{0, 1, 2}));
}

TEST(OddRanks, AmongManyRanks) {
  for (const std::size_t ranks : {128U, 129U, 1024U}) {
    std::vector<std::int64_t> values(ranks, 5);
    values[ranks - 1] = 6;
    values[7] = 4;
    const Status status = compare_values(Agreed::kHidden, values);
    EXPECT_EQ(status.info().ranks, (std::vector<int>{7, static_cast<int>(ranks) - 1}));
    EXPECT_NE(status.message().find("6 on rank " + std::to_string(ranks - 1)), std::string::npos);
  }
}

TEST(OddRanks, AllOfManyWhereEachHasItsOwnValue) {
  std::vector<std::int64_t> values(200);
  std::iota(values.begin(), values.end(), 1);
  EXPECT_EQ(compare_values(Agreed::kHidden, values).info().ranks, first_ranks(200));
}

TEST(OddRanks, AreTheSameWhicheverRankCompares) {
  std::vector<Agreement> by_rank = equal_ranks(5);
  by_rank[3][Agreed::kQuantMode] = 2;
  for (int r = 0; r < 5; ++r) {
    const Checker check(Operator::kCombineV2, {r, 5});
    const Status status = compare_all(check, by_rank);
    EXPECT_EQ(status.info().ranks, std::vector<int>{3});
    EXPECT_EQ(status.info().op, "npu_moe_distribute_combine_v2");
    EXPECT_EQ(status.message(),
              compare_all(Checker(Operator::kCombineV2, {0, 5}), by_rank).message());
  }
}

TEST(Agreement, RanksThatAreOutOfStepSayHowFarTheyAre) {
  std::vector<Agreement> by_rank(3);
  by_rank[1][Agreed::kOperator] = static_cast<std::int64_t>(Operator::kCombineV2);
  const std::vector<std::uint32_t> completed = {8, 7, 8};
  for (const bool all_fields : {true, false}) {
    const Comparison found = all_fields
                                 ? compare(kCheck, by_rank, first_ranks(3), completed)
                                 : compare_operators(kCheck, by_rank, first_ranks(3), completed);
    EXPECT_TRUE(found.out_of_step);
    EXPECT_EQ(found.status.code(), StatusCode::kMismatch);
    EXPECT_EQ(found.status.info().ranks, std::vector<int>{1});
    EXPECT_NE(found.status.message().find(
                  "out of step and need a reset; completed calls: 7 on rank 1, 8 on ranks 0 and 2"),
              std::string::npos)
        << found.status.message();
  }
  by_rank[1][Agreed::kOperator] = 0;
  by_rank[1][Agreed::kHidden] = 5;
  EXPECT_FALSE(compare(kCheck, by_rank, first_ranks(3), completed).out_of_step);
  EXPECT_TRUE(compare_operators(kCheck, by_rank, first_ranks(3), completed).status.ok());
}

TEST(Agreement, RowsOfDifferentDispatchesAreOutOfStepAndUnmarkedOnesFitAll) {
  const DispatchCall one = make_dispatch_call(3, 1, 5);
  const DispatchCall two = make_dispatch_call(3, 1, 6);
  EXPECT_TRUE(compare_values(Agreed::kDispatchCall, {kUnmarked, one, kUnmarked, one}).ok());
  const Status status = compare_values(Agreed::kDispatchCall, {kUnmarked, one, two, one});
  EXPECT_EQ(status.code(), StatusCode::kMismatch);
  for (const char* part : {"call 5 on ranks 1 and 3", "call 6 on rank 2", "out of step"}) {
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
  }
}

}  // namespace
}  // namespace waybill::contract
