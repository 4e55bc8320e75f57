#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <string>
#include <thread>
#include <vector>

#include "engine/group_access.h"
#include "support/layer_case.h"
#include "support/processes.h"
#include "support/ranks.h"
#include "support/run_layer.h"
#include "waybill/group.h"

namespace waybill {
namespace {

using namespace std::chrono_literals;
using testing::plain_layer;
using testing::Processes;
using testing::run_layer;
using testing::scaled_in;

constexpr auto kPatience = 60s;
constexpr int kAlone = 1;  ///< step of a rank after its first reset
constexpr int kTogether = 2;

GroupOptions options_with(std::chrono::milliseconds timeout) {
  GroupOptions options;
  options.timeout = timeout;
  options.window_bytes = testing::kTestWindowBytes;
  return options;
}

std::string text_of(const Result<std::vector<int>>& ranks) {
  if (!ranks.ok()) {
    return ranks.status().message();
  }
  std::string text;
  for (const int rank : *ranks) {
    text += std::to_string(rank);
  }
  return text;
}

/// Three layers of the whole group, compared with the model; "" when right.
std::string run_layers(Group& group, const testing::LayerCase& layer) {
  for (int i = 0; i < 3; ++i) {
    if (std::string wrong = run_layer(group, layer); !wrong.empty()) {
      return wrong;
    }
  }
  return "";
}

void set_step(int place, int value) {
  Processes::shared().step[static_cast<std::size_t>(place)] = value;
}

void wait_step(int place, int value) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (Processes::shared().step[static_cast<std::size_t>(place)] < value &&
         std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(1ms);
  }
}

void wait_for_newcomers(Group& group, const std::vector<int>& ranks) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (group.stats().rejoining != ranks && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(1ms);
  }
}

/// Its address is free then.
void wait_for_end(Group& group, int rank) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (!engine::session_of(group).transport().has_ended(rank) &&
         std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(1ms);
  }
}

struct Plan {
  const char* name;
  std::vector<int> lost;
  bool shrinks_first;  ///< the survivors go on alone before the others come back
};

class ComeBack : public ::testing::TestWithParam<Plan> {};

/// Ranks 0..2, some of which are killed; place 3 + i takes the place of lost rank i.
TEST_P(ComeBack, TheGroupIsWholeAgain) {
  constexpr int kRanks = 3;
  const Plan& plan = GetParam();
  const UniqueId id = UniqueId::create();
  std::vector<int> survivors;
  for (int r = 0; r < kRanks; ++r) {
    if (std::find(plan.lost.begin(), plan.lost.end(), r) == plan.lost.end()) {
      survivors.push_back(r);
    }
  }
  const auto body = [&](int place) -> std::string {
    if (place >= kRanks) {
      const int rank = plan.lost[static_cast<std::size_t>(place - kRanks)];
      wait_step(survivors.front(), kAlone);
      auto group = Group::rejoin(id, rank, kRanks, options_with(20s));
      if (!group.ok()) {
        return group.status().message();
      }
      return run_layers(*group, plain_layer(kRanks)) + " " + std::to_string(group->stats().epoch);
    }
    auto group = Group::connect(id, place, kRanks, options_with(20s));
    if (!group.ok()) {
      return group.status().message();
    }
    if (std::string wrong = run_layers(*group, plain_layer(kRanks)); !wrong.empty()) {
      return wrong;
    }
    if (std::find(survivors.begin(), survivors.end(), place) == survivors.end()) {
      std::raise(SIGKILL);
    }
    const Status failed = testing::dispatch_only(*group, plain_layer(kRanks).dispatch_args(place));
    std::string text = std::string(name_of(failed.code())) + " ";
    if (plan.shrinks_first) {
      text += text_of(group->reset()) + " ";
      text += run_layers(*group, scaled_in(kRanks, survivors));
    }
    set_step(place, kAlone);
    wait_for_newcomers(*group, plan.lost);
    text += text_of(group->reset()) + " ";
    text += run_layers(*group, plain_layer(kRanks));
    return text + std::to_string(group->stats().epoch);
  };
  Processes processes(kRanks + static_cast<int>(plan.lost.size()), body);
  ASSERT_TRUE(processes.join(kPatience));
  std::string alone;
  for (const int r : survivors) {
    alone += std::to_string(r);
  }
  const std::string epoch = plan.shrinks_first ? "3" : "2";
  for (const int r : survivors) {
    EXPECT_EQ(processes.text(r),
              "PeerLost " + (plan.shrinks_first ? alone + " " : "") + "012 " + epoch);
  }
  for (std::size_t i = 0; i < plan.lost.size(); ++i) {
    EXPECT_EQ(processes.text(kRanks + static_cast<int>(i)), " " + epoch);
  }
}

