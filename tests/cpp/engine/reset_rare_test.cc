// A reset beside ranks whose posts the test writes: what happens rarely among ranks that run.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <future>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/group_access.h"
#include "setup_calls.h"
#include "support/posts.h"
#include "support/ranks.h"
#include "window/page_reads.h"

namespace waybill::engine {
namespace {

using namespace std::chrono_literals;
using testing::post_accepted;
using testing::post_joined;
using testing::post_list;
using window::accepted_in;
using window::incarnation_hash;
using window::read_joined;
using window::ResetList;
using window::ResetStage;
using Members = Result<std::vector<int>>;

/// One rank of a group that resets in a thread of its own; of the others there are only the pages.
class Beside {
 public:
  explicit Beside(int count, std::chrono::milliseconds timeout = 20s) : ranks_(count, timeout) {}

  ~Beside() {
    ranks_[rank_].close(1ms);  // nobody will read its rows
  }
  Beside(const Beside&) = delete;
  Beside& operator=(const Beside&) = delete;

  const window::ControlPage& page(int rank) { return board(rank).page(); }
  window::Board& board(int rank) { return engine::session_of(ranks_[rank]).board(); }
  Group& group(int rank) { return ranks_[rank]; }

  void reset(int rank) {
    rank_ = rank;
    result_ = std::async(std::launch::async, [this] { return ranks_[rank_].reset(); });
  }
  /// Until the rank that resets has got there.
  void wait_until(const std::function<bool(const window::ControlPage&)>& done) {
    const auto end = std::chrono::steady_clock::now() + 20s;
    while (!done(page(rank_)) && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(1ms);
    }
    EXPECT_TRUE(done(page(rank_)));
  }
  void wait_until_joined(std::uint32_t attempt) {
    wait_until([=](const auto& own) {
      return read_joined(own).attempt == attempt &&
             read_joined(own).stage == ResetStage::kGathering;
    });
  }
  void wait_until_accepted(std::uint32_t attempt, int closer) {
    wait_until([=](const auto& own) { return accepted_in(own, attempt) == closer; });
  }
  Members result() { return result_.get(); }

  /// As if `rank` had closed a list of these members.
  void close(int rank, std::uint32_t attempt, const std::vector<int>& members) {
    ResetList list;
    for (const int r : members) {
      list.add(r);
      list.incarnations ^= incarnation_hash(r, page(r));
    }
    post_list(board(rank), attempt, list);
    accept(rank, attempt, rank);
  }
  void accept(int rank, std::uint32_t attempt, int closer) {
    post_accepted(board(rank), attempt, closer);
    post_joined(board(rank), attempt, ResetStage::kClosed);
  }

