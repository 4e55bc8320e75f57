// The operators that differ from dispatch_v2 and combine_v2 in a few arguments: v1, the norm,
// setup.
#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "calls.h"
#include "contract/combine_contract.h"
#include "contract/dispatch_contract.h"

namespace waybill::contract {
namespace {

/// A legal call of npu_moe_distribute_combine.
struct OldCombine : CombineCall {
  OldCombine() {
    args.form = IndexForm::kOccurrences;
    args.assist_info_for_combine = shaped(DType::kInt32, {8});
  }
};

using BadOldCombine = BadCall<OldCombine>;

class Reserved : public ::testing::TestWithParam<BadOldCombine> {};

TEST_P(Reserved, NamesArgumentExpectedAndGot) {
  for (const Operator op : {Operator::kCombine, Operator::kCombineAddRmsNorm}) {
    OldCombine call;
    ASSERT_TRUE(check_combine(kGroup, call.args, op).ok());
    GetParam().change(call);
    const Status status = check_combine(kGroup, call.args, op).status();
    ASSERT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(status.info().argument, GetParam().argument);
    EXPECT_EQ(status.message(), sentence_of(name_of(op), GetParam()));
  }
}

const std::vector<BadOldCombine> kReserved = {
    {"ActivationScale",
     [](OldCombine& call) { call.args.activation_scale = shaped(DType::kFloat32, {6}); },
     "activation_scale",
     "None",
     "(6,) float32"},
    {"WeightScale",
     [](OldCombine& call) { call.args.weight_scale = shaped(DType::kFloat32, {2, 16}); },
     "weight_scale",
     "None",
     "(2, 16) float32"},
    {"GroupList",
     [](OldCombine& call) { call.args.group_list = shaped(DType::kInt64, {2}); },
     "group_list",
     "None",
     "(2,) int64"},
    {"OutDtype", [](OldCombine& call) { call.args.out_dtype = 1; }, "out_dtype", "0", "1"},
    {"GroupListType",
     [](OldCombine& call) { call.args.group_list_type = -1; },
     "group_list_type",
     "0",
     "-1"},
    {"TooFewIndices",
     [](OldCombine& call) { call.args.assist_info_for_combine = shaped(DType::kInt32, {7}); },
     "expand_idx",
     "a vector of at least 8 int32 (BS*K)",
     "(7,) int32"},
    {"LongIndices",
     [](OldCombine& call) { call.args.assist_info_for_combine = shaped(DType::kInt64, {8}); },
     "expand_idx",
     "a vector of at least 0 int32 (dispatch's third output)",
     "(8,) int64"},
    {"IndicesOfTwoDimensions",
     [](OldCombine& call) { call.args.assist_info_for_combine = shaped(DType::kInt32, {4, 2}); },
     "expand_idx",
     "a vector of at least 0 int32 (dispatch's third output)",
     "(4, 2) int32"},
};

INSTANTIATE_TEST_SUITE_P(V1, Reserved, ::testing::ValuesIn(kReserved), [](const auto& test) {
  return std::string(test.param.name);
});

TEST(V1, IsItsOwnOperatorWithItsOwnForm) {
  DispatchCall dispatch;
  dispatch.args.form = IndexForm::kOccurrences;
  const auto sent = check_dispatch(kGroup, dispatch.args);
  ASSERT_TRUE(sent.ok());
  EXPECT_TRUE(sent->occurrences);
  EXPECT_EQ(output_shapes(*sent).assist_info_for_combine, (Dims{4 * 2}));
  const Agreement values = agreement_of(*sent, dispatch.args);
  EXPECT_EQ(values[Agreed::kOperator], static_cast<std::int64_t>(Operator::kDispatch));
  EXPECT_EQ(values[Agreed::kForm], kFormOccurrences);

  OldCombine combine;
  const auto back = check_combine(kGroup, combine.args);
  ASSERT_TRUE(back.ok()) << back.status().message();
  EXPECT_EQ(back->op, Operator::kCombine);
  EXPECT_EQ(agreement_of(*back, 0)[Agreed::kOperator],
            static_cast<std::int64_t>(Operator::kCombine));
  EXPECT_EQ(agreement_of(*back, 0)[Agreed::kForm], kFormOccurrences);
}

TEST(V1, IndicesMayBeLonger) {
  OldCombine call;
  call.args.assist_info_for_combine = shaped(DType::kInt32, {1000});
  EXPECT_EQ(check_combine(kGroup, call.args)->form, kFormOccurrences);
}

/// A legal call of combine_add_rms_norm.
struct NormCall : CombineCall {
  CombineAddRmsNormArgs norm;
  NormCall() {
    norm.residual_x = shaped(DType::kBFloat16, {4, 1, 16});
    norm.gamma = shaped(DType::kBFloat16, {16});
  }
  Status check() {
    norm.combine = args;
    const auto shape = check_combine(kGroup, args, Operator::kCombineAddRmsNorm);
    return shape.ok() ? check_norm(kGroup, *shape, norm) : shape.status();
  }
};

using BadNorm = BadCall<NormCall>;

class NormErrors : public ::testing::TestWithParam<BadNorm> {};

TEST_P(NormErrors, NamesArgumentExpectedAndGot) {
  NormCall call;
  ASSERT_TRUE(call.check().ok());
  GetParam().change(call);
  const Status status = call.check();
  ASSERT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), sentence_of("npu_moe_distribute_combine_add_rms_norm", GetParam()));
}

