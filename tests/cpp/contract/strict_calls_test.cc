// Strict mode's limits as whole calls meet them: check_dispatch, check_combine and the halves of
// the set-up family. The limits themselves are in strict_test.cc.
#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

#include "calls.h"
#include "contract/combine_contract.h"
#include "contract/dispatch_contract.h"

namespace waybill::contract {
namespace {

constexpr std::int64_t kHidden = 1024;
// One GiB for the window.
constexpr GroupFacts kStrictGroup{
    .rank = 1, .world_size = 4, .strict = Strict::kA3, .hccl_buffsize_mb = 1024};
constexpr const char* kNarrow = "1024 <= H <= 8192 in strict mode a3";

/// BS = 4 ids and masks that a3 takes.
struct Tokens {
  std::vector<std::int32_t> ids = {0, 1, 2, 3, 4, 5, 6, 7};
  std::array<bool, 4> mask = {true, true, false, false};

  TensorView ids_view() const { return TensorView::contiguous(ids.data(), DType::kInt32, {4, 2}); }
  TensorView mask_view() const { return TensorView::contiguous(mask.data(), DType::kBool, {4}); }
};

struct StrictDispatch : DispatchCall, Tokens {
  StrictDispatch() {
    args.x = shaped(DType::kBFloat16, {4, kHidden});
    args.expert_ids = ids_view();
    args.x_active_mask = mask_view();
  }
  Status check() const {
    return check_dispatch(kStrictGroup, args, Operator::kDispatchV2).status();
  }
};

struct StrictCombine : CombineCall, Tokens {
  StrictCombine() {
    args.expand_x = shaped(DType::kBFloat16, {6, kHidden});
    args.expert_ids = ids_view();
    args.x_active_mask = mask_view();
  }
  Status check() const { return check_combine(kStrictGroup, args, Operator::kCombineV2).status(); }
};

void expect_error(const Status& status,
                  const std::string& op,
                  const std::string& argument,
                  const std::string& expected,
                  const std::string& got) {
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(
      status.message(),
      op + ": argument " + argument + ": expected " + expected + ", got " + got + " (rank 1)");
}

TEST(StrictDispatch, TakesWhatTheProductTakes) {
  EXPECT_TRUE(StrictDispatch().check().ok()) << StrictDispatch().check().message();
}

TEST(StrictDispatch, HandsOnWhatIsNotAllowed) {
  const std::string op = "npu_moe_distribute_dispatch_v2";
  StrictDispatch narrow;
  narrow.args.x = shaped(DType::kBFloat16, {4, 16});
  expect_error(narrow.check(), op, "x", kNarrow, "16");

  StrictDispatch hole;
  hole.mask = {true, false, true, false};
  expect_error(hole.check(),
               op,
               "x_active_mask",
               "trues before falses in strict mode a3",
               "true at token 2 behind a false");

  StrictDispatch twice;
  twice.ids[3] = 2;
  expect_error(twice.check(),
               op,
               "expert_ids",
               "distinct ids of token 1 in strict mode a3",
               "2 at k 0 and k 1");
}

TEST(StrictCombine, TakesWhatTheProductTakes) {
  EXPECT_TRUE(StrictCombine().check().ok()) << StrictCombine().check().message();
}

TEST(StrictCombine, HandsOnWhatIsNotAllowed) {
  const std::string op = "npu_moe_distribute_combine_v2";
  StrictCombine narrow;
  narrow.args.expand_x = shaped(DType::kBFloat16, {6, 16});
  expect_error(narrow.check(), op, "expand_x", kNarrow, "16");

  StrictCombine hole;
  hole.mask = {false, true, true, false};
  expect_error(hole.check(),
               op,
               "x_active_mask",
               "trues before falses in strict mode a3",
               "true at token 1 behind a false");

  StrictCombine twice;
  twice.ids[0] = 1;
  expect_error(twice.check(),
               op,
               "expert_ids",
               "distinct ids of token 0 in strict mode a3",
               "1 at k 0 and k 1");
}

TEST(StrictCombineSetup, HandsOnWhatIsNotAllowed) {
  StrictCombine narrow;
  narrow.args.expand_x = shaped(DType::kBFloat16, {6, 16});
  expect_error(check_rows(kStrictGroup, narrow.args, Operator::kCombineSetup).status(),
               "npu_moe_distribute_combine_setup",
               "expand_x",
               kNarrow,
               "16");
}

}  // namespace
}  // namespace waybill::contract
