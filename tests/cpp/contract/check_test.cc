#include "contract/check.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "calls.h"

namespace waybill::contract {
namespace {

TEST(Describe, ShapesAsPythonWritesThem) {
  EXPECT_EQ(describe(Dims{}), "()");
  EXPECT_EQ(describe(Dims{7}), "(7,)");
  EXPECT_EQ(describe(Dims{2, 3}), "(2, 3)");
  EXPECT_EQ(describe(Dims{2, 3, 4}), "(2, 3, 4)");
}

TEST(Describe, TensorsWithTheirDtype) {
  EXPECT_EQ(describe(shaped(DType::kBFloat16, {2, 3})), "(2, 3) bfloat16");
  EXPECT_EQ(describe(shaped(DType::kOther, {1})), "(1,) another dtype");
  EXPECT_EQ(describe(with_four_dims(DType::kInt64)), "a tensor of 4 dimensions int64");
}

TEST(Checker, ErrorsNameOperatorArgumentExpectedGotAndRank) {
  const Checker check(Operator::kCombineV2, {5, 8});
  const Status status = check.fail("global_bs", "something else", 7);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.info().op, "npu_moe_distribute_combine_v2");
  EXPECT_EQ(status.info().argument, "global_bs");
  EXPECT_EQ(status.message(),
            "npu_moe_distribute_combine_v2: argument global_bs: expected something else, got 7 "
            "(rank 5)");
}

TEST(Checker, WhatIsNotYetSupportedSaysSo) {
  const Checker check(Operator::kDispatchV2, {0, 1});
  EXPECT_NE(check.not_yet("quant_mode", "4").message().find("is not yet), got 4"),
            std::string::npos);
}

TEST(Checker, AnArgumentThatMustBeAbsentIsDescribed) {
  const Checker check(Operator::kCombine, {0, 1});
  EXPECT_TRUE(check.absent("group_list", std::nullopt).ok());
  const Status status = check.absent("group_list", shaped(DType::kInt64, {3}));
  EXPECT_EQ(status.info().argument, "group_list");
  EXPECT_NE(status.message().find("expected None, got (3,) int64"), std::string::npos);
}

TEST(Checker, ExpectComparesDimensionsShapeAndDtype) {
  const Checker check(Operator::kDispatchV2, {0, 1});
  const auto matches = [&](const TensorView& view) {
    return check.expect("t", view, {2, 3}, "(A, B)", DType::kFloat32).ok();
  };
  EXPECT_TRUE(matches(shaped(DType::kFloat32, {2, 3})));
  EXPECT_FALSE(matches(shaped(DType::kFloat16, {2, 3})));
  EXPECT_FALSE(matches(shaped(DType::kFloat32, {3, 2})));
  EXPECT_FALSE(matches(shaped(DType::kFloat32, {6})));
  EXPECT_FALSE(matches(shaped(DType::kFloat32, {2, 3, 1})));
  EXPECT_FALSE(matches(with_four_dims(DType::kFloat32)));
}

TEST(Operators, HaveTheVendorsNames) {
  EXPECT_STREQ(name_of(Operator::kDispatchV2), "npu_moe_distribute_dispatch_v2");
  EXPECT_STREQ(name_of(Operator::kCombineV2), "npu_moe_distribute_combine_v2");
  EXPECT_STREQ(name_of(Operator::kDispatch), "npu_moe_distribute_dispatch");
  EXPECT_STREQ(name_of(Operator::kCombine), "npu_moe_distribute_combine");
  EXPECT_STREQ(name_of(Operator::kCombineAddRmsNorm), "npu_moe_distribute_combine_add_rms_norm");
  EXPECT_STREQ(name_of(Operator::kDispatchSetup), "npu_moe_distribute_dispatch_setup");
  EXPECT_STREQ(name_of(Operator::kDispatchTeardown), "npu_moe_distribute_dispatch_teardown");
  EXPECT_STREQ(name_of(Operator::kCombineSetup), "npu_moe_distribute_combine_setup");
  EXPECT_STREQ(name_of(Operator::kCombineTeardown), "npu_moe_distribute_combine_teardown");
  EXPECT_STREQ(name_of(Operator::kBarrier), "_npu_distribute_barrier");
  EXPECT_STREQ(name_of(Operator::kNone), "an unknown operator");
}

}  // namespace
}  // namespace waybill::contract
