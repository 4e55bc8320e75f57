// Groups over several hosts whose links fail: who is named, and that no wrong row ever counts.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "engine/group_access.h"
#include "support/ranks.h"
#include "transport/local_wire.h"
#include "waybill/barrier.h"

namespace waybill {
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
using transport::LocalLinks;
using Clock = std::chrono::steady_clock;
using Hosts = std::vector<std::string>;

const Hosts kTwoByTwo = {"a", "a", "b", "b"};

/// The same for every direction from ranks of one host to those of the other.
void for_each_link(const std::vector<int>& from,
                   const std::vector<int>& to,
                   const std::function<void(int, int)>& body) {
  for (const int f : from) {
    for (const int t : to) {
      body(f, t);
    }
  }
}

void hold(LocalLinks& links, const std::vector<int>& from, const std::vector<int>& to, bool held) {
  for_each_link(from, to, [&](int f, int t) { links.hold(f, t, held); });
}

void cut(LocalLinks& links, const std::vector<int>& from, const std::vector<int>& to) {
  for_each_link(from, to, [&](int f, int t) { links.cut(f, t); });
}

/// Until every rank of `who` has noticed that all of `lost` are.
void wait_until_lost(Ranks& ranks, const std::vector<int>& who, const std::vector<int>& lost) {
  for_each_link(who, lost, [&](int of, int rank) {
    const auto end = Clock::now() + 20s;
    while (!engine::session_of(ranks[of]).transport().has_ended(rank) && Clock::now() < end) {
      std::this_thread::sleep_for(1ms);
    }
    EXPECT_TRUE(engine::session_of(ranks[of]).transport().has_ended(rank));
  });
}

std::vector<Status> dispatch_all(Ranks& ranks, const LayerCase& layer) {
  return ranks.run(
      [&](Group& group) { return dispatch_only(group, layer.dispatch_args(group.rank())); });
}

void expect_error(const Status& status,
                  StatusCode code,
                  const std::vector<int>& ranks,
                  const std::string& text) {
  EXPECT_EQ(status.code(), code) << status.message();
  EXPECT_EQ(status.info().ranks, ranks) << status.message();
  EXPECT_NE(status.message().find(text), std::string::npos) << status.message();
}

/// Each list resets, and works, without the others.
void expect_parts_work(Ranks& ranks, const std::vector<std::vector<int>>& parts) {
  expect_all_ok(ranks.run([&](Group& group) -> Status {
    for (const std::vector<int>& part : parts) {
      if (std::find(part.begin(), part.end(), group.rank()) == part.end()) {
        continue;
      }
      auto members = group.reset();
      if (!members.ok()) {
        return members.status();
      }
      EXPECT_EQ(*members, part);
      for (int round = 0; round < 3; ++round) {
        if (std::string text = run_layer(group, scaled_in(ranks.size(), part)); !text.empty()) {
          return status_of(text);
        }
      }
    }
    return {};
  }));
}

TEST(HostsEnd, RanksOfAHostEndOneAfterAnother) {
  for (int round = 0; round < 5; ++round) {
    Ranks ranks(Hosts{"a", "b", "a", "b", "a"});
    ranks.expect_works();
  }
}

TEST(HostsCut, BothSidesNameTheOthersHostAndGoOnAlone) {
  LocalLinks links(4);
  Ranks ranks(kTwoByTwo, 3s, {}, &links);
  ranks.expect_works();
  cut(links, {0, 1}, {2, 3});
  wait_until_lost(ranks, {0, 1}, {2, 3});
  wait_until_lost(ranks, {2, 3}, {0, 1});
  const auto begin = Clock::now();
  const auto results = dispatch_all(ranks, plain_layer(4));
  for (const std::size_t r : {0U, 1U}) {
    expect_error(results[r], StatusCode::kPeerLost, {2, 3}, "rank 2 is on host b, lost: ");
    expect_error(results[r + 2], StatusCode::kPeerLost, {0, 1}, "rank 0 is on host a, lost: ");
  }
  EXPECT_LT(Clock::now() - begin, 2500ms);
  expect_parts_work(ranks, {{0, 1}, {2, 3}});
}

TEST(HostsCut, InACallItIsNoticedAtOnce) {
  LocalLinks links(4);
  Ranks ranks(kTwoByTwo, 20s, {}, &links);
  hold(links, {2, 3}, {0, 1}, true);
  std::thread later([&] {
    std::this_thread::sleep_for(300ms);
    cut(links, {0, 1}, {2, 3});
  });
  const auto begin = Clock::now();
  const auto results = dispatch_all(ranks, plain_layer(4));
  later.join();
  EXPECT_LT(Clock::now() - begin, 4s);
  for (const std::size_t r : {0U, 1U}) {
    EXPECT_EQ(results[r].code(), StatusCode::kPeerLost) << results[r].message();
  }
  wait_until_lost(ranks, {0, 1}, {2, 3});
  wait_until_lost(ranks, {2, 3}, {0, 1});
  expect_parts_work(ranks, {{0, 1}, {2, 3}});
}

TEST(HostsCut, TwoOfThreeHostsGoOn) {
  LocalLinks links(4);
  Ranks ranks(Hosts{"a", "c", "b", "a"}, 5s, {}, &links);
  ranks.expect_works();
  cut(links, {1}, {0, 2, 3});
  wait_until_lost(ranks, {1}, {0, 2, 3});
  for (const int r : {0, 2, 3}) {
    wait_until_lost(ranks, {r}, {1});
  }
  const auto results = dispatch_all(ranks, plain_layer(4));
  for (const std::size_t r : {0U, 2U, 3U}) {
    expect_error(results[r], StatusCode::kPeerLost, {1}, "host c");
  }
  expect_error(results[1], StatusCode::kPeerLost, {0, 2, 3}, "rank 2 is on host b");
  expect_parts_work(ranks, {{0, 2, 3}, {1}});
}

TEST(HostsHeld, ATimeoutNamesTheRanksBehindTheLink) {
  LocalLinks links(4);
  Ranks ranks(kTwoByTwo, 1s, {}, &links);
  ranks.expect_works();
  hold(links, {0, 1}, {2, 3}, true);
  const auto begin = Clock::now();
  const auto results = dispatch_all(ranks, plain_layer(4));
  EXPECT_LT(Clock::now() - begin, 2500ms);
  for (const std::size_t r : {2U, 3U}) {
    expect_error(results[r], StatusCode::kTimeout, {0, 1}, "rank 0 is on host a, heard ");
  }
  hold(links, {0, 1}, {2, 3}, false);
  ranks.expect_resets();
  ranks.expect_works(2);
}

thread_local int own_rank = -1;

/// What happens once, when rank 0 comes to a phase.
struct Trap {
  std::atomic<int> phase{-1};
  std::function<void()> spring;