constexpr const char* kResidual = "(BS, 1, H) = (4, 1, 16) or (BS, H), bfloat16";
constexpr const char* kGamma = "(H,) = (16,) bfloat16";

const std::vector<BadNorm> kBadNorm = {
    {"ResidualOfAnotherBatch",
     [](NormCall& call) { call.norm.residual_x = shaped(DType::kBFloat16, {5, 1, 16}); },
     "residual_x",
     kResidual,
     "(5, 1, 16) bfloat16"},
    {"ResidualWithItsTokensInTheMiddle",
     [](NormCall& call) { call.norm.residual_x = shaped(DType::kBFloat16, {1, 4, 16}); },
     "residual_x",
     kResidual,
     "(1, 4, 16) bfloat16"},
    {"ResidualOfOneDimension",
     [](NormCall& call) { call.norm.residual_x = shaped(DType::kBFloat16, {64}); },
     "residual_x",
     kResidual,
     "(64,) bfloat16"},
    {"ResidualOfAnotherDtype",
     [](NormCall& call) { call.norm.residual_x = shaped(DType::kFloat32, {4, 16}); },
     "residual_x",
     kResidual,
     "(4, 16) float32"},
    {"GammaOfAnotherLength",
     [](NormCall& call) { call.norm.gamma = shaped(DType::kBFloat16, {8}); },
     "gamma",
     kGamma,
     "(8,) bfloat16"},
    {"GammaOfTwoDimensions",
     [](NormCall& call) { call.norm.gamma = shaped(DType::kBFloat16, {1, 16}); },
     "gamma",
     kGamma,
     "(1, 16) bfloat16"},
    {"GammaOfAnotherDtype",
     [](NormCall& call) { call.norm.gamma = shaped(DType::kFloat32, {16}); },
     "gamma",
     kGamma,
     "(16,) float32"},
    {"TooFewTriples",
     [](NormCall& call) { call.args.assist_info_for_combine = shaped(DType::kInt32, {14}); },
     "expand_idx",
     "a vector of at least 15 int32 (a triple a row)",
     "(14,) int32"},
    {"TooFewIndices",
     [](NormCall& call) { call.args.assist_info_for_combine = shaped(DType::kInt32, {7}); },
     "expand_idx",
     "a vector of at least 8 int32 (BS*K)",
     "(7,) int32"},
};

