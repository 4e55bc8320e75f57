#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "calls.h"
#include "contract/combine_contract.h"
#include "contract/dispatch_contract.h"

namespace waybill::contract {
namespace {

/// One zero, two copy and three constant experts.
struct SpecialCall : CombineCall {
  SpecialCall() {
    args.zero_expert_num = 1;
    args.copy_expert_num = 2;
    args.const_expert_num = 3;
    args.ori_x = shaped(DType::kBFloat16, {4, 16});
    args.const_expert_alpha_1 = shaped(DType::kBFloat16, {3});
    args.const_expert_alpha_2 = shaped(DType::kBFloat16, {3});
    args.const_expert_v = shaped(DType::kBFloat16, {3, 16});
  }
};

using BadSpecial = BadCall<SpecialCall>;

class SpecialErrors : public ::testing::TestWithParam<BadSpecial> {};

TEST_P(SpecialErrors, NamesArgumentExpectedAndGot) {
  SpecialCall call;
  ASSERT_TRUE(check_combine(kGroup, call.args).ok());
  GetParam().change(call);
  const Status status = check_combine(kGroup, call.args).status();
  ASSERT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.info().argument, GetParam().argument);
  EXPECT_EQ(status.message(), sentence_of("npu_moe_distribute_combine_v2", GetParam()));
}

constexpr const char* kOriX = "(BS, H) = (4, 16) bfloat16";
constexpr const char* kV = "(N, H) = (3, 16) bfloat16";
constexpr const char* kFlat = "(N,) or (N, H) = (3,) bfloat16";
constexpr const char* kRows = "(N, H) = (3, 16) bfloat16";

const std::vector<BadSpecial> kBad = {
    {"CopyExpertsWithoutOriX",
     [](SpecialCall& call) {
       call.args.ori_x.reset();
       call.args.const_expert_num = 0;
     },
     "ori_x",
     "a tensor since copy_expert_num is not 0",
     "None"},
    {"ConstExpertsWithoutOriX",
     [](SpecialCall& call) {
       call.args.ori_x.reset();
       call.args.copy_expert_num = 0;
     },
     "ori_x",
     "a tensor since const_expert_num is not 0",
     "None"},
    {"OriXOfAnotherBatch",
     [](SpecialCall& call) { call.args.ori_x = shaped(DType::kBFloat16, {3, 16}); },
     "ori_x",
     kOriX,
     "(3, 16) bfloat16"},
    {"OriXOfAnotherDtype",
     [](SpecialCall& call) { call.args.ori_x = shaped(DType::kFloat32, {4, 16}); },
     "ori_x",
     kOriX,
     "(4, 16) float32"},
    {"WithoutAlpha1",
     [](SpecialCall& call) { call.args.const_expert_alpha_1.reset(); },
     "const_expert_alpha_1",
     "a tensor since const_expert_num is not 0",
     "None"},
    {"WithoutAlpha2",
     [](SpecialCall& call) { call.args.const_expert_alpha_2.reset(); },
     "const_expert_alpha_2",
     "a tensor since const_expert_num is not 0",
     "None"},
    {"WithoutV",
     [](SpecialCall& call) { call.args.const_expert_v.reset(); },
     "const_expert_v",
     "a tensor since const_expert_num is not 0",
     "None"},
    {"Alpha1OfAnotherLength",
     [](SpecialCall& call) { call.args.const_expert_alpha_1 = shaped(DType::kBFloat16, {2}); },
     "const_expert_alpha_1",
     kFlat,
     "(2,) bfloat16"},
    {"Alpha1OfThreeDimensions",
     [](SpecialCall& call) {
       call.args.const_expert_alpha_1 = shaped(DType::kBFloat16, {3, 1, 16});
     },
     "const_expert_alpha_1",
     kRows,
     "(3, 1, 16) bfloat16"},
    {"AlphasOfTwoForms",
     [](SpecialCall& call) { call.args.const_expert_alpha_2 = shaped(DType::kBFloat16, {3, 16}); },
     "const_expert_alpha_2",
     kFlat,
     "(3, 16) bfloat16"},
    {"AlphasOfTheOtherTwoForms",
     [](SpecialCall& call) { call.args.const_expert_alpha_1 = shaped(DType::kBFloat16, {3, 16}); },
     "const_expert_alpha_2",
     kRows,
     "(3,) bfloat16"},
    {"AlphasOfAnotherHiddenSize",
     [](SpecialCall& call) { call.args.const_expert_alpha_1 = shaped(DType::kBFloat16, {3, 8}); },
     "const_expert_alpha_1",
     kRows,
     "(3, 8) bfloat16"},
    {"AlphasOfAnotherDtype",
     [](SpecialCall& call) { call.args.const_expert_alpha_1 = shaped(DType::kFloat32, {3}); },
     "const_expert_alpha_1",
     kFlat,
     "(3,) float32"},
    {"VOfOneDimension",
     [](SpecialCall& call) { call.args.const_expert_v = shaped(DType::kBFloat16, {3}); },
     "const_expert_v",
     kV,
     "(3,) bfloat16"},
    {"VOfAnotherDtype",
     [](SpecialCall& call) { call.args.const_expert_v = shaped(DType::kFloat16, {3, 16}); },
     "const_expert_v",
     kV,
     "(3, 16) float16"},
};

INSTANTIATE_TEST_SUITE_P(Combine, SpecialErrors, ::testing::ValuesIn(kBad), [](const auto& test) {
  return std::string(test.param.name);
});

TEST(SpecialExperts, AlphasHaveOneOrTwoDimensionsAndAnyStrides) {
  SpecialCall call;
  for (auto* alpha : {&call.args.const_expert_alpha_1, &call.args.const_expert_alpha_2}) {
    *alpha = shaped(DType::kBFloat16, {3, 16});
    (*alpha)->strides = {1, 3};
  }
  call.args.ori_x->strides = {0, 2};
  call.args.const_expert_v->strides = {1, 5};
  EXPECT_TRUE(check_combine(kGroup, call.args).ok());
}

TEST(SpecialExperts, CombineIgnoresWhatItDoesNotNeed) {
  const TensorView anything = with_four_dims(DType::kComplex64);
  SpecialCall copies;
  copies.args.const_expert_num = 0;
  copies.args.const_expert_alpha_1 = anything;
  copies.args.const_expert_alpha_2 = anything;
  copies.args.const_expert_v = anything;
  EXPECT_TRUE(check_combine(kGroup, copies.args).ok());
  SpecialCall zeros;
  zeros.args.copy_expert_num = 0;
  zeros.args.const_expert_num = 0;
  zeros.args.ori_x = anything;
  zeros.args.const_expert_v = anything;
  EXPECT_TRUE(check_combine(kGroup, zeros.args).ok());
}

TEST(SpecialExperts, DispatchNeedsNothingForThemAndAllRanksAgreeOnTheirNumbers) {
  DispatchCall call;
  call.args.zero_expert_num = 1;
  call.args.copy_expert_num = 2;
  call.args.const_expert_num = 3;
  const auto sent = check_dispatch(kGroup, call.args);
  ASSERT_TRUE(sent.ok()) << sent.status().message();
  SpecialCall back;
  const auto returned = check_combine(kGroup, back.args);
  ASSERT_TRUE(returned.ok());
  for (const Agreement& values :
       {agreement_of(*sent, call.args), agreement_of(*returned, back.args.comm_quant_mode)}) {
    EXPECT_EQ(values[Agreed::kZeroExpertNum], 1);
    EXPECT_EQ(values[Agreed::kCopyExpertNum], 2);
    EXPECT_EQ(values[Agreed::kConstExpertNum], 3);
  }
  for (const Topology& topology : {sent->topology, returned->topology}) {
    EXPECT_EQ(topology.special_begin, 8);
    EXPECT_EQ(topology.special_end, 14);
    EXPECT_TRUE(topology.is_routed(7) && !topology.is_special(7));
    EXPECT_TRUE(!topology.is_routed(8) && topology.is_special(8) && topology.is_special(13));
    EXPECT_FALSE(topology.is_special(14) || topology.is_routed(-1) || topology.is_special(-1));
  }
}

TEST(SpecialExperts, KeepTheirBaseUnderElasticInfo) {
  DispatchCall call;
  call.args.zero_expert_num = 2;
  call.args.elastic_info = call.elastic_view();
  const auto shape = check_dispatch(kGroup, call.args);
  ASSERT_TRUE(shape.ok()) << shape.status().message();
  EXPECT_FALSE(shape->topology.is_routed(6) || shape->topology.is_special(6));
  EXPECT_FALSE(shape->topology.is_routed(7) || shape->topology.is_special(7));
  EXPECT_TRUE(shape->topology.is_special(8));
}

}  // namespace
}  // namespace waybill::contract
