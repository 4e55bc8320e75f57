// Sizes that arithmetic cannot hold are errors, also where a tensor of them takes no memory: one
// without elements, or an expanded one.

#include <gtest/gtest.h>

#include <cstdint>

#include "calls.h"
#include "contract/combine_contract.h"
#include "contract/dispatch_contract.h"
#include "contract/update_expert_contract.h"

namespace waybill::contract {
namespace {

constexpr std::int64_t kLarge = std::int64_t{1} << 40;

void expect_bad(const Status& status, const char* argument, const std::string& text) {
  ASSERT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.info().argument, argument);
  EXPECT_NE(status.message().find(text), std::string::npos) << status.message();
}

Status dispatch_of(std::int64_t bs, std::int64_t h, std::int64_t k, std::int64_t global_bs = 0) {
  DispatchCall call;
  call.args.x = shaped(DType::kBFloat16, {bs, h});
  call.args.expert_ids = shaped(DType::kInt32, {bs, k});
  call.args.layer.global_bs = global_bs;
  return check_dispatch(kGroup, call.args).status();
}

TEST(Bounds, NegativeBatch) { expect_bad(dispatch_of(-4, 16, 2), "x", "got (-4, 16)"); }

TEST(Bounds, RowsWhoseBytesDoNotFit) {
  expect_bad(dispatch_of(kLarge, 1 << 16, 2), "x", "at most 2^55 elements");
  CombineCall call;
  call.args.expand_x = shaped(DType::kBFloat16, {kLarge, 1 << 16});
  expect_bad(check_combine(kGroup, call.args).status(), "expand_x", "at most 2^55 elements");
}

TEST(Bounds, PairsThatDoNotFit) {
  expect_bad(dispatch_of(kLarge, 16, 2), "expert_ids", "BS*K < 2^31 and K < 2^31");
  expect_bad(dispatch_of(kLarge, 16, kLarge), "expert_ids", "got (1099511627776, 1099511627776)");
  expect_bad(dispatch_of(0, 16, kLarge), "expert_ids", "got (0, 1099511627776)");
}

TEST(Bounds, PairsThatOtherRanksMayHave) {
  const std::int64_t most = (std::int64_t{1} << 31) - 1;
  expect_bad(dispatch_of(0, 16, most, 8), "global_bs", "maxBS*K is below 2^31");
  EXPECT_TRUE(dispatch_of(0, 16, most, 4).ok());
}

TEST(Bounds, NegativeBatchOfCombine) {
  CombineCall call;
  call.args.expert_ids = shaped(DType::kInt32, {-4, 2});
  expect_bad(check_combine(kGroup, call.args).status(), "expert_ids", "got (-4, 2)");
}

TEST(Bounds, SharedExpertXWhoseTokensDoNotFit) {
  CombineCall call;
  call.args.shared_expert_x = shaped(DType::kBFloat16, {kLarge, kLarge, 16});
  expect_bad(check_combine(kGroup, call.args).status(), "shared_expert_x", "(BS, H) = (4, 16)");
}

TEST(Bounds, NegativeBatchOfUpdateExpert) {
  UpdateExpertArgs args{.expert_ids = shaped(DType::kInt32, {-1, 2}),
                        .eplb_table = shaped(DType::kInt32, {0, 4}),
                        .local_rank_id = 0,
                        .world_size = 1};
  expect_bad(check_update_expert(args, Strict::kNone), "expert_ids", "got (-1, 2)");
}

}  // namespace
}  // namespace waybill::contract
