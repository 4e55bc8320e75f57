#include "contract/update_expert_contract.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "calls.h"

namespace waybill::contract {
namespace {

/// A legal call, for tests that change it in one place: BS = 3, K = 2, four logical experts, F = 4,
/// six instances, world_size 3; rank 1.
struct UpdateCall {
  std::vector<std::int32_t> ids = {0, 1, 2, 3, 3, 0};
  std::vector<std::int64_t> long_ids = {0, 1, 2, 3, 3, 0};
  std::vector<std::int32_t> table = {1, 0, -7, -7, 2, 1, 2, -7, 1, 3, -7, -7, 2, 4, 5, -7};
  std::vector<std::uint8_t> mask = {1, 1, 0};
  UpdateExpertArgs args{.expert_ids = TensorView::contiguous(ids.data(), DType::kInt32, {3, 2}),
                        .eplb_table = TensorView::contiguous(table.data(), DType::kInt32, {4, 4}),
                        .expert_scales = shaped(DType::kFloat16, {3, 2}),
                        .pruning_threshold = shaped(DType::kFloat32, {2}),
                        .active_mask = TensorView::contiguous(mask.data(), DType::kBool, {3}),
                        .local_rank_id = 1,
                        .world_size = 3};

  UpdateCall() = default;
  UpdateCall(const UpdateCall&) = delete;  // args points into the vectors
  UpdateCall& operator=(const UpdateCall&) = delete;

