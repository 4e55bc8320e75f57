#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "engine/group_access.h"
#include "support/layer_case.h"
#include "support/processes.h"
#include "support/run_layer.h"
#include "waybill/group.h"

namespace waybill {
namespace {

using namespace std::chrono_literals;
using testing::draw_case;
using testing::LayerCase;
using testing::Processes;
using testing::run_layer;

constexpr auto kPatience = 60s;

GroupOptions options_with(std::chrono::milliseconds timeout) {
  GroupOptions options;
  options.timeout = timeout;
  options.window_bytes = testing::kTestWindowBytes;
  return options;
}

/// A case for exactly this many ranks, rows in the pool, every rank sends to every rank.
LayerCase layer_for(int num_ranks, std::uint64_t seed) {
  for (;; ++seed) {
    LayerCase layer = draw_case(seed, num_ranks);
    if (layer.num_ranks == num_ranks && !layer.quantised && layer.num_shared_ranks == 0 &&
        layer.comm_quant_mode == 0 && layer.expert_rows == testing::ExpertRows::kInPlace &&
        layer.global_bs == 0 && layer.ranks[0].bs > 4 && !layer.elastic() && !layer.norm &&
        !layer.set_up && layer.num_special() == 0) {
      return layer;
    }
  }
}

std::string code_of(const Status& status) { return name_of(status.code()); }

/// What a test wants to know of a failed call: code, ranks.
std::string summary(const Status& status) {
  std::string text = code_of(status);
  for (int rank : status.ok() ? std::vector<int>{} : status.info().ranks) {
    text += " " + std::to_string(rank);
  }
  return text;
}

struct StopPoint {
  Phase phase;
  bool in_combine;
};

std::string name_of_point(const ::testing::TestParamInfo<StopPoint>& info) {
  std::string text = name_of(info.param.phase);
  text.erase(std::remove(text.begin(), text.end(), '-'), text.end());
  return text + (info.param.in_combine ? "InCombine" : "InDispatch");
}

/// Calls dispatch and combine until one fails; its status.
Status run_until_failure(Group& group, const LayerCase& layer) {
  for (int i = 0; i < 1000; ++i) {
    auto sent = dispatch(group, layer.dispatch_args(group.rank()));
    if (!sent.ok()) {
      return sent.status();
    }
    for (std::int64_t row = 0; row < sent->rows; ++row) {
      layer.fill_expert_row(
          group.rank(), row, sent->expand_x.buffer.data() + row * layer.h * size_of(layer.dtype));
    }
    const TensorView rows =
        TensorView::contiguous(sent->expand_x.buffer.data(), layer.dtype, {sent->rows, layer.h});
    auto back = combine(group, layer.combine_args(group.rank(), rows, *sent));
    if (!back.ok()) {
      return back.status();
    }
    if (!check_combine(layer, group.rank(), *back).empty()) {
      std::abort();
    }
  }
  return {};
}

/// Everything this rank published is overwritten, as later calls over the same memory would do.
void overwrite_window(Group& group) {
  window::Window& window = engine::session_of(group).window();
  for (window::Region& half : window.halves) {
    std::memset(half.data(), 0x7f, static_cast<std::size_t>(half.committed_bytes()));
  }
}

class StoppedRank : public ::testing::TestWithParam<StopPoint> {};

TEST_P(StoppedRank, GetsAnErrorAndTheOthersGoOn) {
  const StopPoint point = GetParam();
  const LayerCase layer = layer_for(3, 7);
  const UniqueId id = UniqueId::create();
  constexpr int kStopped = 2;
  auto& shared = Processes::shared();
  Processes ranks(3, [&](int rank) -> std::string {
    GroupOptions options = options_with(rank == kStopped ? 60'000ms : 2000ms);
    int signals = 0;
    if (rank == kStopped) {
      options.on_phase = [&](Phase phase) {
        signals += phase == Phase::kCheck ? 1 : 0;
        if (phase == point.phase && signals == (point.in_combine ? 4 : 3)) {
          std::raise(SIGSTOP);
        }
      };
    }
    auto group = Group::connect(id, rank, 3, options);
    if (!group.ok()) {
      return group.status().message();
    }
    const Status failed = run_until_failure(*group, layer);
    std::string text = summary(failed);
    if (rank != kStopped) {
      auto members = group->reset();
      text += members.ok() ? " reset" : " " + members.status().message();
      for (int r : members.ok() ? *members : std::vector<int>{}) {
        text += " " + std::to_string(r);
      }
      text += " " + summary(run_until_failure(*group, layer));
      overwrite_window(*group);
    }
    shared.step[static_cast<std::size_t>(rank)] = 1;
    while (shared.step[3] == 0) {
      std::this_thread::sleep_for(1ms);
    }
    // With all three a reset makes the group whole again: its call has told the rank that it was
    // left behind.
    auto members = group->reset();
    if (!members.ok() || members->size() != 3) {
      return text + " second reset: " + members.status().message();
    }
    for (int i = 0; i < 3; ++i) {
      text += run_layer(*group, layer);
    }
    return text;
  });
  ASSERT_TRUE(ranks.wait_stopped(kStopped, kPatience));
  ASSERT_TRUE(ranks.wait_step(0, 1, kPatience) && ranks.wait_step(1, 1, kPatience));
  ranks.send(kStopped, SIGCONT);
  ASSERT_TRUE(ranks.wait_step(kStopped, 1, kPatience));
  shared.step[3] = 1;
  ASSERT_TRUE(ranks.join(kPatience));
  // The others name the missing rank, agree on a list without it, and refuse calls that include it.
  EXPECT_EQ(ranks.text(0), "Timeout 2 reset 0 1 InvalidState 2");
  EXPECT_EQ(ranks.text(1), "Timeout 2 reset 0 1 InvalidState 2");
  // Where it had the others' signals it knows who left.
  const std::string late = ranks.text(kStopped);
  EXPECT_TRUE(late == "InvalidState" || late == "InvalidState 0 1") << late;
}

INSTANTIATE_TEST_SUITE_P(EveryPhase,
                         StoppedRank,
                         ::testing::Values(StopPoint{Phase::kCheck, false},
                                           StopPoint{Phase::kWaitHalf, false},
                                           StopPoint{Phase::kPublish, false},
                                           StopPoint{Phase::kSignalled, false},
                                           StopPoint{Phase::kWaitSignals, false},
                                           StopPoint{Phase::kPull, false},
                                           StopPoint{Phase::kCheck, true},
                                           StopPoint{Phase::kPublish, true},
                                           StopPoint{Phase::kWaitSignals, true},
                                           StopPoint{Phase::kPull, true},
                                           StopPoint{Phase::kWaitReaders, true}),
                         name_of_point);

TEST(LostRank, IsNamedWithinTwoSeconds) {
  const LayerCase layer = layer_for(4, 11);
  const UniqueId id = UniqueId::create();
  Processes ranks(4, [&](int rank) -> std::string {
    auto group = Group::connect(id, rank, 4, options_with(60'000ms));
    if (!group.ok()) {
      return group.status().message();
    }
    Processes::shared().step[static_cast<std::size_t>(rank)] = 1;
    const Status failed = run_until_failure(*group, layer);
    return summary(failed);
  });
  for (int r = 0; r < 4; ++r) {
    ASSERT_TRUE(ranks.wait_step(r, 1, kPatience));
  }
  std::this_thread::sleep_for(5ms);
  ranks.send(1, SIGKILL);
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_TRUE(ranks.join(kPatience));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 2s);
  for (int r : {0, 2, 3}) {
    EXPECT_EQ(ranks.text(r), "PeerLost 1");
  }
}

std::set<std::string> entries_of(const char* folder) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    names.insert(entry.path().filename());
  }
  return names;
}

/// Those of other groups of this machine do not count.
bool sockets_left(const std::vector<std::string>& ids) {
  std::ifstream file("/proc/net/unix");
  std::string line;
  while (std::getline(file, line)) {
    for (const std::string& id : ids) {
      if (line.find("@waybill-" + id) != std::string::npos) {
        return true;
      }
    }
  }
  return false;
}

TEST(KilledGroup, LeavesNothingBehind) {
  const auto before = entries_of("/dev/shm");
  std::mt19937 random(5);
  std::vector<std::string> ids;
  for (int round = 0; round < 50; ++round) {
    const LayerCase layer = layer_for(3, static_cast<std::uint64_t>(round));
    const UniqueId id = UniqueId::create();
    ids.push_back(id.to_string());
    Processes ranks(3, [&](int rank) -> std::string {
      auto group = Group::connect(id, rank, 3, options_with(60'000ms));
      return group.ok() ? summary(run_until_failure(*group, layer)) : group.status().message();
    });
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 30'000));
    for (int r = 0; r < 3; ++r) {
      ranks.send(r, SIGKILL);
    }
    ASSERT_TRUE(ranks.join(kPatience));
  }
  EXPECT_EQ(entries_of("/dev/shm"), before);
  EXPECT_FALSE(sockets_left(ids));
}

}  // namespace
}  // namespace waybill
