#include "waybill/status.h"

#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/errors.h"

namespace waybill {
namespace {

Status timeout_of_two() {
  return error(StatusCode::kTimeout, "combine", "", "combine: ranks 1 and 3 did not come", {1, 3});
}

TEST(Status, SuccessHasNoInfoAndSaysOk) {
  const Status status;
  EXPECT_TRUE(status.ok());
  EXPECT_EQ(status.code(), StatusCode::kOk);
  EXPECT_EQ(status.message(), "ok");
}

TEST(Status, AnErrorKeepsItsFields) {
  const Status status = timeout_of_two();
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.code(), StatusCode::kTimeout);
  EXPECT_EQ(status.info().op, "combine");
  EXPECT_EQ(status.info().argument, "");
  EXPECT_EQ(status.info().ranks, (std::vector<int>{1, 3}));
  EXPECT_EQ(status.message(), "combine: ranks 1 and 3 did not come");
}

TEST(Status, CopiesAreIndependentAndMovesLeaveSuccess) {
  Status first = timeout_of_two();
  Status copy = first;
  EXPECT_NE(&copy.info(), &first.info());
  EXPECT_EQ(copy.message(), first.message());
  const Status moved = std::move(first);
  EXPECT_EQ(moved.info().ranks, copy.info().ranks);
  copy = Status();
  EXPECT_TRUE(copy.ok());
  copy = moved;
  EXPECT_EQ(copy.code(), StatusCode::kTimeout);
  const Status& same = copy;
  copy = same;
  EXPECT_EQ(copy.code(), StatusCode::kTimeout);
}

TEST(Status, EveryCodeHasANameOfItsOwn) {
  std::set<std::string> names;
  for (const StatusCode code : {StatusCode::kOk,
                                StatusCode::kInvalidArgument,
                                StatusCode::kMismatch,
                                StatusCode::kOutOfMemory,
                                StatusCode::kTimeout,
                                StatusCode::kPeerLost,
                                StatusCode::kInterrupted,
                                StatusCode::kInvalidState,
                                StatusCode::kInternal}) {
    names.insert(name_of(code));
  }
  EXPECT_EQ(names.size(), 9U);
  EXPECT_FALSE(names.contains("?"));
  EXPECT_STREQ(name_of(StatusCode::kPeerLost), "PeerLost");
}

TEST(Result, HoldsAValueOrAnError) {
  Result<std::string> good(std::string("a value"));
  ASSERT_TRUE(good.ok());
  EXPECT_TRUE(good.status().ok());
  EXPECT_EQ(*good, "a value");
  EXPECT_EQ(good->size(), 7U);
  good.value() += "!";
  EXPECT_EQ(std::as_const(good).value(), "a value!");
  const Result<std::string> bad(timeout_of_two());
  EXPECT_FALSE(bad.ok());
  EXPECT_EQ(bad.status().info().ranks, (std::vector<int>{1, 3}));
}

TEST(Result, GivesAwayWhatCannotBeCopied) {
  Result<std::unique_ptr<int>> result(std::make_unique<int>(7));
  const std::unique_ptr<int> taken = *std::move(result);
  EXPECT_EQ(*taken, 7);
  Result<std::unique_ptr<int>> other(std::make_unique<int>(8));
  const Result<std::unique_ptr<int>> moved = std::move(other);
  EXPECT_EQ(**moved, 8);
}

TEST(Ranks, AreListedAsPeopleDo) {
  EXPECT_EQ(join_ranks({}), "");
  EXPECT_EQ(join_ranks({4}), "4");
  EXPECT_EQ(join_ranks({1, 2}), "1 and 2");
  EXPECT_EQ(join_ranks({1, 2, 3}), "1, 2 and 3");
  EXPECT_EQ(name_ranks({4}), "rank 4");
  EXPECT_EQ(name_ranks({1, 2}), "ranks 1 and 2");
}

}  // namespace
}  // namespace waybill