INSTANTIATE_TEST_SUITE_P(AddRmsNorm,
                         NormErrors,
                         ::testing::ValuesIn(kBadNorm),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(AddRmsNorm, ResidualHasTwoOrThreeDimensions) {
  NormCall call;
  call.norm.residual_x = shaped(DType::kBFloat16, {4, 16});
  EXPECT_TRUE(call.check().ok());
}

TEST(AddRmsNorm, FindsItsFormByTheLengthWhateverItIsTold) {
  const auto form_of = [](std::int64_t length, IndexForm told) {
    CombineCall call;
    call.args.form = told;
    call.args.assist_info_for_combine = shaped(DType::kInt32, {length});
    const auto shape = check_combine(kGroup, call.args, Operator::kCombineAddRmsNorm);
    EXPECT_TRUE(shape.ok()) << shape.status().message();
    return shape->form;
  };
  for (const IndexForm told : {IndexForm::kTriples, IndexForm::kOccurrences}) {
    EXPECT_EQ(form_of(8, told), kFormOccurrences);
    EXPECT_EQ(form_of(15, told), kFormTriples);
    EXPECT_EQ(form_of(16 * 2 * 128, told), kFormTriples);
  }
}

TEST(AddRmsNorm, ARankThatCanReceiveNothingGoesWithBothForms) {
  CombineCall call;  // no experts and no shared ranks: A = 0, and triples are (BS*K,) too
  call.args.layer.moe_expert_num = 0;
  call.args.ep_send_counts = shaped(DType::kInt32, {0});
  call.args.assist_info_for_combine = shaped(DType::kInt32, {8});
  const auto shape = check_combine(kGroup, call.args, Operator::kCombineAddRmsNorm);
  ASSERT_TRUE(shape.ok()) << shape.status().message();
  EXPECT_EQ(shape->form, kFormUnknown);
  EXPECT_EQ(agreement_of(*shape, 0)[Agreed::kForm], kFormUnknown);
}

TEST(AddRmsNorm, ARankWithoutTokensKnowsItsFormFromTheRoomForRows) {
  CombineCall call;
  call.args.layer.global_bs = 16;
  call.args.expert_ids = shaped(DType::kInt32, {0, 2});
  call.args.expert_scales = shaped(DType::kFloat32, {0, 2});
  for (const auto& [length, form] : {std::pair{std::int64_t{0}, kFormOccurrences},
                                     std::pair{std::int64_t{4096}, kFormTriples}}) {
    call.args.assist_info_for_combine = shaped(DType::kInt32, {length});
    const auto shape = check_combine(kGroup, call.args, Operator::kCombineAddRmsNorm);
    ASSERT_TRUE(shape.ok()) << shape.status().message();
    EXPECT_EQ(shape->form, form);
  }
}

TEST(Setup, ScalesHaveARowForEachSharedExpertAsPassed) {
  struct Case {
    std::int64_t s, sr, rows, first;
  };
  // M = 8 with SR = 0, M = 6 with SR = 2 (E = 4).
  for (const auto& [s, sr, rows, first] :
       {Case{1, 0, 9, 1}, Case{1, 0, 8, 0}, Case{0, 0, 8, 0}, Case{1, 2, 7, 1}, Case{2, 2, 8, 2}}) {
    DispatchCall call;
    call.args.quant_mode = 2;
    call.args.layer.shared_expert_num = s;
    call.args.layer.shared_expert_rank_num = sr;
    call.args.layer.moe_expert_num = sr == 0 ? 8 : 6;
    call.args.scales = shaped(DType::kFloat32, {rows, 16});
    const auto shape = check_dispatch(kGroup, call.args, Operator::kDispatchSetup);
    ASSERT_TRUE(shape.ok()) << shape.status().message();
    EXPECT_EQ(shape->first_scale_row, first);
    for (const std::int64_t wrong : {rows + 2, sr > 0 ? std::int64_t{6} : rows - 2}) {
      call.args.scales = shaped(DType::kFloat32, {wrong, 16});
      EXPECT_EQ(
          check_dispatch(kGroup, call.args, Operator::kDispatchSetup).status().info().argument,
          "scales");
    }
  }
}

TEST(Setup, OutsideOfItScalesCountTheSharedExpertsThatThereAre) {
  DispatchCall call;
  call.args.quant_mode = 2;
  call.args.scales = shaped(DType::kFloat32, {9, 16});
  EXPECT_EQ(check_dispatch(kGroup, call.args).status().info().argument, "scales");
  call.args.scales = shaped(DType::kFloat32, {8, 16});
  EXPECT_EQ(check_dispatch(kGroup, call.args)->first_scale_row, 0);
}

TEST(Setup, CombineReadsTheCountsFromTheThirdOutput) {
  CombineCall call;
  call.args.form = IndexForm::kOccurrences;
  call.args.assist_info_for_combine = {};
  call.args.expert_scales = {};
  const auto shape = check_rows(kGroup, call.args, Operator::kCombineSetup);
  ASSERT_TRUE(shape.ok()) << shape.status().message();
  EXPECT_EQ(shape->rows, 5);
  EXPECT_EQ(shape->form, kFormOccurrences);
  call.counts[7] = 3;
  const Status falls = check_rows(kGroup, call.args, Operator::kCombineSetup).status();
  EXPECT_EQ(falls.info().argument, "assist_info_for_combine");
  EXPECT_EQ(falls.info().op, "npu_moe_distribute_combine_setup");
}

TEST(PerformanceInfo, HasAnElementARank) {
  DispatchCall dispatch;
  dispatch.args.performance_info = shaped(DType::kInt64, {4});
  EXPECT_TRUE(check_dispatch(kGroup, dispatch.args).ok());
  CombineCall combine;
  combine.args.performance_info = shaped(DType::kInt64, {4});
  EXPECT_TRUE(check_combine(kGroup, combine.args).ok());
}

}  // namespace
}  // namespace waybill::contract
