#include "contract/dispatch_mark.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "contract/agreement.h"

namespace waybill::contract {
namespace {

TensorView view_of(const std::vector<std::int32_t>& ints) {
  return TensorView::contiguous(
      ints.data(), DType::kInt32, {static_cast<std::int64_t>(ints.size())});
}

std::vector<std::int32_t> counted(std::int64_t size) {
  std::vector<std::int32_t> ints(static_cast<std::size_t>(size));
  std::iota(ints.begin(), ints.end(), 5);
  return ints;
}

TEST(DispatchMark, IsReadWhereItWasWritten) {
  const DispatchCall call = make_dispatch_call(0x123456789abcdef, 3, 41);
  EXPECT_EQ(dispatch_call_text(call), "call 41");
  for (const std::int64_t used : {1, 3, 11, 12, 13, 23, 24, 25, 300}) {
    std::vector<std::int32_t> ints = counted(used + kMarkInts + 2);
    EXPECT_EQ(read_mark(view_of(ints), used), kUnmarked);
    write_mark(ints, used, call);
    EXPECT_EQ(read_mark(view_of(ints), used), call);
    EXPECT_EQ(read_mark(view_of(ints), used + 1), kUnmarked);
    for (std::int64_t i = 0; i < used; ++i) {
      EXPECT_EQ(ints[static_cast<std::size_t>(i)], 5 + i);
    }
  }
}

TEST(DispatchMark, GoesWithTheListThatItStandsBehind) {
  std::vector<std::int32_t> ints = counted(30 + kMarkInts);
  write_mark(ints, 30, make_dispatch_call(1, 1, 1));
  for (const std::size_t changed : {0U, 11U, 18U, 29U}) {
    std::vector<std::int32_t> other = ints;
    ++other[changed];
    EXPECT_EQ(read_mark(view_of(other), 30), kUnmarked) << changed;
  }
}

TEST(DispatchMark, AListWithoutElementsHasNone) {
  std::vector<std::int32_t> ints = counted(20);
  write_mark(ints, 0, make_dispatch_call(1, 1, 1));
  EXPECT_EQ(ints, counted(20));
  EXPECT_EQ(read_mark(view_of(ints), 0), kUnmarked);
}

TEST(DispatchMark, NeedsRoom) {
  std::vector<std::int32_t> ints = counted(8);
  const std::vector<std::int32_t> before = ints;
  write_mark(ints, 3, make_dispatch_call(1, 1, 1));
  EXPECT_EQ(ints, before);
  EXPECT_EQ(read_mark(view_of(ints), 3), kUnmarked);
  EXPECT_EQ(read_mark(view_of(ints), 9), kUnmarked);
}

TEST(DispatchMark, IsReadThroughStrides) {
  std::vector<std::int32_t> ints = counted(2 + kMarkInts);
  const DispatchCall call = make_dispatch_call(7, 2, 9);
  write_mark(ints, 2, call);
  std::vector<std::int32_t> spread(2 * ints.size(), -1);
  for (std::size_t i = 0; i < ints.size(); ++i) {
    spread[2 * i] = ints[i];
  }
  TensorView view = view_of(ints);
  view.data = spread.data();
  view.strides = {2};
  EXPECT_EQ(read_mark(view, 2), call);
}

TEST(DispatchMark, TellsCallsEpochsAndGroupsApart) {
  const DispatchCall call = make_dispatch_call(1, 1, 1);
  EXPECT_NE(call, make_dispatch_call(1, 1, 2));
  EXPECT_NE(call, make_dispatch_call(1, 2, 1));
  EXPECT_NE(call, make_dispatch_call(2, 1, 1));
  EXPECT_NE(call, kUnmarked);
}

}  // namespace
}  // namespace waybill::contract
