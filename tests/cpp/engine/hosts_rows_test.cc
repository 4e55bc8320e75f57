// Rows on their way to other hosts while their memory, or the group, changes.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "engine/group_access.h"
#include "setup_calls.h"
#include "support/ranks.h"
#include "transport/local_wire.h"
#include "waybill/barrier.h"
#include "window/page_reads.h"

namespace waybill {
namespace {

using namespace std::chrono_literals;
using testing::dispatch_only;
using testing::expect_all_ok;
using testing::LayerCase;
using testing::Ranks;
using testing::wide_layer;
using transport::LocalLinks;
using Clock = std::chrono::steady_clock;
using Hosts = std::vector<std::string>;

/// A combine of rows in place; all of them are 1 when it begins and 99 when it is over. What a rank
/// that succeeds must have got is 1 everywhere.
Status combine_and_overwrite(Group& group,
                             const LayerCase& layer,
                             const std::function<void()>& before_combine) {
  auto sent = dispatch(group, layer.dispatch_args(group.rank()));
  if (!sent.ok()) {
    return sent.status();
  }
  auto* rows = sent->expand_x.data<float>();
  std::fill_n(rows, sent->rows * layer.h, 1.0F);
  if (Status status = barrier(group, {.world_size = layer.num_ranks}); !status.ok()) {
    return status;
  }
  std::this_thread::sleep_for(50ms);  // all of these calls has left
  before_combine();
  const CombineArgs args = layer.combine_args(group.rank(), sent->expand_x.view(), *sent);
  auto back = combine(group, args);
  std::fill_n(rows, sent->rows * layer.h, 99.0F);
  if (back.ok()) {
    const auto* sums = back->data<float>();
    const auto [least, most] = std::minmax_element(sums, sums + back->shape.product());
    EXPECT_EQ(*least, 1.0F) << "rank " << group.rank();
    EXPECT_EQ(*most, 1.0F) << "rank " << group.rank();
  }
  return back.status();
}

/// Layers after which the rows of the next one, in either half, leave before the signal of the rank
/// that receives them: it has memory for them.
void warm(Ranks& ranks, const LayerCase& layer) {
  for (int i = 0; i < 2; ++i) {
    expect_all_ok(
        ranks.run([&](Group& group) { return combine_and_overwrite(group, layer, [] {}); }));
  }
}

TEST(HostsRows, ALateWriterNeverSendsWhatItWroteAfterItsCall) {
  LocalLinks links(3);
  Ranks ranks(Hosts{"a", "b", "b"}, 20s, {}, &links);
  const LayerCase layer = wide_layer(3);
  for (int round = 0; round < 3; ++round) {
    warm(ranks, layer);
    const auto results = ranks.run([&](Group& group) {
      group.set_timeout(group.rank() == 0 ? 600ms : 3s);
      const Status status = combine_and_overwrite(group, layer, [&] {
        if (group.rank() == 0) {
          links.hold(0, 1);
          links.hold(0, 2, round == 1);
        }
      });
      if (group.rank() == 0) {
        links.hold(0, 1, false);
        links.hold(0, 2, false);
      }
      return status;
    });
    EXPECT_EQ(results[0].code(), StatusCode::kTimeout) << results[0].message();
    EXPECT_EQ(results[0].info().ranks, (std::vector<int>{1, 2})) << results[0].message();
    EXPECT_FALSE(results[1].ok());
    EXPECT_FALSE(results[2].ok());
    ranks.run([](Group& group) { return (group.set_timeout(20s), Status()); });
    ranks.expect_resets();
    ranks.expect_works(static_cast<std::uint64_t>(round));
  }
}

/// Of three hosts one does not take rows: only its ranks are named.
TEST(HostsRows, ThatDoNotLeaveNameTheHostThatDoesNotTakeThem) {
  LocalLinks links(4);
  Ranks ranks(Hosts{"a", "b", "c", "c"}, 1s, {}, &links);
  const LayerCase layer = wide_layer(4);
  warm(ranks, layer);
  const auto results = ranks.run([&](Group& group) {
    return combine_and_overwrite(group, layer, [&] {
      if (group.rank() == 0) {
        links.hold(0, 2);
        links.hold(0, 3);
      }
    });
  });
  EXPECT_EQ(results[0].code(), StatusCode::kTimeout) << results[0].message();
  EXPECT_EQ(results[0].info().ranks, (std::vector<int>{2, 3})) << results[0].message();
  links.hold(0, 2, false);
  links.hold(0, 3, false);
  ranks.run([](Group& group) { return (group.set_timeout(20s), Status()); });
  ranks.expect_resets();
  ranks.expect_works();
}

/// Ranks that wait until their rows have left say meanwhile that they live, each to the host that
/// the other one does not reach.
TEST(HostsRows, RanksThatWaitForThemToLeaveSpeak) {
  const testing::Variable keepalive("WAYBILL_KEEPALIVE", "1");
  LocalLinks links(4);
  Ranks ranks(Hosts{"a", "b", "c", "a"}, 4s, {}, &links);
  const LayerCase layer = wide_layer(4);
  warm(ranks, layer);
  const auto results = ranks.run([&](Group& group) {
    return combine_and_overwrite(group, layer, [&] {
      if (group.rank() == 0 || group.rank() == 3) {
        links.hold(group.rank(), group.rank() == 0 ? 1 : 2);
      }
    });
  });
  for (const Status& status : results) {
    EXPECT_EQ(status.code(), StatusCode::kTimeout) << status.message();
  }
  links.hold(0, 1, false);
  links.hold(3, 2, false);
  ranks.expect_resets();
  ranks.expect_works();
}

TEST(HostsProgressInCalls, ACallWaitsUntilItsRowsHaveLeft) {
  const testing::Variable progress("WAYBILL_PROGRESS", "call");
  LocalLinks links(2);
  Ranks ranks(Hosts{"a", "b"}, 1s, {}, &links);
  const LayerCase layer = wide_layer(2);
  links.hold(0, 1);
  std::thread later([&] {
    std::this_thread::sleep_for(400ms);
    links.hold(0, 1, false);
  });
  // Rank 0 makes no other call: its rows have to be on their way when this one is back.
  expect_all_ok(ranks.run(
      [&](Group& group) { return dispatch_only(group, layer.dispatch_args(group.rank())); }));
  later.join();
  for (int i = 0; i < 2; ++i) {  // rows of the next call leave before the signal of who receives
    expect_all_ok(ranks.run(
        [&](Group& group) { return dispatch_only(group, layer.dispatch_args(group.rank())); }));
  }
  links.hold(0, 1);
  const auto results = ranks.run(
      [&](Group& group) { return dispatch_only(group, layer.dispatch_args(group.rank())); });
  EXPECT_EQ(results[0].code(), StatusCode::kTimeout) << results[0].message();
  EXPECT_EQ(results[0].info().ranks, std::vector<int>{1}) << "its rows had not left";
  links.hold(0, 1, false);
  ranks.run([](Group& group) { return (group.set_timeout(20s), Status()); });
  ranks.expect_resets();
  ranks.expect_works();
}

void wait_until(const std::function<bool()>& true_now) {
  const auto end = Clock::now() + 20s;
  while (!true_now() && Clock::now() < end) {
    std::this_thread::sleep_for(1ms);
  }
  EXPECT_TRUE(true_now());
}

/// Up to combine_setup with rows that are all 1, of rank 0 in place.
struct Opened {
  std::vector<float> copied;
  DispatchSetupResult begun;
  DispatchTeardownResult there;
  CombineSetupResult back;
  TensorView rows;
};

Status open_combine(Group& group, const LayerCase& layer, Opened& opened, LocalLinks& links) {
  const SetupCalls calls{layer, group.rank()};
  auto begun = dispatch_setup(group, calls.dispatch_args());
  if (!begun.ok()) {
    return begun.status();
  }
  opened.begun = std::move(*begun);
  auto there = dispatch_teardown(group, calls.dispatch_end(opened.begun.comm_cmd_info));
  if (!there.ok()) {
    return there.status();
  }
  opened.there = std::move(*there);
  const Tensor& counts = opened.there.assist_info_for_combine;
  const std::int64_t rows = counts.data<std::int32_t>()[layer.num_ranks * 2 - 1];
  opened.copied.assign(static_cast<std::size_t>(rows * layer.h), 1.0F);
  float* const own = group.rank() == 0 ? opened.there.expand_x.data<float>() : opened.copied.data();
  std::fill_n(own, rows * layer.h, 1.0F);
  opened.rows = TensorView::contiguous(own, DType::kFloat32, {rows, layer.h});
  if (group.rank() == 0) {
    wait_until([&] {
      return engine::session_of(group).other_hosts()->is_idle();
    });  // the dispatch has left
    links.hold(0, 1);
  }
  auto back = combine_setup(group, calls.combine_args(opened.rows, counts));
  if (back.ok()) {
    opened.back = std::move(*back);
  }
  return back.status();
}

// Rank 0 resets, which closes its setup, and writes new rows, while the old ones have not left. Its
// words reach rank 2 late; rank 1 receives for that, and does nothing else.
TEST(HostsRows, OfASetupThatAResetClosedNeverCount) {
  LocalLinks links(3);
  Ranks ranks(Hosts{"a", "b", "b"}, 2s, {}, &links);
  LayerCase layer = wide_layer(3);
  layer.form = IndexForm::kOccurrences;
  layer.set_up = true;
  std::vector<Opened> opened(3);
  expect_all_ok(ranks.run([&](Group& group) {
    return open_combine(group, layer, opened[static_cast<std::size_t>(group.rank())], links);
  }));
  wait_until([&] {  // rank 2 has heard of the setup
    return engine::session_of(ranks[2]).peer(0).control->signalled.load() == window::stamp(1, 2);
  });
  links.hold(0, 2);
  ranks[0].set_timeout(300ms);
  static_cast<void>(ranks[0].reset());
  const TensorView& rows = opened[0].rows;
  std::fill_n(static_cast<float*>(const_cast<void*>(rows.data)), rows.shape.product(), 99.0F);
  links.hold(0, 1, false);
  const SetupCalls calls{layer, 2};
  auto sums = combine_teardown(
      ranks[2],
      calls.combine_end(opened[2].rows, opened[2].begun.expand_idx, opened[2].back.comm_cmd_info));
  EXPECT_FALSE(sums.ok());
  if (sums.ok()) {
    EXPECT_EQ(*std::max_element(sums->data<float>(), sums->data<float>() + sums->shape.product()),
              1.0F);
  }
  links.hold(0, 2, false);
  ranks.run([](Group& group) -> Status {
    group.set_timeout(20s);
    return group.rank() == 0 ? Status() : group.reset().status();  // too late for rank 0's
  });
  ranks.expect_resets();
  ranks.expect_works();
}

/// Rank 2 hears of what rank 1 accepted only when rank 0, which a layer between two resets leaves
/// out, is in its next reset already.
TEST(HostsReset, WordsOfDifferentRanksMayComeInAnotherOrder) {
  LocalLinks links(3);
  Ranks ranks(Hosts{"a", "b", "c"}, 20s, {}, &links);
  links.delay(1, 2, 1500ms);
  links.delay(2, 0, 300ms);  // so that rank 0 concludes when the link below is held
  const auto page = [&](int of, int rank) -> const window::ControlPage& {
    return *engine::session_of(ranks[of]).peer(rank).control;
  };
  std::thread holder([&] {
    wait_until([&] { return window::accepted_in(page(2, 2), 1) == 0; });
    links.hold(0, 2);
    wait_until([&] { return window::read_joined(page(0, 0)).attempt == 2; });
    links.hold(0, 2, false);
  });
  std::vector<std::vector<std::int64_t>> epochs(3);
  expect_all_ok(ranks.run([&](Group& group) -> Status {
    for (int round = 0; round < 2; ++round) {
      if (auto members = group.reset(); !members.ok()) {
        return members.status();
      }
      epochs[static_cast<std::size_t>(group.rank())].push_back(group.stats().epoch);
    }
    return {};
  }));
  holder.join();
  for (const auto& each : epochs) {
    EXPECT_EQ(each, (std::vector<std::int64_t>{2, 3}));
  }
  links.delay(1, 2, 0ms);
  links.delay(2, 0, 0ms);
  ranks.expect_resets();
  ranks.expect_works();
}

/// Rank 0 is through with its call and in a reset when its rows have not come yet to rank 1, which
/// receives them for rank 2.
TEST(HostsReset, RowsThatAreOnTheirWayStillCount) {
  LocalLinks links(3);
  Ranks ranks(Hosts{"a", "b", "b"}, 20s, {}, &links);
  links.delay(0, 1, 1s);
  for (std::uint64_t round = 0; round < 2; ++round) {
    const LayerCase layer = round == 0 ? testing::plain_layer(3) : wide_layer(3);
    const auto begin = Clock::now();
    expect_all_ok(ranks.run([&](Group& group) -> Status {
      Status status = dispatch_only(group, layer.dispatch_args(group.rank()));
      return status.ok() ? group.reset().status() : status;
    }));
    EXPECT_LT(Clock::now() - begin, 10s);
  }
  links.delay(0, 1, 0ms);
  ranks.expect_works();
}

TEST(HostsReset, ALateRankAndSlowLinksAgree) {
  LocalLinks links(4);
  Ranks ranks(Hosts{"a", "b", "c", "a"}, 20s, {}, &links);
  for (int from = 0; from < 4; ++from) {
    for (int to = 0; to < 4; ++to) {
      links.delay(from, to, std::chrono::milliseconds((from * 5 + to * 3) % 7 * 20));
    }
  }
  for (int round = 0; round < 4; ++round) {
    expect_all_ok(ranks.run([&](Group& group) -> Status {
      std::this_thread::sleep_for(group.rank() == round ? 400ms : 0ms);
      auto members = group.reset();
      EXPECT_TRUE(!members.ok() || *members == (std::vector<int>{0, 1, 2, 3}));
      return members.status();
    }));
    EXPECT_EQ(ranks[round].stats().epoch, 2 + round);
    ranks.expect_works(static_cast<std::uint64_t>(round));
  }
}

TEST(HostsMirrors, ARankWithoutAddressSpaceForThemIsTheSameErrorOnAll) {
  GroupOptions options;
  options.hosts = {"a", "b"};
  options.timeout = 20s;
  options.window_bytes = std::int64_t{2} << 20;
  Ranks ranks(options);
  const LayerCase layer = wide_layer(2);
  auto full = ranks[1].expert_buffer(410, 1000, DType::kFloat32);
  ASSERT_TRUE(full.ok()) << full.status().message();
  const auto dispatch_once = [&](Group& group) {
    return dispatch_only(group, layer.dispatch_args(group.rank()));
  };
  const auto results = ranks.run(dispatch_once);
  for (const Status& status : results) {
    EXPECT_EQ(status.code(), StatusCode::kOutOfMemory) << status.message();
    EXPECT_EQ(status.message(), results[0].message());
    EXPECT_EQ(status.info().ranks, std::vector<int>{1});
    EXPECT_NE(status.message().find("rank 1 receives for its host"), std::string::npos)
        << status.message();
    EXPECT_NE(status.message().find("bytes of address space"), std::string::npos);
    EXPECT_NE(status.message().find("outputs that are held"), std::string::npos);
  }
  *full = Tensor();
  expect_all_ok(ranks.run(dispatch_once));
  ranks.expect_works();
}

/// In a process of its own: a group whose ranks are stopped all together, longer than keepalive.
[[noreturn]] void live_through_a_stop() {
  const testing::Variable keepalive("WAYBILL_KEEPALIVE", "1");
  Ranks ranks(Hosts{"a", "b"});
  bool good = true;
  for (int i = 0; i < 40 && good; ++i) {
    std::this_thread::sleep_for(100ms);
    for (const Status& status :
         ranks.run([](Group& group) { return barrier(group, {.world_size = 2}); })) {
      good = good && status.ok();
    }
  }
  _exit(good ? 0 : 1);
}

TEST(HostsKeepalive, AStopOfAllIsNotSilence) {
  const pid_t child = fork();
  if (child == 0) {
    live_through_a_stop();
  }
  std::this_thread::sleep_for(1500ms);
  kill(child, SIGSTOP);
  std::this_thread::sleep_for(3s);
  kill(child, SIGCONT);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

}  // namespace
}  // namespace waybill
