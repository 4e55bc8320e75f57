// Groups seen through their control pages. What a rank of another process shows is in
// tests/cpp/processes/inspect_test.cc.
#include "waybill/inspect.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/ranks.h"
#include "waybill/version.h"
#include "window/control.h"
#include "window/memory_budget.h"
#include "window/region.h"
#include "window/window.h"

namespace waybill {
namespace {

using namespace std::chrono_literals;
using testing::dispatch_only;
using testing::LayerCase;
using testing::plain_layer;
using window::ControlPage;
using window::stamp;

/// Other groups of this machine are seen, too.
std::optional<GroupState> find_group(const std::string& name) {
  for (GroupState& group : inspect_groups()) {
    if (group.name == name) {
      return std::move(group);
    }
  }
  return std::nullopt;
}

std::string new_name() { return "inspected " + UniqueId::create().to_string(); }

std::vector<Group> groups_named(const std::string& name, int count) {
  GroupOptions options;
  options.name = name;
  options.timeout = 20s;
  options.window_bytes = testing::kTestWindowBytes;
  return std::move(*Group::local(count, options));
}

TEST(Inspect, ShowsAGroupBetweenItsCalls) {
  const std::string name = new_name();
  std::vector<Group> groups = groups_named(name, 2);
  const LayerCase layer = plain_layer(2);
  testing::expect_all_ok(testing::on_threads(2, [&](std::size_t r) {
    return dispatch_only(groups[r], layer.dispatch_args(static_cast<int>(r)));
  }));
  const auto state = find_group(name);
  ASSERT_TRUE(state);
  EXPECT_EQ(state->version, version_string());
  EXPECT_EQ(state->id.size(), 32U);
  EXPECT_EQ(state->world_size, 2);
  ASSERT_EQ(state->ranks.size(), 2U);
  for (int r = 0; r < 2; ++r) {
    const RankState& rank = state->ranks[static_cast<std::size_t>(r)];
    EXPECT_EQ(rank.rank, r);
    EXPECT_EQ(rank.pid, getpid());
    EXPECT_EQ(rank.op, "");
    EXPECT_EQ(rank.phase, Phase::kIdle);
    EXPECT_EQ(rank.epoch, 1);
    EXPECT_EQ(rank.call, 1);
    EXPECT_GE(rank.seconds, 0.0);
    EXPECT_LT(rank.seconds, 60.0);
    EXPECT_EQ(rank.waits_for, std::vector<int>{});
    EXPECT_FALSE(rank.needs_reset);
    EXPECT_FALSE(rank.rejoining);
  }
}

TEST(Inspect, AGroupIsGoneWithItsPages) {
  const std::string name = new_name();
  {
    const std::vector<Group> groups = groups_named(name, 1);
    EXPECT_TRUE(find_group(name));
  }
  EXPECT_FALSE(find_group(name));
}

TEST(Inspect, SaysWhoWaitsForWhom) {
  const std::string name = new_name();
  std::vector<Group> groups = groups_named(name, 3);
  const LayerCase layer = plain_layer(3);
  std::vector<Status> results(3);
  const auto call = [&](std::size_t r) {
    results[r] = dispatch_only(groups[r], layer.dispatch_args(static_cast<int>(r)));
  };
  const auto wait_until_rank_0_waits_for = [&](const std::vector<int>& missing) {
    for (const auto end = std::chrono::steady_clock::now() + 20s;
         std::chrono::steady_clock::now() < end;
         std::this_thread::sleep_for(1ms)) {
      auto state = find_group(name);
      if (state && state->ranks[0].waits_for == missing) {
        return std::move(state->ranks[0]);
      }
    }
    ADD_FAILURE() << "rank 0 never waited";
    return RankState();
  };
  std::thread first(call, 0);
  const RankState both = wait_until_rank_0_waits_for({1, 2});
  EXPECT_EQ(both.op, "npu_moe_distribute_dispatch_v2");
  EXPECT_EQ(both.phase, Phase::kWaitSignals);
  std::thread second(call, 1);
  wait_until_rank_0_waits_for({2});
  call(2);
  first.join();
  second.join();
  testing::expect_all_ok(results);
}

TEST(Inspect, ShowsThatARankNeedsAReset) {
  const std::string name = new_name();
  std::vector<Group> groups = groups_named(name, 2);
  groups[1].set_timeout(50ms);
  EXPECT_EQ(dispatch_only(groups[1], plain_layer(2).dispatch_args(1)).code(), StatusCode::kTimeout);
  auto state = find_group(name);
  ASSERT_TRUE(state);
  EXPECT_FALSE(state->ranks[0].needs_reset);
  EXPECT_TRUE(state->ranks[1].needs_reset);
  groups[1].set_timeout(20s);
  testing::expect_all_ok(
      testing::on_threads(2, [&](std::size_t r) { return groups[r].reset().status(); }));
  state = find_group(name);
  ASSERT_TRUE(state);
  EXPECT_FALSE(state->ranks[1].needs_reset);
  EXPECT_EQ(state->ranks[1].epoch, 2);
}

/// A control page of this process that belongs to no group.
class LonelyPage {
 public:
  LonelyPage(const std::string& name, int rank, int world_size)
      : region_(std::move(*window::Region::create("a page",
                                                  window::kControlBytes,
                                                  window::MemoryBudget::process(),
                                                  window::kControlFile))) {
    EXPECT_TRUE(region_.commit(0, window::kControlBytes).ok());
    page_ = new (region_.data()) ControlPage();
    page_->identity = window::make_identity(name, name, rank, world_size);
  }