  EplbUpdateExpertArgs eplb() const {
    return {.expert_ids = args.expert_ids,
            .eplb_table = args.eplb_table,
            .local_rank_id = args.local_rank_id,
            .world_size = args.world_size,
            .balance_mode = args.balance_mode};
  }
};

using BadUpdate = BadCall<UpdateCall>;

std::string name_of_case(const ::testing::TestParamInfo<BadUpdate>& info) {
  return info.param.name;
}

void expect_error(const Status& status, const char* op, const BadUpdate& bad) {
  ASSERT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.info().op, op);
  EXPECT_EQ(status.info().argument, bad.argument);
  EXPECT_EQ(status.message(), sentence_of(op, bad));
}

/// What is wrong in both operators.
class UpdateExpertErrors : public ::testing::TestWithParam<BadUpdate> {};

TEST_P(UpdateExpertErrors, NameArgumentExpectedAndGot) {
  UpdateCall call;
  ASSERT_TRUE(check_update_expert(call.args, Strict::kNone).ok());
  ASSERT_TRUE(check_eplb_update_expert(call.eplb(), Strict::kNone).ok());
  GetParam().change(call);
  expect_error(check_update_expert(call.args, Strict::kNone), "npu_moe_update_expert", GetParam());
  expect_error(check_eplb_update_expert(call.eplb(), Strict::kNone),
               "npu_moe_eplb_update_expert",
               GetParam());
}

constexpr const char* kIds = "(BS, K) int32 or int64 with K >= 1";
constexpr const char* kTable = "(experts, F) int32 with F >= 1";

const std::vector<BadUpdate> kBoth = {
    {"IdsOfAnotherDtype",
     [](UpdateCall& call) { call.args.expert_ids = shaped(DType::kInt16, {3, 2}); },
     "expert_ids",
     kIds,
     "(3, 2) int16"},
    {"VectorIds",
     [](UpdateCall& call) { call.args.expert_ids = shaped(DType::kInt32, {3}); },
     "expert_ids",
     kIds,
     "(3,) int32"},
    {"IdsWithoutColumns",
     [](UpdateCall& call) { call.args.expert_ids = shaped(DType::kInt32, {3, 0}); },
     "expert_ids",
     kIds,
     "(3, 0) int32"},
    {"IdsOfFourDimensions",
     [](UpdateCall& call) { call.args.expert_ids = with_four_dims(DType::kInt32); },
     "expert_ids",
     kIds,
     "a tensor of 4 dimensions int32"},
    {"LongTable",
     [](UpdateCall& call) { call.args.eplb_table = shaped(DType::kInt64, {4, 4}); },
     "eplb_table",
     kTable,
     "(4, 4) int64"},
    {"VectorTable",
     [](UpdateCall& call) { call.args.eplb_table = shaped(DType::kInt32, {4}); },
     "eplb_table",
     kTable,
     "(4,) int32"},
    {"TableWithoutColumns",
     [](UpdateCall& call) { call.args.eplb_table = shaped(DType::kInt32, {4, 0}); },
     "eplb_table",
     kTable,
     "(4, 0) int32"},
    {"NoInstance",
     [](UpdateCall& call) { call.table[8] = 0; },
     "eplb_table",
     "a count 1 <= c <= F-1 = 3 first in row 2",
     "0"},
    {"CountPastTheRow",
     [](UpdateCall& call) { call.table[4] = 4; },
     "eplb_table",
     "a count 1 <= c <= F-1 = 3 first in row 1",
     "4"},
    {"CountPastTheWorld",
     [](UpdateCall& call) {
       call.table[4] = 3;
       call.table[7] = 9;
       call.args.world_size = 2;
     },
     "eplb_table",
     "a count c <= world_size = 2 since balance_mode is 0, first in row 1",
     "3"},
    {"NegativeInstance",
     [](UpdateCall& call) { call.table[14] = -1; },
     "eplb_table",
     "an instance >= 0 at row 3, column 2",
     "-1"},
    {"RankPastTheWorld",
     [](UpdateCall& call) { call.args.world_size = 1; },
     "local_rank_id",
     "0 <= local_rank_id < world_size = 1 since balance_mode is 0",
     "1"},
    {"NoWorld",
     [](UpdateCall& call) { call.args.world_size = -1; },
     "world_size",
     "world_size >= 1 since balance_mode is 0",
     "-1"},
};

INSTANTIATE_TEST_SUITE_P(Both, UpdateExpertErrors, ::testing::ValuesIn(kBoth), name_of_case);

/// What is wrong in arguments that only update_expert has.
class PruningErrors : public ::testing::TestWithParam<BadUpdate> {};

TEST_P(PruningErrors, NameArgumentExpectedAndGot) {
  UpdateCall call;
  GetParam().change(call);
  expect_error(check_update_expert(call.args, Strict::kNone), "npu_moe_update_expert", GetParam());
  EXPECT_TRUE(check_eplb_update_expert(UpdateCall().eplb(), Strict::kNone).ok());
}

constexpr const char* kScales = "(BS, K) = (3, 2) bfloat16, float16 or float32";
constexpr const char* kThreshold = "(K,) = (2,) or (1, K) float32";

const std::vector<BadUpdate> kPruning = {
    {"OnlyScales",
     [](UpdateCall& call) { call.args.pruning_threshold.reset(); },
     "pruning_threshold",
     "a tensor since expert_scales is given",
     "None"},
    {"OnlyThreshold",
     [](UpdateCall& call) { call.args.expert_scales.reset(); },
     "expert_scales",
     "a tensor since pruning_threshold is given",
     "None"},
    {"ScalesOfAnotherShape",
     [](UpdateCall& call) { call.args.expert_scales = shaped(DType::kFloat32, {2, 3}); },
     "expert_scales",
     kScales,
     "(2, 3) float32"},
    {"ScalesOfAnotherDtype",
     [](UpdateCall& call) { call.args.expert_scales = shaped(DType::kFloat64, {3, 2}); },
     "expert_scales",
     kScales,
     "(3, 2) float64"},
    {"ThresholdOfAnotherLength",
     [](UpdateCall& call) { call.args.pruning_threshold = shaped(DType::kFloat32, {3}); },
     "pruning_threshold",
     kThreshold,
     "(3,) float32"},
    {"ThresholdAToken",
     [](UpdateCall& call) { call.args.pruning_threshold = shaped(DType::kFloat32, {3, 2}); },
     "pruning_threshold",
     kThreshold,
     "(3, 2) float32"},
    {"ThresholdOfAnotherDtype",
     [](UpdateCall& call) { call.args.pruning_threshold = shaped(DType::kFloat16, {1, 2}); },
     "pruning_threshold",
     kThreshold,
     "(1, 2) float16"},
    {"MaskOfPairs",
     [](UpdateCall& call) { call.args.active_mask = shaped(DType::kBool, {3, 2}); },
     "active_mask",
     "(BS,) = (3,) bool",
     "(3, 2) bool"},
    {"MaskOfAnotherDtype",
     [](UpdateCall& call) { call.args.active_mask = shaped(DType::kUInt8, {3}); },
     "active_mask",
     "(BS,) = (3,) bool",
     "(3,) uint8"},
    {"UnknownMode",
     [](UpdateCall& call) { call.args.balance_mode = 2; },
     "balance_mode",
     "0 or 1",
     "2"},
};

INSTANTIATE_TEST_SUITE_P(Pruning, PruningErrors, ::testing::ValuesIn(kPruning), name_of_case);

/// Both operators refuse the id at the place; each names its own ways to leave a choice out.
void expect_bad_id(const UpdateCall& call, const std::string& got) {
  const auto sentence = [&](const char* op, const std::string& ways) {
    return std::string(op) + ": argument expert_ids: expected ids in [0, 4), the rows of " +
           "eplb_table (" + ways + " leaves a choice out), got " + got + " (rank 1)";
  };
  EXPECT_EQ(check_update_expert(call.args, Strict::kNone).message(),
            sentence("npu_moe_update_expert", "-1 or false in active_mask"));
  EXPECT_EQ(check_eplb_update_expert(call.eplb(), Strict::kNone).message(),
            sentence("npu_moe_eplb_update_expert", "-1"));
}

TEST(UpdateExpertIds, OutsideTheTableAreNamedWithTheirPlace) {
  UpdateCall call;
  call.ids[3] = -2;
  expect_bad_id(call, "-2 at token 1, k 1");
  call.ids[2] = 4;
  expect_bad_id(call, "4 at token 1, k 0");
  call.long_ids[1] = std::int64_t{1} << 32;
  call.args.expert_ids = TensorView::contiguous(call.long_ids.data(), DType::kInt64, {3, 2});
  expect_bad_id(call, "4294967296 at token 0, k 1");
}

TEST(UpdateExpertIds, OfTokensThatAreNotActiveAreNotRead) {
  UpdateCall call;  // token 2 is not active
  call.ids[4] = 4;
  call.ids[5] = std::numeric_limits<std::int32_t>::min();
  EXPECT_TRUE(check_update_expert(call.args, Strict::kNone).ok());
  EXPECT_TRUE(check_update_expert(call.args, Strict::kA3).ok());
  EXPECT_EQ(check_eplb_update_expert(call.eplb(), Strict::kNone).info().argument, "expert_ids");
}

TEST(UpdateExpertIds, MinusOneIsNotRoutedButInStrictModes) {
  UpdateCall call;
  call.ids[3] = -1;
  call.long_ids[3] = -1;
  for (const bool long_ids : {false, true}) {
    if (long_ids) {
      call.args.expert_ids = TensorView::contiguous(call.long_ids.data(), DType::kInt64, {3, 2});
    }
    EXPECT_TRUE(check_update_expert(call.args, Strict::kNone).ok());
    EXPECT_TRUE(check_eplb_update_expert(call.eplb(), Strict::kNone).ok());
    for (const Status& status : {check_update_expert(call.args, Strict::kA3),
                                 check_eplb_update_expert(call.eplb(), Strict::kA3)}) {
      EXPECT_EQ(status.info().argument, "expert_ids");
      EXPECT_NE(status.message().find("expected ids of experts, not -1, in strict mode a3, got -1 "
                                      "at token 1, k 1 (rank 1)"),
                std::string::npos)
          << status.message();
    }
  }
}

TEST(EplbUpdateExpert, HasOnlyModeZero) {
  UpdateCall call;
  call.args.balance_mode = 1;
  EXPECT_TRUE(check_update_expert(call.args, Strict::kNone).ok());
  EXPECT_EQ(check_eplb_update_expert(call.eplb(), Strict::kNone).message(),
            "npu_moe_eplb_update_expert: argument balance_mode: expected 0, got 1 (rank 1)");
}

TEST(UpdateExpert, ModeOneNeedsNoRankAndNoWorld) {
  UpdateCall call;
  call.args.balance_mode = 1;
  call.args.local_rank_id = -1;
  call.args.world_size = -1;
  EXPECT_TRUE(check_update_expert(call.args, Strict::kNone).ok());
}

TEST(UpdateExpert, ARankThatIsNoneIsAnError) {
  for (std::int64_t rank : {std::int64_t{-1}, std::numeric_limits<std::int64_t>::max()}) {
    UpdateCall call;
    call.args.local_rank_id = rank;
    const Status status = check_update_expert(call.args, Strict::kNone);
    ASSERT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(status.info().argument, "local_rank_id");
    EXPECT_NE(status.message().find(", got " + std::to_string(rank)), std::string::npos);
  }
}

TEST(UpdateExpert, AnEmptyBatchStillHasATableToCheck) {
  UpdateCall call;
  call.args = {.expert_ids = shaped(DType::kInt32, {0, 2}),
               .eplb_table = call.args.eplb_table,
               .local_rank_id = 1,
               .world_size = 3};
  EXPECT_TRUE(check_update_expert(call.args, Strict::kNone).ok());
  call.table[12] = 0;
  EXPECT_EQ(check_update_expert(call.args, Strict::kNone).info().argument, "eplb_table");
  call.args.eplb_table = shaped(DType::kInt32, {0, 1});
  EXPECT_TRUE(check_update_expert(call.args, Strict::kNone).ok());
}

// The limits themselves: strict_test.cc. Here: that they see this call's numbers.
TEST(UpdateExpert, StrictModesSeeTheCall) {
  UpdateCall call;
  EXPECT_TRUE(check_update_expert(call.args, Strict::kA3).ok());
  EXPECT_TRUE(check_eplb_update_expert(call.eplb(), Strict::kA3).ok());
  EXPECT_EQ(check_update_expert(call.args, Strict::kA2).info().argument, "strict");
  call.args.world_size = 4;  // six instances
  EXPECT_EQ(check_update_expert(call.args, Strict::kA3).info().argument, "eplb_table");
  EXPECT_EQ(check_eplb_update_expert(call.eplb(), Strict::kA3).info().argument, "eplb_table");
  call.args.balance_mode = 1;
  EXPECT_EQ(check_update_expert(call.args, Strict::kA3).info().argument, "eplb_table");
  call.args.world_size = -1;
  EXPECT_TRUE(check_update_expert(call.args, Strict::kA3).ok());
  call.mask = {0, 1, 0};
  EXPECT_EQ(check_update_expert(call.args, Strict::kA3).info().argument, "active_mask");
}

}  // namespace
}  // namespace waybill::contract