 private:
  testing::Ranks ranks_;
  int rank_ = 0;
  std::future<Members> result_;
};

void expect_left_behind(const Members& members) {
  ASSERT_FALSE(members.ok());
  EXPECT_EQ(members.status().code(), StatusCode::kInvalidState);
  EXPECT_NE(members.status().message().find("this rank came too late: the others went on without "
                                            "it in epoch 2"),
            std::string::npos)
      << members.status().message();
}

TEST(ResetBeside, AListWithoutThisRankThatHoldsLeavesItBehind) {
  Beside beside(3);
  beside.reset(0);
  beside.wait_until_joined(1);
  beside.close(1, 1, {1, 2});  // open: rank 2 has not accepted
  std::this_thread::sleep_for(20ms);
  beside.accept(2, 1, 1);
  expect_left_behind(beside.result());
}

TEST(ResetBeside, AListWithoutThisRankThatBreaksIsFollowedByAnotherAttempt) {
  Beside beside(3, 300ms);
  beside.reset(0);
  beside.wait_until_joined(1);
  beside.accept(2, 1, 2);
  beside.close(1, 1, {1, 2});
  beside.wait_until_joined(2);
  const Members members = beside.result();
  ASSERT_TRUE(members.ok()) << members.status().message();
  EXPECT_EQ(*members, std::vector<int>{0});
  EXPECT_EQ(beside.group(0).stats().epoch, 3);
}

TEST(ResetBeside, AConcludedListThatThisRankDidNotAcceptLeavesItBehind) {
  Beside beside(3);
  beside.reset(0);
  beside.wait_until_joined(1);
  post_accepted(beside.board(1), 1, 2);
  post_joined(beside.board(1), 1, ResetStage::kConcluded);
  expect_left_behind(beside.result());
}

TEST(ResetBeside, AConclusionOfTheAcceptedListIsFollowed) {
  Beside beside(3);
  beside.reset(2);
  beside.wait_until_joined(1);
  beside.close(0, 1, {0, 1, 2});
  beside.wait_until_accepted(1, 0);
  post_joined(beside.board(0), 1, ResetStage::kConcluded);
  const Members members = beside.result();
  ASSERT_TRUE(members.ok()) << members.status().message();
  EXPECT_EQ(*members, (std::vector<int>{0, 1, 2}));
}

// The closer may be in its next reset before this rank looks: what it accepted stays posted.
TEST(ResetBeside, AListThatHoldsIsConcludedAlthoughTheCloserIsInTheNextAttempt) {
  Beside beside(2);
  beside.reset(1);
  beside.wait_until_joined(1);
  post_joined(beside.board(0), 1, ResetStage::kGathering);
  ResetList list;
  for (const int r : {0, 1}) {
    list.add(r);
    list.incarnations ^= incarnation_hash(r, beside.page(r));
  }
  post_list(beside.board(0), 1, list);
  beside.wait_until_accepted(1, 0);
  // This rank nearly always sees both at once.
  post_accepted(beside.board(0), 1, 0);
  post_joined(beside.board(0), 2, ResetStage::kGathering);
  const Members members = beside.result();
  ASSERT_TRUE(members.ok()) << members.status().message();
  EXPECT_EQ(*members, (std::vector<int>{0, 1}));
}

TEST(ResetBeside, WhoGivesUpAfterTheListIsClosedBreaksIt) {
  Beside beside(2, 300ms);
  post_joined(beside.board(1), 1, ResetStage::kGathering);
  beside.reset(0);
  beside.wait_until_accepted(1, 0);
  post_joined(beside.board(1), 1, ResetStage::kGaveUp);
  const Members members = beside.result();
  ASSERT_TRUE(members.ok()) << members.status().message();
  EXPECT_EQ(*members, std::vector<int>{0});
}

TEST(ResetBeside, ARankThatNeverAcceptsIsNotWaitedForForEver) {
  Beside beside(2, 200ms);
  post_joined(beside.board(1), 1, ResetStage::kGathering);
  beside.reset(0);
  const Members members = beside.result();
  ASSERT_TRUE(members.ok()) << members.status().message();
  EXPECT_EQ(*members, std::vector<int>{0});
}

// A process under the rank of another one: the list does not mean what this rank knows.
TEST(ResetBeside, AListOfOtherProcessesIsNotAccepted) {
  Beside beside(2, 1000ms);
  beside.reset(1);
  beside.wait_until_joined(1);
  ResetList list;
  list.add(0);
  list.add(1);
  list.incarnations = 12345;
  post_list(beside.board(0), 1, list);
  beside.accept(0, 1, 0);
  const Members members = beside.result();
  ASSERT_TRUE(members.ok()) << members.status().message();
  EXPECT_EQ(*members, std::vector<int>{1});
}

TEST(ResetBeside, TimesOutWhereTheLowestRankNeverCloses) {
  Beside beside(3, 100ms);
  post_joined(beside.board(0), 1, ResetStage::kGathering);
  beside.reset(1);
  const Members members = beside.result();
  ASSERT_FALSE(members.ok());
  EXPECT_EQ(members.status().code(), StatusCode::kTimeout);
  EXPECT_EQ(members.status().info().ranks, std::vector<int>{2});
  EXPECT_EQ(members.status().message(),
            "reset: timed out: no list was agreed on; missing: 2 (rank 1)");
  EXPECT_EQ(read_joined(beside.page(1)).stage, ResetStage::kGaveUp);
}

TEST(ResetInterrupted, GivesUpAndClosesAnOpenSetup) {
  bool stop = false;
  GroupOptions options;
  options.timeout = 20s;
  options.window_bytes = testing::kTestWindowBytes;
  options.interrupted = [&] { return stop; };
  auto groups = Group::local(2, options);
  ASSERT_TRUE(groups.ok());
  Group& group = groups->front();
  const testing::LayerCase layer = testing::plain_layer(2);
  const SetupCalls calls{layer, 0};
  ASSERT_TRUE(dispatch_setup(group, calls.dispatch_args()).ok());
  stop = true;
  const Status status = group.reset().status();
  EXPECT_EQ(status.code(), StatusCode::kInterrupted);
  EXPECT_EQ(status.message(), "reset: interrupted");
  EXPECT_EQ(engine::session_of(group).page().left.load(), window::stamp(2, 0))
      << "readers of the setup's rows get an error";
  EXPECT_EQ(read_joined(engine::session_of(group).page()).stage, ResetStage::kGaveUp);
  const Status next = testing::dispatch_only(group, layer.dispatch_args(0));
  EXPECT_EQ(next.code(), StatusCode::kInvalidState);
  EXPECT_NE(next.message().find("reset: interrupted"), std::string::npos) << next.message();
  stop = false;
  testing::expect_all_ok(
      testing::on_threads(2, [&](std::size_t r) { return (*groups)[r].reset().status(); }));
}

}  // namespace
}  // namespace waybill::engine
