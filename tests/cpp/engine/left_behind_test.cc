// Ranks that the others went on without: told so once, by a call or by a reset, and in the list of
// the next reset that all call.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "engine/group_access.h"
#include "engine/session.h"
#include "support/ranks.h"
#include "window/page_reads.h"

namespace waybill::engine {
namespace {

using namespace std::chrono_literals;
using testing::dispatch_only;
using testing::expect_all_ok;
using testing::LayerCase;
using testing::plain_layer;
using testing::Ranks;
using testing::run_layer;
using testing::scaled_in;
using testing::status_of;
using window::concluded_by;
using window::read_joined;
using window::ResetStage;

constexpr auto kPatience = 30s;  ///< of waits that are to succeed
constexpr auto kShort = 40ms;    ///< of waits for a rank that does not come

thread_local int own_rank = -1;

std::vector<int> all_of(int count) {
  std::vector<int> ranks(static_cast<std::size_t>(count));
  for (int r = 0; r < count; ++r) {
    ranks[static_cast<std::size_t>(r)] = r;
  }
  return ranks;
}

std::vector<int> without(const std::vector<int>& ranks, const std::vector<int>& left_out) {
  std::vector<int> rest;
  for (const int rank : ranks) {
    if (std::find(left_out.begin(), left_out.end(), rank) == left_out.end()) {
      rest.push_back(rank);
    }
  }
  return rest;
}

bool wait_until(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (!condition() && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(200us);
  }
  return condition();
}

/// Ranks as threads, some of which stop in a call until the test lets them go on.
class Stoppable {
 public:
  explicit Stoppable(std::vector<std::string> hosts, const transport::LocalLinks* links = nullptr)
      : ranks_(options_for(std::move(hosts)), links),
        stops_(static_cast<std::size_t>(ranks_.size())) {}

  int size() const { return ranks_.size(); }
  Group& group(int rank) { return ranks_[rank]; }
  const window::ControlPage& page(int rank) { return engine::session_of(ranks_[rank]).page(); }
  Ranks& ranks() { return ranks_; }
  std::vector<int> everyone() const { return all_of(size()); }

  /// Those named do body(group), each on a thread of its own; what each returns, by its rank.
  std::vector<Status> run(const std::vector<int>& who, const std::function<Status(Group&)>& body) {
    std::vector<Status> results(static_cast<std::size_t>(size()));
    testing::on_threads(who.size(), [&](std::size_t i) {
      own_rank = who[i];
      return results[static_cast<std::size_t>(own_rank)] = body(group(own_rank));
    });
    return results;
  }

  /// `stopped` stop where `phase` begins in their next dispatch; the others' calls fail because of
  /// that. Then the others reset without them and make calls, and the stopped ones go on: what
  /// their calls return, by rank.
  std::vector<Status> leave_behind(const std::vector<int>& stopped, Phase phase) {
    for (const int rank : stopped) {
      stop_of(rank).reached = false;
      stop_of(rank).phase = static_cast<int>(phase);
    }
    std::vector<Status> results;
    std::thread calls([&] { results = call_until_told(stopped); });
    fail_without(stopped);
    for (const int rank : stopped) {
      EXPECT_TRUE(wait_until([&] { return stop_of(rank).reached.load(); }));
    }
    go_on_without(stopped);
    for (const int rank : stopped) {
      stop_of(rank).phase = -1;
    }
    calls.join();
    return results;
  }

  /// Their calls, until one fails: over hosts the rows of the current one may all have come.
  std::vector<Status> call_until_told(const std::vector<int>& who) {
    const LayerCase layer = plain_layer(size());
    return run(who, [&](Group& group) {
      Status status;
      for (int i = 0; i < 3 && status.ok(); ++i) {
        status = dispatch_only(group, layer.dispatch_args(group.rank()));
      }
      return status;
    });
  }

  /// Calls of the others, until one fails.
  void fail_without(const std::vector<int>& stopped) {
    const std::vector<int> others = without(everyone(), stopped);
    for (const int rank : others) {
      group(rank).set_timeout(kShort);
    }
    const auto results = call_until_told(others);
    for (const int rank : others) {
      EXPECT_FALSE(results[static_cast<std::size_t>(rank)].ok());
    }
  }