  ControlPage* operator->() const { return page_; }
  void enter(Phase phase, std::uint32_t epoch, std::uint32_t call) const {
    page_->phase.store(static_cast<std::uint64_t>(phase) << 32 |
                       static_cast<std::uint32_t>(contract::Operator::kBarrier));
    page_->call.store(stamp(epoch, call));
  }
  void wait_for(int first, int count) const {
    page_->waits_for.store(static_cast<std::uint64_t>(count) << 32 |
                           static_cast<std::uint32_t>(first + 1));
  }

 private:
  window::Region region_;
  ControlPage* page_;
};

// A rank tells the first rank it misses and how many; the rest is in the words of the others.
TEST(Inspect, FindsTheMissingRanksOfEachWait) {
  const std::string name = new_name();
  const LonelyPage waits_for_half(name, 0, 4);
  const LonelyPage behind(name, 1, 4);
  const LonelyPage there(name, 2, 4);
  waits_for_half.enter(Phase::kWaitHalf, 2, 7);
  waits_for_half.wait_for(1, 2);
  behind->done.store(stamp(2, 4));
  there->done.store(stamp(2, 5));
  auto state = find_group(name);
  ASSERT_TRUE(state);
  ASSERT_EQ(state->ranks.size(), 4U);
  EXPECT_EQ(state->ranks[0].op, "_npu_distribute_barrier");
  EXPECT_EQ(state->ranks[0].epoch, 2);
  EXPECT_EQ(state->ranks[0].waits_for, (std::vector<int>{1, 3})) << "rank 3 has no page";
  EXPECT_EQ(state->ranks[3].pid, 0);

  there.enter(Phase::kWaitReaders, 2, 5);
  there.wait_for(1, 2);
  waits_for_half->done.store(stamp(2, 5));
  state = find_group(name);
  ASSERT_TRUE(state);
  EXPECT_EQ(state->ranks[2].waits_for, (std::vector<int>{1, 3}));
}

TEST(Inspect, ShowsWhoComesBack) {
  const std::string name = new_name();
  const LonelyPage page(name, 1, 2);
  page->newcomer.store(1);
  const auto state = find_group(name);
  ASSERT_TRUE(state);
  EXPECT_TRUE(state->ranks[1].rejoining);
}

TEST(Inspect, OfAnotherVersionOnlyTheHeadIsRead) {
  const auto without_ranks = [](const std::function<void(window::Identity&)>& change) {
    const std::string name = new_name();
    const LonelyPage page(name, 0, 2);
    change(page->identity);
    const auto state = find_group(name);
    return state && state->ranks.empty() && state->world_size == 0;
  };
  EXPECT_FALSE(without_ranks([](auto&) {}));
  EXPECT_TRUE(without_ranks([](auto& identity) { identity.layout_version += 1; }));
  EXPECT_TRUE(without_ranks([](auto& identity) { identity.page_bytes += 64; }));
  EXPECT_TRUE(without_ranks([](auto& identity) { identity.world_size = 0; }));
  EXPECT_TRUE(without_ranks([](auto& identity) { identity.world_size = window::kMaxRanks + 1; }));
}

TEST(Inspect, PassesOverWhatIsNoPageOfItsProcess) {
  const auto is_listed = [](const std::function<void(window::Identity&)>& change) {
    const std::string name = new_name();
    const LonelyPage page(name, 0, 2);
    change(page->identity);
    return find_group(name).has_value();
  };
  EXPECT_TRUE(is_listed([](auto&) {}));
  EXPECT_FALSE(is_listed([](auto& identity) { identity.magic[0] = 'w'; }));
  EXPECT_FALSE(is_listed([](auto& identity) { identity.process_start += 1; }));
  const std::string name = new_name();
  const LonelyPage page(name, 5, 2);
  const auto state = find_group(name);
  ASSERT_TRUE(state);
  EXPECT_EQ(state->ranks[0].pid, 0) << "no such rank";
  EXPECT_EQ(state->ranks[1].pid, 0);
}

TEST(Inspect, LongNamesAreCut) {
  const std::string name = new_name() + std::string(200, 'x');
  const std::vector<Group> groups = groups_named(name, 1);
  EXPECT_TRUE(find_group(name.substr(0, 127)));
}

}  // namespace
}  // namespace waybill
