// What keeps ranks in step: shortages that every rank learns of in the same call, operators that do
// not meet, and combines that know their dispatch.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "contract/dispatch_mark.h"
#include "setup_calls.h"
#include "support/ranks.h"
#include "waybill/barrier.h"
#include "window/memory_budget.h"

namespace waybill {
namespace {

using namespace std::chrono_literals;
using testing::dispatch_only;
using testing::LayerCase;
using testing::plain_layer;
using testing::Ranks;

/// Rows so wide that each takes a granule, all of them for the experts of one rank of two.
LayerCase all_to(int rank) {
  LayerCase layer = plain_layer(2);
  layer.h = 16'384;
  layer.x_stride = layer.h;
  for (LayerCase::RankInput& input : layer.ranks) {
    input.x.resize(static_cast<std::size_t>(input.bs * layer.h * 4));
    for (std::size_t i = 0; i < input.ids.size(); ++i) {
      input.ids[i] = 2 * rank + static_cast<std::int32_t>(i % 2);
    }
  }
  return layer;
}

std::vector<Status> dispatch_all(Ranks& ranks, const LayerCase& layer) {
  return ranks.run(
      [&](Group& group) { return dispatch_only(group, layer.dispatch_args(group.rank())); });
}

/// Lets this process reserve so many bytes more, until it goes.
class Allowance {
 public:
  explicit Allowance(std::int64_t bytes) {
    auto& budget = window::MemoryBudget::process();
    budget.set_limit(budget.reserved() + bytes);
  }
  ~Allowance() { window::MemoryBudget::process().set_limit(std::nullopt); }
  Allowance(const Allowance&) = delete;
  Allowance& operator=(const Allowance&) = delete;
};

class ShortageOverHosts : public testing::OverHosts {};
INSTANTIATE_TEST_SUITE_P(Hosts, ShortageOverHosts, ::testing::Values(1, 2));

TEST_P(ShortageOverHosts, OfMemoryForRowsIsTheSameErrorOnEveryRank) {
  Ranks ranks(hosts(2));
  // Afterwards rank 0 has memory for the rows and both have their windows, also for rank 1's.
  testing::expect_all_ok(dispatch_all(ranks, all_to(0)));
  testing::expect_all_ok(dispatch_all(ranks, all_to(0)));
  if (GetParam() == 1) {
    const Allowance little(4 * 65'536);
    const auto results = dispatch_all(ranks, all_to(1));
    for (const Status& status : results) {
      ASSERT_EQ(status.code(), StatusCode::kOutOfMemory) << status.message();
      EXPECT_EQ(status.info().ranks, std::vector<int>{1});
      EXPECT_EQ(status.message(), results[0].message());
      EXPECT_NE(status.message().find(" rows for rank 1, got 12"), std::string::npos)
          << status.message();
      EXPECT_NE(status.message().find("WAYBILL_MAX_MEMORY"), std::string::npos);
    }
  }
  ranks.expect_works();
}

TEST_P(ShortageOverHosts, OfAddressSpaceIsARefusalThatNamesTheHeldOutputs) {
  GroupOptions options;
  options.hosts = hosts(2);
  options.timeout = 20s;
  options.window_bytes = std::int64_t{4} << 20;
  Ranks ranks(options);
  const LayerCase layer = all_to(1);  // A is 12 rows of 64 KiB
  std::vector<DispatchResult> held;
  const auto dispatch_and_hold = [&](Group& group) {
    auto sent = dispatch(group, layer.dispatch_args(group.rank()));
    if (sent.ok() && group.rank() == 1) {
      held.push_back(std::move(*sent));
    }
    return sent.status();
  };
  std::vector<Status> results;
  for (int round = 0; round < 10 && (results.empty() || results[0].ok()); ++round) {
    results = ranks.run(dispatch_and_hold);
    EXPECT_EQ(results[0].ok(), results[1].ok());
  }
  EXPECT_EQ(results[1].code(), StatusCode::kOutOfMemory);
  for (const char* part : {"outputs that are still held fill its", "rows.clone()"}) {
    EXPECT_NE(results[1].message().find(part), std::string::npos) << results[1].message();
  }
  EXPECT_EQ(results[0].code(), StatusCode::kMismatch);
  EXPECT_NE(results[0].message().find(results[1].message()), std::string::npos);
  held.clear();
  testing::expect_all_ok(dispatch_all(ranks, layer));
}

/// Many narrow rows for the experts of one rank, so that triples take as much as rows do. Rank 1
/// sends `bs` tokens of its own.
LayerCase many_to(int rank, std::int64_t bs = 4000) {
  LayerCase layer = plain_layer(2);
  layer.h = 4;
  layer.x_stride = layer.h;
  layer.global_bs = 8000;
  for (LayerCase::RankInput& input : layer.ranks) {
    input.bs = &input == &layer.ranks[0] ? 4000 : bs;
    input.x.resize(static_cast<std::size_t>(input.bs * layer.h * 4));
    input.ids.clear();
    for (std::int32_t i = 0; i < 2 * input.bs; ++i) {
      input.ids.push_back(2 * rank + i % 2);
    }
    const auto choices = static_cast<std::size_t>(2 * input.bs);
    input.weights.assign(choices, 0.5F);
    input.dispatch_scales.assign(choices, 0.25F);
  }
  return layer;
}

/// Dispatches `layer` with ever more memory. Expects the same of all ranks each time.
void expect_joint(const std::function<void(Ranks&)>& warm, const LayerCase& layer) {
  int shortages = 0;
  for (int granules = 0; granules < 16; ++granules) {
    SCOPED_TRACE(std::to_string(granules) + " granules");
    Ranks ranks(2);
    warm(ranks);
    std::vector<Status> results;
    {
      const Allowance little(granules * 65'536);
      results = dispatch_all(ranks, layer);
    }
    for (const Status& status : results) {
      EXPECT_EQ(status.ok(), results[0].ok()) << status.message();
      EXPECT_EQ(status.message().find("needs a reset"), std::string::npos) << status.message();
      shortages += status.ok() ? 0 : 1;
    }
    ranks.expect_works();
  }
  EXPECT_GT(shortages, 0);
}

TEST(Shortage, IsOfRowsAndTriplesTogether) {
  expect_joint(
      [](Ranks& ranks) {  // rank 0 has memory for its rows, and both have their windows
        testing::expect_all_ok(dispatch_all(ranks, many_to(0)));
        testing::expect_all_ok(dispatch_all(ranks, many_to(0)));
      },
      many_to(1));
}

TEST(Shortage, IsOfTheWindowAndRowsTogether) {
  expect_joint(
      [](Ranks& ranks) {
        // Rank 1 has memory for its triples, but where the next call does not have them, and none
        // for its window.
        LayerCase before = many_to(1, 1);
        before.global_bs = 32'000;
        testing::expect_all_ok(dispatch_all(ranks, before));
        testing::expect_all_ok(dispatch_all(ranks, before));
        before = many_to(0, 1);
        testing::expect_all_ok(dispatch_all(ranks, before));
        testing::expect_all_ok(dispatch_all(ranks, before));
      },
      many_to(1));
}

/// Rank 1 receives rank 0's rows for its host and makes its own of all: with ever more memory first
/// the former is too much, then both together.
TEST(Shortage, IsOfMirrorsAndRowsTogether) {
  const LayerCase layer = all_to(1);
  std::vector<std::string> found;
  for (int granules = 0; granules < 40; ++granules) {
    SCOPED_TRACE(std::to_string(granules) + " granules");
    Ranks ranks(std::vector<std::string>{"a", "b"});
    // Afterwards both have their windows, and rank 0, which shares the limit here, needs nothing.
    for (int i = 0; i < 6; ++i) {
      testing::expect_all_ok(dispatch_all(ranks, all_to(0)));
    }
    std::vector<Status> results;
    {
      const Allowance little(granules * 65'536);
      results = dispatch_all(ranks, layer);
    }
    for (const Status& status : results) {
      EXPECT_EQ(status.message(), results[0].message());
      EXPECT_TRUE(status.ok() || status.info().ranks == std::vector<int>{1});
    }
    const auto says = [&](const char* part) {
      return results[0].message().find(part) != std::string::npos;
    };
    found.emplace_back(results[0].ok()                        ? "works"
                       : says("rank 1 receives for its host") ? "mirrors"
                       : says("rows for rank 1")              ? "rows"
                                                              : results[0].message());
    ranks.expect_works();
    testing::expect_all_ok(dispatch_all(ranks, layer));
  }
  EXPECT_EQ(found.front(), "mirrors");
  EXPECT_EQ(found.back(), "works");
  // Both ranks reserve from one limit here, so a granule more or less may decide between the two
  // last outcomes: only the order in which each is first met says something.
  std::vector<std::string> first_met;
  for (const std::string& outcome : found) {
    if (std::find(first_met.begin(), first_met.end(), outcome) == first_met.end()) {
      first_met.push_back(outcome);
    }
  }
  EXPECT_EQ(first_met, (std::vector<std::string>{"mirrors", "rows", "works"}));
}

TEST(Shortage, ThatComesAfterTheSignalLeavesTheRankAloneUntilAReset) {
  std::atomic<bool> armed{false};
  thread_local bool second = false;
  const auto hook = [&](Phase phase) {
    auto& budget = window::MemoryBudget::process();
    if (second && armed && phase == Phase::kPull) {
      budget.set_limit(budget.reserved());  // somebody else took the memory
    }
  };
  Ranks ranks(2, 20s, hook);
  testing::expect_all_ok(dispatch_all(ranks, all_to(0)));
  testing::expect_all_ok(dispatch_all(ranks, all_to(0)));
  armed = true;
  const LayerCase layer = all_to(1);
  const auto results = ranks.run([&](Group& group) {
    second = group.rank() == 1;
    return dispatch_only(group, layer.dispatch_args(group.rank()));
  });
  armed = false;
  window::MemoryBudget::process().set_limit(std::nullopt);
  EXPECT_TRUE(results[0].ok()) << results[0].message();
  EXPECT_EQ(results[1].code(), StatusCode::kOutOfMemory);
  EXPECT_NE(results[1].message().find("the group needs a reset"), std::string::npos)
      << results[1].message();
  const auto next = dispatch_all(ranks, layer);
  for (const Status& status : next) {
    EXPECT_EQ(status.code(), StatusCode::kInvalidState) << status.message();
  }
  EXPECT_EQ(next[0].info().ranks, std::vector<int>{1});
  for (const char* part : {"rank 1 left the group: its call 3 failed: ", "out of memory"}) {
    EXPECT_NE(next[0].message().find(part), std::string::npos) << next[0].message();
  }
  ranks.expect_resets();
  ranks.expect_works();
}

class OutOfStepOverHosts : public testing::OverHosts {};
INSTANTIATE_TEST_SUITE_P(Hosts, OutOfStepOverHosts, ::testing::Values(1, 2));

/// Expects the same error on all ranks, and that nothing works before a reset.
void expect_out_of_step(Ranks& ranks,
                        const std::vector<Status>& results,
                        const std::vector<const char*>& parts) {
  for (const Status& status : results) {
    ASSERT_EQ(status.code(), StatusCode::kMismatch) << status.message();
    for (const char* part : parts) {
      EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
    }
    EXPECT_NE(status.message().find("out of step"), std::string::npos) << status.message();
  }
  const LayerCase layer = plain_layer(ranks.size());
  for (const Status& status : dispatch_all(ranks, layer)) {
    EXPECT_EQ(status.code(), StatusCode::kInvalidState) << status.message();
  }
  ranks.expect_resets();
  ranks.expect_works();
}

TEST_P(OutOfStepOverHosts, DifferentOperatorsSayHowManyCallsEachRankHasCompleted) {
  Ranks ranks(hosts(3));
  const auto meet = [](Group& group) { return barrier(group, {.world_size = 3}); };
  testing::expect_all_ok(ranks.run(meet));
  testing::expect_all_ok(ranks.run(meet));
  const LayerCase layer = plain_layer(3);
  const auto results = ranks.run([&](Group& group) {
    return group.rank() == 1 ? dispatch_only(group, layer.dispatch_args(1)) : meet(group);
  });
  expect_out_of_step(ranks,
                     results,
                     {"npu_moe_distribute_dispatch_v2 on rank 1",
                      "_npu_distribute_barrier on ranks 0 and 2",
                      "completed calls: 2 on ranks 0, 1 and 2"});
}

TEST_P(OutOfStepOverHosts, ARefusalDoesNotHideIt) {
  Ranks ranks(hosts(2));
  const LayerCase layer = plain_layer(2);
  const auto results = ranks.run([&](Group& group) {
    if (group.rank() == 0) {
      return barrier(group, {.world_size = 2});
    }
    DispatchArgs args = layer.dispatch_args(1);
    args.quant_mode = 7;
    Status own = dispatch_only(group, args);
    EXPECT_EQ(own.code(), StatusCode::kInvalidArgument);
    return own;
  });
  EXPECT_EQ(results[0].code(), StatusCode::kMismatch);
  EXPECT_NE(results[0].message().find("out of step"), std::string::npos) << results[0].message();
  // The rank that refused learns it in its next call, whatever it is.
  const auto next = dispatch_all(ranks, layer);
  EXPECT_EQ(next[0].code(), StatusCode::kInvalidState);
  EXPECT_EQ(next[1].code(), StatusCode::kInvalidState);
  EXPECT_NE(next[1].message().find("rank 0 left the group"), std::string::npos)
      << next[1].message();
  ranks.expect_resets();
  ranks.expect_works();
}

TEST_P(OutOfStepOverHosts, RefusalsOfBothRanksDoNotHideItEither) {
  Ranks ranks(hosts(2));
  const LayerCase layer = plain_layer(2);
  // Neither looks at the other in this call.
  for (const Status& status : ranks.run([&](Group& group) {
         if (group.rank() == 0) {
           return barrier(group, {.world_size = 7});
         }
         DispatchArgs args = layer.dispatch_args(1);
         args.quant_mode = 7;
         return dispatch_only(group, args);
       })) {
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << status.message();
  }
  expect_out_of_step(ranks, dispatch_all(ranks, layer), {"operators in the calls before"});
}

/// Two dispatches whose combines rank 1 makes the other way round.
template <typename Back>
std::vector<Status> crossed(Ranks& ranks, const LayerCase& layer, const Back& back) {
  return ranks.run([&](Group& group) -> Status {
    auto one = dispatch(group, layer.dispatch_args(group.rank()));
    auto two = dispatch(group, layer.dispatch_args(group.rank()));
    if (!one.ok() || !two.ok()) {
      return one.ok() ? two.status() : one.status();
    }
    return back(group, group.rank() == 1 ? *two : *one);
  });
}

TEST_P(OutOfStepOverHosts, CombinesOfDifferentDispatches) {
  for (const IndexForm form : {IndexForm::kTriples, IndexForm::kOccurrences}) {
    Ranks ranks(hosts(2));
    LayerCase layer = plain_layer(2);
    layer.form = form;
    const auto results = crossed(ranks, layer, [&](Group& group, const DispatchResult& sent) {
      return combine(group, layer.combine_args(group.rank(), sent.expand_x.view(), sent)).status();
    });
    expect_out_of_step(
        ranks,
        results,
        {form == IndexForm::kTriples ? "argument assist_info_for_combine" : "argument expand_idx",
         "call 1 on rank 0, call 2 on rank 1"});
  }
}

TEST(OutOfStep, CombineAddRmsNormKnowsItsDispatchToo) {
  for (const IndexForm form : {IndexForm::kTriples, IndexForm::kOccurrences}) {
    Ranks ranks(2);
    LayerCase layer = plain_layer(2);
    layer.norm = true;
    layer.form = form;
    layer.gamma.resize(static_cast<std::size_t>(layer.h) * 4);
    for (LayerCase::RankInput& input : layer.ranks) {
      input.residual.resize(static_cast<std::size_t>(input.bs * layer.h) * 4);
    }
    const auto results = crossed(ranks, layer, [&](Group& group, const DispatchResult& sent) {
      const int rank = group.rank();
      return combine_add_rms_norm(
                 group, layer.norm_args(rank, layer.combine_args(rank, sent.expand_x.view(), sent)))
          .status();
    });
    expect_out_of_step(
        ranks, results, {"argument expand_idx", "call 1 on rank 0, call 2 on rank 1"});
  }
}

TEST(OutOfStep, CombineSetupKnowsItsDispatchTeardown) {
  Ranks ranks(2);
  LayerCase layer = plain_layer(2);
  layer.form = IndexForm::kOccurrences;
  layer.set_up = true;
  const auto results = ranks.run([&](Group& group) -> Status {
    const SetupCalls calls{layer, group.rank()};
    std::vector<DispatchTeardownResult> sent;
    std::vector<Tensor> places;
    for (int i = 0; i < 2; ++i) {
      auto begun = dispatch_setup(group, calls.dispatch_args());
      auto ended = dispatch_teardown(group, calls.dispatch_end(begun->comm_cmd_info));
      places.push_back(begun->expand_idx);
      sent.push_back(std::move(*ended));
    }
    const auto mine = static_cast<std::size_t>(group.rank());
    const TensorView rows = sent[mine].expand_x.view();
    auto back = combine_setup(group, calls.combine_args(rows, sent[mine].assist_info_for_combine));
    if (!back.ok()) {
      return back.status();
    }
    return combine_teardown(group, calls.combine_end(rows, places[mine], back->comm_cmd_info))
        .status();
  });
  expect_out_of_step(ranks, results, {"call 1 on rank 0, call 2 on rank 1"});
}

TEST(InStep, AListThatTheProgramBuiltNeedsNoMark) {
  Ranks ranks(2);
  const LayerCase layer = plain_layer(2);
  testing::expect_all_ok(crossed(ranks, layer, [&](Group& group, const DispatchResult& sent) {
    // Both dispatches are alike here; only one rank's list has lost its mark.
    const auto* triples = sent.assist_info_for_combine.data<std::int32_t>();
    const std::vector<std::int32_t> own(triples, triples + 3 * sent.rows);
    CombineArgs args = layer.combine_args(group.rank(), sent.expand_x.view(), sent);
    if (group.rank() == 0) {
      args.assist_info_for_combine = TensorView::contiguous(
          own.data(), DType::kInt32, {static_cast<std::int64_t>(own.size())});
    }
    return combine(group, args).status();
  }));
}

TEST(InStep, AReleasedRankIsNamedAtOnce) {
  Ranks ranks(2, 20s);
  ranks.expect_works();
  std::thread close([&] { ranks[0].close(1s); });
  close.join();
  const auto begin = std::chrono::steady_clock::now();
  const Status status = dispatch_only(ranks[1], plain_layer(2).dispatch_args(1));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 10s);
  EXPECT_EQ(status.code(), StatusCode::kPeerLost);
  EXPECT_EQ(status.info().ranks, std::vector<int>{0});
  EXPECT_NE(status.message().find("rank 0 has released the group"), std::string::npos)
      << status.message();
  // Nor does a reset wait for it.
  auto members = ranks[1].reset();
  ASSERT_TRUE(members.ok()) << members.status().message();
  EXPECT_EQ(*members, std::vector<int>{1});
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 10s);
}

/// The first word of a rank that left stands: readers of that call have to find it, also when the
/// rank releases its group next.
TEST(InStep, RowsOfACallThatWasGivenUpStayUnusableAfterARelease) {
  std::atomic<bool> reads{false};
  std::atomic<bool> gone{false};
  thread_local bool late = false;
  Ranks ranks(2, 20s, [&](Phase phase) {
    if (late && phase == Phase::kPullRows && !reads) {
      reads = true;
      while (!gone) {
        std::this_thread::yield();
      }
    }
  });
  ranks[0].set_timeout(300ms);
  const LayerCase layer = plain_layer(2);
  const auto results = ranks.run([&](Group& group) -> Status {
    const int rank = group.rank();
    auto sent = dispatch(group, layer.dispatch_args(rank));
    if (!sent.ok()) {
      return sent.status();
    }
    late = rank == 1;
    auto* rows = sent->expand_x.data<float>();
    std::fill_n(rows, sent->rows * layer.h, 1.0F);
    auto sums = combine(group, layer.combine_args(rank, sent->expand_x.view(), *sent));
    if (rank == 0) {  // nobody read its rows in time
      EXPECT_EQ(sums.status().code(), StatusCode::kTimeout);
      std::fill_n(rows, sent->rows * layer.h, 99.0F);
      group.close(1s);
      gone = true;
    }
    return sums.status();
  });
  EXPECT_FALSE(results[1].ok());
}

}  // namespace
}  // namespace waybill