  void at(Phase reached) {
    int expected = static_cast<int>(reached);
    if (own_rank == 0 && phase.compare_exchange_strong(expected, -1)) {
      spring();
    }
  }
};

/// An error of the protocol, not a difference of rows.
bool is_error_of_call(const std::string& text) {
  for (const char* part : {"did not come within",
                           "called reset during",
                           "gave the call up",
                           "at a later one than this rank",
                           "left the group",
                           "expected a reset of the group first"}) {
    if (text.find(part) != std::string::npos) {
      return true;
    }
  }
  return false;
}

/// A link goes bad when rank 0 comes to `phase` of its second layer, and good again after it.
void expect_nothing_stale(Phase phase, const std::function<void(LocalLinks&, bool)>& spoil) {
  LocalLinks links(4);
  Trap trap;
  trap.spring = [&] { spoil(links, true); };
  Ranks ranks(kTwoByTwo, 600ms, [&](Phase reached) { trap.at(reached); }, &links);
  for (std::uint64_t seed = 1; seed <= 2; ++seed) {
    trap.phase = static_cast<int>(phase);
    const LayerCase layer = Ranks::layer_for(4, 40 * seed + static_cast<std::uint64_t>(phase));
    const auto results = ranks.run([&](Group& group) {
      own_rank = group.rank();
      return status_of(run_layer(group, layer));
    });
    for (const Status& status : results) {
      EXPECT_TRUE(status.ok() || is_error_of_call(status.message())) << status.message();
    }
    trap.phase = -1;
    spoil(links, false);
    ranks.run([](Group& group) { return (group.set_timeout(20s), Status()); });
    ranks.expect_resets();
    ranks.expect_works(seed + 7);
    ranks.run([](Group& group) { return (group.set_timeout(600ms), Status()); });
  }
}

const std::vector<Phase> kPhases = {Phase::kCheck,
                                    Phase::kWaitHalf,
                                    Phase::kPublish,
                                    Phase::kPublishRows,
                                    Phase::kSignalled,
                                    Phase::kWaitSignals,
                                    Phase::kPull,
                                    Phase::kPullRows,
                                    Phase::kWaitReaders};

TEST(HostsHeld, AtEveryPhaseNothingStaleBecomesARow) {
  for (const Phase phase : kPhases) {
    expect_nothing_stale(phase,
                         [](LocalLinks& links, bool bad) { hold(links, {0, 1}, {2, 3}, bad); });
  }
}

TEST(HostsSwallowed, AtEveryPhaseNothingStaleBecomesARow) {
  for (const Phase phase : kPhases) {
    expect_nothing_stale(phase, [](LocalLinks& links, bool bad) {
      for_each_link({0, 1}, {2, 3}, [&](int f, int t) { links.swallow(f, t, bad); });
    });
  }
}

TEST(HostsDropped, WhatIsOnTheWayIsLostAtEveryPhase) {
  for (const Phase phase : {Phase::kSignalled, Phase::kWaitSignals, Phase::kPull}) {
    expect_nothing_stale(phase, [](LocalLinks& links, bool bad) {
      for_each_link({0, 1}, {2, 3}, [&](int f, int t) {
        if (bad) {
          links.drop_in_flight(f, t);
        }
      });
    });
  }
}

TEST(HostsDelayed, SlowLinksAreSlowAndRight) {
  LocalLinks links(4);
  Ranks ranks(kTwoByTwo, 20s, {}, &links);
  for_each_link({0, 1}, {2, 3}, [&](int f, int t) { links.delay(f, t, 300ms); });
  links.delay(3, 0, 150ms);
  for (std::uint64_t seed = 1; seed < 4; ++seed) {
    ranks.expect_works(seed);
  }
  ranks.expect_resets();
  ranks.expect_works(9);
}

TEST(HostsLate, ARankThatDoesNotCallIsNamedOnEveryHost) {
  Ranks ranks(Hosts{"a", "b", "a", "b"}, 1s);
  const LayerCase layer = plain_layer(4);
  const auto results = ranks.run([&](Group& group) {
    return group.rank() == 1 ? Status() : dispatch_only(group, layer.dispatch_args(group.rank()));
  });
  for (const std::size_t r : {0U, 2U, 3U}) {
    expect_error(results[r], StatusCode::kTimeout, {1}, "waiting for signals, call 1, epoch 1");
  }
  EXPECT_NE(results[0].message().find("rank 1 is on host b"), std::string::npos);
  ranks.expect_resets();
  ranks.expect_works();
}

TEST(HostsKeepalive, SilenceIsALoss) {
  const testing::Variable keepalive("WAYBILL_KEEPALIVE", "1");
  LocalLinks links(3);
  Ranks ranks(Hosts{"a", "a", "b"}, 10s, {}, &links);
  ranks.expect_works();
  for (const int r : {0, 1}) {
    links.swallow(r, 2);
    links.swallow(2, r);
  }
  const auto begin = Clock::now();
  const auto results = dispatch_all(ranks, plain_layer(3));
  EXPECT_GE(Clock::now() - begin, 900ms);
  EXPECT_LT(Clock::now() - begin, 8s);
  expect_error(results[0], StatusCode::kPeerLost, {2}, "nothing was heard of it for ");
  expect_error(results[1], StatusCode::kPeerLost, {2}, "nothing was heard of it for ");
  EXPECT_EQ(results[2].code(), StatusCode::kPeerLost);
  EXPECT_NE(results[2].message().find("nothing was heard"), std::string::npos);
  wait_until_lost(ranks, {2}, {0, 1});
  expect_parts_work(ranks, {{0, 1}, {2}});
}

TEST(HostsProgressInCalls, WordsAndRowsLeaveBeforeACallIsBack) {
  const testing::Variable progress("WAYBILL_PROGRESS", "call");
  LocalLinks links(4);
  const auto begin = Clock::now();
  {
    Ranks ranks(kTwoByTwo, 10s, {}, &links);
    for (std::uint64_t seed = 1; seed < 30; ++seed) {
      ranks.expect_works(seed);
    }
    for (int round = 0; round < 300; ++round) {
      expect_all_ok(ranks.run([](Group& group) { return barrier(group, {.world_size = 4}); }));
    }
    ranks.expect_resets();
    ranks.expect_works();
  }
  EXPECT_LT(Clock::now() - begin, 9s) << "a close waited for words that had not left";
}

}  // namespace
}  // namespace waybill
