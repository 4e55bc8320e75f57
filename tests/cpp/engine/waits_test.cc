// What a wait tells people: lines of the log, and where the ranks are that did not come.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/group_access.h"
#include "engine/whereabouts.h"
#include "support/ranks.h"

namespace waybill {
namespace {

using namespace std::chrono_literals;
using testing::dispatch_only;
using testing::LayerCase;
using testing::plain_layer;
using testing::Ranks;

/// Two groups whose rank r adds its lines to lines[r].
std::vector<Group> logging_groups(std::vector<std::vector<std::string>>& lines, const char* level) {
  GroupOptions options;
  options.timeout = 20s;
  options.window_bytes = testing::kTestWindowBytes;
  options.log = [&lines](const std::string& line) {
    lines[line.find("rank 0:") == std::string::npos ? 1 : 0].push_back(line);
  };
  setenv("WAYBILL_LOG", level, 1);
  auto groups = Group::local(2, options);
  unsetenv("WAYBILL_LOG");
  EXPECT_TRUE(groups.ok()) << groups.status().message();
  return std::move(*groups);
}

void dispatch_with_a_late_rank(std::vector<Group>& groups) {
  const LayerCase layer = plain_layer(2);
  std::thread late([&] {
    while (engine::session_of(groups[0]).page().asleep.load() == 0) {
      std::this_thread::yield();
    }
    std::this_thread::sleep_for(20ms);
    EXPECT_TRUE(dispatch_only(groups[1], layer.dispatch_args(1)).ok());
  });
  EXPECT_TRUE(dispatch_only(groups[0], layer.dispatch_args(0)).ok());
  late.join();
}

TEST(Log, HasALineForAWaitThatSlept) {
  std::vector<std::vector<std::string>> lines(2);
  std::vector<Group> groups = logging_groups(lines, "debug");
  dispatch_with_a_late_rank(groups);
  ASSERT_EQ(lines[0].size(), 1U);
  const std::string& line = lines[0][0];
  EXPECT_EQ(line.find("waybill: rank 0: npu_moe_distribute_dispatch_v2, call 1, epoch 1: "), 0U)
      << line;
  EXPECT_NE(line.find(" ms for rank 1"), std::string::npos) << line;
  EXPECT_TRUE(lines[1].empty()) << "the rank that came late found everything there";
}

TEST(Log, IsSilentUnlessItIsAskedFor) {
  std::vector<std::vector<std::string>> lines(2);
  std::vector<Group> groups = logging_groups(lines, "");
  dispatch_with_a_late_rank(groups);
  EXPECT_TRUE(lines[0].empty());
  EXPECT_TRUE(lines[1].empty());
}

TEST(SetTimeout, IsForCallsThatBeginAfterwards) {
  Ranks ranks(2, 60s);
  const LayerCase layer = plain_layer(2);
  ranks[0].set_timeout(50ms);
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(dispatch_only(ranks[0], layer.dispatch_args(0)).code(), StatusCode::kTimeout);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 30s);
  ranks[0].set_timeout(60s);
  ranks.expect_resets();
  ranks.expect_works();
}

/// The error of rank 0, which waits for the others in vain.
std::string timeout_of(Ranks& ranks, const LayerCase& layer) {
  ranks[0].set_timeout(100ms);
  const Status status = dispatch_only(ranks[0], layer.dispatch_args(0));
  EXPECT_EQ(status.code(), StatusCode::kTimeout);
  return status.message();
}

TEST(Timeout, SaysWhereTheMissingRanksAre) {
  Ranks ranks(3);
  const LayerCase layer = plain_layer(3);
  testing::expect_all_ok(ranks.run(
      [&](Group& group) { return dispatch_only(group, layer.dispatch_args(group.rank())); }));
  const std::string text = timeout_of(ranks, layer);
  EXPECT_NE(text.find("rank 1: idle for "), std::string::npos) << text;
  EXPECT_NE(text.find(" s after call 1; rank 2: idle for "), std::string::npos) << text;
}

TEST(Timeout, ARankThatComesLaterIsToldAtOnceWhoLeftAndWhy) {
  Ranks ranks(2, 20s);
  const LayerCase layer = plain_layer(2);
  ranks[1].set_timeout(50ms);
  EXPECT_EQ(dispatch_only(ranks[1], layer.dispatch_args(1)).code(), StatusCode::kTimeout);
  DispatchArgs refused = layer.dispatch_args(0);
  refused.quant_mode = 7;
  EXPECT_EQ(dispatch_only(ranks[0], refused).code(), StatusCode::kInvalidArgument);
  const auto begin = std::chrono::steady_clock::now();
  const Status status = dispatch_only(ranks[0], layer.dispatch_args(0));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 10s);
  EXPECT_EQ(status.code(), StatusCode::kInvalidState);
  EXPECT_EQ(status.info().ranks, std::vector<int>{1});
  EXPECT_NE(status.message().find("rank 1 left the group: its call 1 failed: "
                                  "npu_moe_distribute_dispatch_v2: rank 0 did not come within"),
            std::string::npos)
      << status.message();
  ranks[1].set_timeout(20s);
  ranks.expect_resets();
  ranks.expect_works();
}

TEST(Whereabouts, OfEveryPhase) {
  window::ControlPage page;
  const auto text = [&](Phase phase, contract::Operator op) {
    page.phase.store(static_cast<std::uint64_t>(phase) << 32 | static_cast<std::uint32_t>(op));
    return engine::describe_whereabouts({4}, {&page});
  };
  page.call.store(window::stamp(3, 17));
  EXPECT_EQ(text(Phase::kIdle, contract::Operator::kNone), "rank 4: idle for 0.0 s after call 17");
  EXPECT_EQ(text(Phase::kReset, contract::Operator::kNone), "rank 4: in reset for 0.0 s");
  EXPECT_EQ(text(Phase::kPullRows, contract::Operator::kBarrier),
            "rank 4: in _npu_distribute_barrier (pull-rows for 0.0 s, call 17)");
  page.left.store(window::stamp(3, 17));
  EXPECT_EQ(text(Phase::kIdle, contract::Operator::kNone),
            "rank 4: idle for 0.0 s after call 17, needs a reset");
  page.left.store(window::stamp(2, 17));
  EXPECT_EQ(engine::whereabouts_of(page).needs_reset, false) << "a reset was there since";
}

TEST(PhaseNames, AreDifferent) {
  std::vector<std::string> names;
  for (std::uint32_t phase = 0; phase <= static_cast<std::uint32_t>(Phase::kReset); ++phase) {
    names.emplace_back(name_of(static_cast<Phase>(phase)));
  }
  EXPECT_EQ(names,
            (std::vector<std::string>{"idle",
                                      "check",
                                      "wait-half",
                                      "publish",
                                      "publish-rows",
                                      "signalled",
                                      "wait-signals",
                                      "pull",
                                      "pull-rows",
                                      "wait-readers",
                                      "reset"}));
}

}  // namespace
}  // namespace waybill