  /// The others reset and make calls.
  void go_on_without(const std::vector<int>& stopped) {
    const std::vector<int> others = without(everyone(), stopped);
    for (const int rank : others) {
      group(rank).set_timeout(kShort);
    }
    // On a busy machine one of them may come too late for the others.
    bool agreed = false;
    for (int i = 0; i < 50 && !agreed; ++i) {
      const auto lists = run(others, [&](Group& group) {
        const auto members = group.reset();
        return status_of(members.ok() && *members == others ? "" : "another list");
      });
      agreed = std::all_of(lists.begin(), lists.end(), [](const Status& s) { return s.ok(); });
    }
    ASSERT_TRUE(agreed);
    for (const int rank : others) {
      group(rank).set_timeout(kPatience);
    }
    expect_works(others);
  }

  /// Until these see that all others are in a newer epoch than they.
  void wait_until_seen(const std::vector<int>& who) {
    for (const int rank : who) {
      Session& session = engine::session_of(group(rank));
      for (const int other : without(everyone(), who)) {
        EXPECT_TRUE(wait_until([&] {
          return concluded_by(*session.peer(other).control) == concluded_by(page(other));
        }));
      }
    }
  }

  void expect_too_late(int rank) {
    const Status status = group(rank).reset().status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidState) << status.message();
    EXPECT_NE(status.message().find("this rank came too late"), std::string::npos)
        << status.message();
  }

  /// These call reset at once and get the list of everybody.
  void expect_lists(const std::vector<int>& who) {
    expect_all_ok(run(who, [&](Group& group) {
      const auto members = group.reset();
      if (members.ok()) {
        EXPECT_EQ(*members, everyone()) << "rank " << group.rank();
      }
      return members.status();
    }));
  }

  /// A reset of this rank that ends although no time ran out.
  void interrupt_reset(int rank) {
    interrupts_ = rank;
    const Status status = run({rank}, [](Group& group) {
      return group.reset().status();
    })[static_cast<std::size_t>(rank)];
    EXPECT_EQ(status.code(), StatusCode::kInterrupted) << status.message();
    interrupts_ = -1;
  }

  void expect_works(const std::vector<int>& members) {
    const LayerCase layer = scaled_in(size(), members);
    expect_all_ok(run(members, [&](Group& group) { return status_of(run_layer(group, layer)); }));
  }