INSTANTIATE_TEST_SUITE_P(All,
                         ComeBack,
                         ::testing::Values(Plan{"TheLast", {2}, true},
                                           Plan{"TheFirst", {0}, true},
                                           Plan{"TwoOfThree", {1, 2}, true},
                                           Plan{"TheFirstTwo", {0, 1}, true},
                                           Plan{"InTheFirstReset", {1}, false}),
                         [](const auto& plan) { return std::string(plan.param.name); });

TEST(Rejoin, OneThatIsKilledWhileItWaitsIsReplacedByTheNext) {
  const UniqueId id = UniqueId::create();
  Processes processes(4, [&](int place) -> std::string {
    if (place >= 2) {
      wait_step(0, kAlone + place - 2);
      auto group = Group::rejoin(id, 1, 2, options_with(20s));
      return group.ok() ? run_layers(*group, plain_layer(2)) : group.status().message();
    }
    auto group = Group::connect(id, place, 2, options_with(20s));
    if (!group.ok()) {
      return group.status().message();
    }
    if (place == 1) {
      std::raise(SIGKILL);
    }
    wait_for_end(*group, 1);
    set_step(0, kAlone);
    wait_for_newcomers(*group, {1});
    set_step(1, kTogether);
    wait_step(3, 1);  // it is dead
    set_step(0, kTogether);
    std::string text;
    for (int i = 0; i < 2 && text != "01"; ++i) {
      wait_for_newcomers(*group, {1});
      text = text_of(group->reset());
    }
    return text + run_layers(*group, plain_layer(2));
  });
  ASSERT_TRUE(processes.wait_step(1, kTogether, kPatience));
  processes.send(2, SIGKILL);
  ASSERT_TRUE(processes.join(2, kPatience));
  set_step(3, 1);
  ASSERT_TRUE(processes.join(kPatience));
  EXPECT_EQ(processes.text(0), "01");
  EXPECT_EQ(processes.text(3), "");
}

TEST(Rejoin, NeedsARankThatLives) {
  auto group = Group::rejoin(UniqueId::create(), 0, 2, options_with(5s));
  ASSERT_FALSE(group.ok());
  EXPECT_EQ(group.status().code(), StatusCode::kPeerLost);
  EXPECT_EQ(group.status().info().ranks, std::vector<int>{1});
}

TEST(Rejoin, ThoseThatComeBackAreNoGroupWithoutOneThatNeverLeft) {
  const UniqueId id = UniqueId::create();
  Processes processes(2, [&](int place) -> std::string {
    return name_of(Group::rejoin(id, place, 2, options_with(60s)).status().code());
  });
  ASSERT_TRUE(processes.join(30s));
  EXPECT_EQ(processes.text(0), "PeerLost");
  EXPECT_EQ(processes.text(1), "PeerLost");
}

TEST(Rejoin, TimesOutWhenNobodyResets) {
  const UniqueId id = UniqueId::create();
  Processes processes(3, [&](int place) -> std::string {
    if (place == 2) {
      wait_step(0, kAlone);
      auto group = Group::rejoin(id, 1, 2, options_with(300ms));
      set_step(2, 1);
      return group.ok() ? "in" : name_of(group.status().code());
    }
    auto group = Group::connect(id, place, 2, options_with(20s));
    if (!group.ok()) {
      return group.status().message();
    }
    if (place == 1) {
      std::raise(SIGKILL);
    }
    wait_for_end(*group, 1);
    set_step(0, kAlone);
    wait_step(2, 1);
    return text_of(group->reset());  // what has given up is not taken in
  });
  ASSERT_TRUE(processes.join(kPatience));
  EXPECT_EQ(processes.text(2), "Timeout");
  EXPECT_EQ(processes.text(0), "0");
}

TEST(Rejoin, IsRefusedWhileThePredecessorLives) {
  const UniqueId id = UniqueId::create();
  Processes processes(3, [&](int place) -> std::string {
    if (place == 2) {
      wait_step(0, kAlone);
      auto group = Group::rejoin(id, 1, 2, options_with(5s));
      set_step(2, 1);
      return group.ok() ? "in" : name_of(group.status().code());
    }
    auto group = Group::connect(id, place, 2, options_with(20s));
    set_step(place, kAlone);
    wait_step(2, 1);
    return group.ok() ? run_layers(*group, plain_layer(2)) : group.status().message();
  });
  ASSERT_TRUE(processes.join(kPatience));
  EXPECT_EQ(processes.text(2), "InvalidState");
  EXPECT_EQ(processes.text(0), "");
  EXPECT_EQ(processes.text(1), "");
}

}  // namespace
}  // namespace waybill
