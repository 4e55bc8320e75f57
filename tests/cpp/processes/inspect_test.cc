#include "waybill/inspect.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <optional>
#include <string>
#include <thread>

#include "support/processes.h"
#include "support/ranks.h"

namespace waybill {
namespace {

using namespace std::chrono_literals;
using testing::Processes;

constexpr auto kPatience = 60s;

GroupOptions options_named(const std::string& name) {
  GroupOptions options;
  options.name = name;
  options.timeout = kPatience;
  options.window_bytes = testing::kTestWindowBytes;
  return options;
}

std::optional<GroupState> find_group(const std::string& name) {
  for (GroupState& group : inspect_groups()) {
    if (group.name == name) {
      return std::move(group);
    }
  }
  return std::nullopt;
}

TEST(Inspect, ReadsRanksThatAreStoppedAndNoticesThoseThatEnded) {
  const UniqueId id = UniqueId::create();
  const std::string name = "inspected " + id.to_string();
  Processes ranks(3, [&](int rank) -> std::string {
    auto group = Group::connect(id, rank, 3, options_named(name));
    Processes::shared().step[static_cast<std::size_t>(rank)] = 1;
    while (rank != 0) {
      std::this_thread::sleep_for(1ms);
    }
    return group.ok()
               ? testing::dispatch_only(*group, testing::plain_layer(3).dispatch_args(0)).message()
               : group.status().message();
  });
  for (int r = 0; r < 3; ++r) {
    ASSERT_TRUE(ranks.wait_step(r, 1, kPatience));
  }
  ranks.send(2, SIGSTOP);
  ASSERT_TRUE(ranks.wait_stopped(2, kPatience));
  std::optional<GroupState> state;
  for (const auto end = std::chrono::steady_clock::now() + kPatience;
       std::chrono::steady_clock::now() < end;
       std::this_thread::sleep_for(1ms)) {
    state = find_group(name);
    if (state && state->ranks[0].waits_for.size() == 2) {
      break;
    }
  }
  ASSERT_TRUE(state);
  EXPECT_EQ(state->id, id.to_string());
  for (int r = 0; r < 3; ++r) {
    EXPECT_EQ(state->ranks[static_cast<std::size_t>(r)].pid, ranks.pid(r));
  }
  EXPECT_EQ(state->ranks[0].phase, Phase::kWaitSignals);
  EXPECT_EQ(state->ranks[2].phase, Phase::kIdle);
  ranks.send(2, SIGKILL);
  ASSERT_TRUE(ranks.join(2, kPatience));
  ASSERT_TRUE(ranks.join(0, kPatience));
  EXPECT_NE(ranks.text(0).find("rank 2 has ended its process"), std::string::npos) << ranks.text(0);
  state = find_group(name);
  ASSERT_TRUE(state) << "rank 1 lives";
  EXPECT_EQ(state->ranks[1].pid, ranks.pid(1));
  EXPECT_EQ(state->ranks[2].pid, 0);
}

TEST(Inspect, AChildOfARankIsNotTheRank) {
  const std::string name = "inspected " + UniqueId::create().to_string();
  auto groups = Group::local(1, options_named(name));
  ASSERT_TRUE(groups.ok());
  Processes child(1, [](int) -> std::string {
    Processes::shared().step[0] = 1;
    while (true) {
      pause();
    }
  });
  ASSERT_TRUE(child.wait_step(0, 1, kPatience));
  const auto state = find_group(name);
  ASSERT_TRUE(state);
  EXPECT_EQ(state->ranks[0].pid, getpid());
}

}  // namespace
}  // namespace waybill