  /// All call reset once, in this order, each when the one before has come to the attempt; without
  /// an order at once. All have to return all.
  void expect_whole(const std::vector<int>& order = {}) {
    std::vector<std::thread> threads;
    std::vector<std::atomic<bool>> returned(static_cast<std::size_t>(size()));
    const auto begin = std::chrono::steady_clock::now();
    for (const int rank : order.empty() ? everyone() : order) {
      const auto before = read_joined(page(rank));
      std::atomic<bool>& over = returned[static_cast<std::size_t>(rank)];
      threads.emplace_back([this, rank, &over] {
        own_rank = rank;
        const auto members = group(rank).reset();
        over = true;
        EXPECT_TRUE(members.ok()) << members.status().message();
        if (members.ok()) {
          EXPECT_EQ(*members, everyone()) << "rank " << rank;
        }
      });
      if (!order.empty()) {
        EXPECT_TRUE(wait_until([&] {
          const auto now = read_joined(page(rank));
          return over || now.attempt != before.attempt || now.stage != before.stage;
        }));
      }
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
    EXPECT_LT(std::chrono::steady_clock::now() - begin, kPatience / 2) << "a time ran out";
    expect_works(everyone());
  }

 private:
  struct Stop {
    std::atomic<int> phase{-1};
    std::atomic<bool> reached{false};
  };
  GroupOptions options_for(std::vector<std::string> hosts) {
    GroupOptions options;
    options.timeout = kPatience;
    options.window_bytes = testing::kTestWindowBytes;
    options.hosts = std::move(hosts);
    options.on_phase = [this](Phase phase) { reach(phase); };
    options.interrupted = [this] { return own_rank >= 0 && own_rank == interrupts_; };
    return options;
  }
  Stop& stop_of(int rank) { return stops_[static_cast<std::size_t>(rank)]; }

  void reach(Phase phase) {
    if (own_rank < 0) {
      return;
    }
    Stop& stop = stop_of(own_rank);
    if (stop.phase == static_cast<int>(phase)) {
      stop.reached = true;
      wait_until([&] { return stop.phase != static_cast<int>(phase); });
    }
  }

  Ranks ranks_;
  std::vector<Stop> stops_;
  std::atomic<int> interrupts_{-1};
};

std::vector<std::string> hosts_of(int ranks, int hosts) {
  std::vector<std::string> names;
  names.reserve(static_cast<std::size_t>(ranks));
  for (int rank = 0; rank < ranks; ++rank) {
    names.push_back(hosts == 1 ? "" : "host" + std::to_string(rank % hosts));
  }
  return names;
}

const std::vector<Phase> kPhases = {Phase::kCheck, Phase::kSignalled, Phase::kPull};

void expect_told(const std::vector<Status>& results, const std::vector<int>& ranks) {
  for (const int rank : ranks) {
    const Status& status = results[static_cast<std::size_t>(rank)];
    EXPECT_EQ(status.code(), StatusCode::kInvalidState) << status.message();
  }
}

class LeftBehind : public ::testing::TestWithParam<int> {
 protected:
  static int hosts() { return GetParam(); }
};

TEST_P(LeftBehind, AnyRankIsInTheNextListAtTheFirstTry) {
  for (int count = std::max(2, hosts()); count <= 8; ++count) {
    Stoppable ranks(hosts_of(count, hosts()));
    for (int stopped = 0; stopped < count; ++stopped) {
      SCOPED_TRACE(std::to_string(count) + " ranks, rank " + std::to_string(stopped) + " stopped");
      for (const Phase phase : count == 4 ? kPhases : std::vector<Phase>{Phase::kCheck}) {
        expect_told(ranks.leave_behind({stopped}, phase), {stopped});
        ranks.expect_whole();
      }
    }
  }
}

TEST_P(LeftBehind, ComesAtAnyTurn) {
  constexpr int kCount = 4;
  Stoppable ranks(hosts_of(kCount, hosts()));
  for (int stopped = 0; stopped < kCount; ++stopped) {
    for (std::size_t turn = 0; turn < kCount; ++turn) {
      SCOPED_TRACE("rank " + std::to_string(stopped) + " at turn " + std::to_string(turn));
      expect_told(ranks.leave_behind({stopped}, Phase::kCheck), {stopped});
      std::vector<int> order = without(ranks.everyone(), {stopped});
      std::rotate(order.begin(), order.begin() + stopped % (kCount - 1), order.end());
      order.insert(order.begin() + static_cast<std::ptrdiff_t>(turn), stopped);
      ranks.expect_whole(order);
    }
  }
}

TEST_P(LeftBehind, TwoAtOnce) {
  constexpr int kCount = 4;
  Stoppable ranks(hosts_of(kCount, hosts()));
  for (int one = 0; one < kCount; ++one) {
    for (int two = one + 1; two < kCount; ++two) {
      SCOPED_TRACE("ranks " + std::to_string(one) + " and " + std::to_string(two));
      expect_told(ranks.leave_behind({one, two}, Phase::kCheck), {one, two});
      ranks.expect_whole();
      expect_told(ranks.leave_behind({one, two}, Phase::kSignalled), {one, two});
      const std::vector<int> others = without(ranks.everyone(), {one, two});
      ranks.expect_whole({two, others[0], others[1], one});
    }
  }
}

// It was told once; that the others went on again before it called reset is not told it again.
TEST_P(LeftBehind, AgainBeforeItCallsReset) {
  for (int stopped = 0; stopped < 3; ++stopped) {
    Stoppable ranks(hosts_of(3, hosts()));
    expect_told(ranks.leave_behind({stopped}, Phase::kCheck), {stopped});
    for (int i = 0; i < 3; ++i) {
      ranks.go_on_without({stopped});
    }
    ranks.expect_whole();
    ranks.expect_whole();
  }
}

TEST_P(LeftBehind, BetweenCallsItIsToldByTheNextCall) {
  for (int stopped = 0; stopped < 3; ++stopped) {
    Stoppable ranks(hosts_of(3, hosts()));
    for (int i = 0; i < 2; ++i) {
      ranks.go_on_without({stopped});
      ranks.go_on_without({stopped});
      expect_told(ranks.call_until_told({stopped}), {stopped});
      ranks.expect_whole();
    }
  }
}

// Whom no call has told, the reset tells; the others wait for it meanwhile.
TEST_P(LeftBehind, BetweenCallsItIsToldByItsReset) {
  for (int stopped = 0; stopped < 3; ++stopped) {
    for (const bool others_first : {false, true}) {
      Stoppable ranks(hosts_of(3, hosts()));
      ranks.go_on_without({stopped});
      ranks.go_on_without({stopped});
      if (!others_first) {
        ranks.wait_until_seen({stopped});
        ranks.expect_too_late(stopped);
        ranks.expect_whole();
        continue;
      }
      const std::vector<int> others = without(ranks.everyone(), {stopped});
      std::thread waiting([&] { ranks.expect_lists(others); });
      for (const int rank : others) {
        EXPECT_TRUE(wait_until(
            [&] { return read_joined(ranks.page(rank)).stage == ResetStage::kGathering; }));
      }
      ranks.wait_until_seen({stopped});
      ranks.expect_too_late(stopped);
      ranks.expect_lists({stopped});
      waiting.join();
      ranks.expect_works(ranks.everyone());
    }
  }
}

// A call that failed before the others went on told it nothing; the next one does.
TEST_P(LeftBehind, AGroupThatNeedsAResetTellsIt) {
  for (int slow = 0; slow < 3; ++slow) {
    Stoppable ranks(hosts_of(3, hosts()));
    ranks.fail_without({slow});
    const LayerCase layer = plain_layer(3);
    const auto call = [&](Group& group) {
      return dispatch_only(group, layer.dispatch_args(group.rank()));
    };
    EXPECT_FALSE(ranks.run({slow}, call)[static_cast<std::size_t>(slow)].ok());
    ranks.go_on_without({slow});
    ranks.wait_until_seen({slow});
    expect_told(ranks.run({slow}, call), {slow});
    ranks.expect_whole();
  }
}

TEST_P(LeftBehind, AfterAResetThatWasInterrupted) {
  for (int stopped = 0; stopped < 3; ++stopped) {
    Stoppable ranks(hosts_of(3, hosts()));
    expect_told(ranks.leave_behind({stopped}, Phase::kCheck), {stopped});
    ranks.interrupt_reset(stopped);
    ranks.go_on_without({stopped});
    ranks.expect_whole();
  }
}

// Rank 2 learns from rank 0 that the list of the others held, and asks for the next attempt, before
// rank 3 knows that rank 1 has accepted it, or what rank 0 has concluded.
TEST(LeftBehindOverHosts, WhoAcceptedAListSeesHowItEnds) {
  constexpr auto kDelay = 400ms;
  transport::LocalLinks links(4);
  Stoppable ranks({"a", "b", "c", "d"}, &links);
  ranks.expect_works(ranks.everyone());
  const std::vector<int> others = {0, 1, 3};
  links.delay(0, 3, kDelay);
  links.delay(1, 3, 3 * kDelay);
  ranks.group(0).set_timeout(5 * kDelay / 2);  // it closes
  std::thread shrinks([&] {
    expect_all_ok(ranks.run(others, [&](Group& group) {
      const Session& closer = engine::session_of(ranks.group(0));
      EXPECT_TRUE(group.rank() != 0 || wait_until([&] {
                    return read_joined(*closer.peer(1).control).attempt == 1 &&
                           read_joined(*closer.peer(3).control).attempt == 1;
                  }));
      const auto members = group.reset();
      if (members.ok()) {
        EXPECT_EQ(*members, others) << "rank " << group.rank();
      }
      return members.status();
    }));
  });
  EXPECT_TRUE(wait_until([&] { return concluded_by(ranks.page(0)) == 1; }));
  expect_told(ranks.call_until_told({2}), {2});
  std::thread asks([&] { ranks.expect_lists({2}); });
  shrinks.join();
  links.delay(0, 3, 0ms);
  links.delay(1, 3, 0ms);
  ranks.group(0).set_timeout(kPatience);
  ranks.expect_works(others);
  ranks.expect_lists(others);
  asks.join();
  ranks.expect_works(ranks.everyone());
}

INSTANTIATE_TEST_SUITE_P(Hosts, LeftBehind, ::testing::Values(1, 2, 3));

}  // namespace
}  // namespace waybill::engine
