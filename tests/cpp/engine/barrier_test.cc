// The barrier, and performance_info.
#include "waybill/barrier.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "support/ranks.h"

namespace waybill {
namespace {

using namespace std::chrono_literals;
using testing::dispatch_only;
using testing::LayerCase;
using testing::plain_layer;
using testing::Ranks;
using testing::scaled_in;

TEST(Barrier, ReturnsWhenAllHaveCome) {
  Ranks ranks(5);
  std::atomic<int> came{0};
  for (int round = 1; round <= 50; ++round) {
    testing::expect_all_ok(ranks.run([&](Group& group) {
      std::this_thread::sleep_for(std::chrono::microseconds(group.rank() * 50));
      ++came;
      Status status = barrier(group, {.world_size = 5});
      EXPECT_GE(came.load(), 5 * round);
      return status;
    }));
  }
  EXPECT_EQ(ranks[3].stats().calls, 50);
  EXPECT_EQ(ranks[3].stats().completed, 50);
  ranks.expect_works();
}

TEST(Barrier, ItsTimeOutTakesThePlaceOfTheGroups) {
  Ranks ranks(3, 60s);
  const std::int32_t microseconds = 2'000'000;
  const TensorView time_out = TensorView::contiguous(&microseconds, DType::kInt32, {1});
  const auto begin = std::chrono::steady_clock::now();
  const auto results = ranks.run([&](Group& group) {
    return group.rank() == 1 ? Status() : barrier(group, {.world_size = 3, .time_out = time_out});
  });
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 30s);
  for (const std::size_t r : {0U, 2U}) {
    ASSERT_EQ(results[r].code(), StatusCode::kTimeout) << results[r].message();
    EXPECT_EQ(results[r].info().ranks, std::vector<int>{1});
    EXPECT_EQ(results[r].info().op, "_npu_distribute_barrier");
    EXPECT_NE(results[r].message().find("rank 1 did not come within 2000 ms"), std::string::npos)
        << results[r].message();
  }
  EXPECT_EQ(barrier(ranks[0], {.world_size = 3}).code(), StatusCode::kInvalidState);
  ranks.expect_resets();
  ranks.expect_works();
}

TEST(Barrier, ATimeOutThatIsNotReachedChangesNothingForLaterCalls) {
  Ranks ranks(2, 20s);
  const std::int32_t microseconds = 2'000'000'000;
  const TensorView time_out = TensorView::contiguous(&microseconds, DType::kInt32, {1});
  testing::expect_all_ok(ranks.run(
      [&](Group& group) { return barrier(group, {.world_size = 2, .time_out = time_out}); }));
  ranks.expect_works();
}

TEST(Barrier, BadArgumentsAreARefusalThatTheOthersSee) {
  Ranks ranks(3);
  const std::vector<std::int32_t> values = {0, -1, 5};
  struct Bad {
    const char* argument;
    BarrierArgs args;
  };
  const std::vector<Bad> bad_calls = {
      {"world_size", {.world_size = 2}},
      {"world_size", {.world_size = 4}},
      {"time_out",
       {.world_size = 3, .time_out = TensorView::contiguous(&values[0], DType::kInt32, {1})}},
      {"time_out",
       {.world_size = 3, .time_out = TensorView::contiguous(&values[1], DType::kInt32, {1})}},
      {"time_out",
       {.world_size = 3, .time_out = TensorView::contiguous(&values[1], DType::kInt32, {2})}},
      {"time_out",
       {.world_size = 3, .time_out = TensorView::contiguous(&values[2], DType::kInt64, {1})}},
      {"elastic_info",
       {.world_size = 3, .elastic_info = TensorView::contiguous(&values[0], DType::kInt32, {3})}},
  };
  for (const Bad& bad : bad_calls) {
    const auto results = ranks.run([&](Group& group) {
      return barrier(group, group.rank() == 2 ? bad.args : BarrierArgs{.world_size = 3});
    });
    EXPECT_EQ(results[2].code(), StatusCode::kInvalidArgument) << bad.argument;
    for (const Status& status : results) {
      ASSERT_FALSE(status.ok());
      EXPECT_EQ(status.info().argument, bad.argument);
    }
    for (const std::size_t r : {0U, 1U}) {
      EXPECT_EQ(results[r].code(), StatusCode::kMismatch);
      EXPECT_EQ(results[r].info().ranks, std::vector<int>{2});
    }
  }
  ranks.expect_works();
}

TEST(Barrier, MeetsNoOtherOperator) {
  Ranks ranks(2);
  const LayerCase layer = plain_layer(2);
  const auto results = ranks.run([&](Group& group) {
    return group.rank() == 0 ? barrier(group, {.world_size = 2})
                             : dispatch_only(group, layer.dispatch_args(1));
  });
  for (const Status& status : results) {
    ASSERT_EQ(status.code(), StatusCode::kMismatch);
    EXPECT_NE(status.message().find("_npu_distribute_barrier on rank 0"), std::string::npos)
        << status.message();
  }
  ranks.expect_resets();
  ranks.expect_works();
}

TEST(Barrier, WithElasticInfoWaitsForTheSurvivors) {
  Ranks ranks(4);
  const LayerCase layer = scaled_in(4, {3, 0});
  const TensorView info = TensorView::contiguous(layer.given.info.data(), DType::kInt32, {12});
  for (int round = 0; round < 3; ++round) {
    testing::expect_all_ok(ranks.run([&](Group& group) {
      return group.rank() % 3 != 0 ? Status()
                                   : barrier(group, {.world_size = 4, .elastic_info = info});
    }));
  }
  ranks.expect_resets();
  ranks.expect_works();
}

/// performance_info of a rank, in every operator that has it.
struct Waits {
  std::vector<std::int64_t> us;
  TensorView view() {
    return TensorView::contiguous(us.data(), DType::kInt64, {static_cast<std::int64_t>(us.size())});
  }
};

TEST(PerformanceInfo, IsRaisedForTheRankThatCameLate) {
  Ranks ranks(3);
  const LayerCase layer = plain_layer(3);
  constexpr std::int64_t kLarge = std::int64_t{1} << 50;
  const auto results = ranks.run([&](Group& group) -> Status {
    const int rank = group.rank();
    if (rank == 1) {
      std::this_thread::sleep_for(200ms);
    }
    Waits waits{{7, 7, kLarge}};
    DispatchArgs args = layer.dispatch_args(rank);
    args.performance_info = waits.view();
    auto sent = dispatch(group, args);
    if (!sent.ok()) {
      return sent.status();
    }
    EXPECT_EQ(waits.us[2], kLarge);
    EXPECT_LT(waits.us[0], 10'000'000);
    if (rank != 1) {
      EXPECT_GE(waits.us[1], 50'000);
      EXPECT_LT(waits.us[1], 20'000'000);
    }
    if (rank == 0) {
      EXPECT_EQ(waits.us[0], 7);  // nobody waits for himself
    }
    if (rank == 2) {
      std::this_thread::sleep_for(200ms);
    }
    Waits later{{kLarge, 0, 0}};
    CombineArgs back = layer.combine_args(rank, sent->expand_x.view(), *sent);
    back.performance_info = later.view();
    Status status = combine(group, back).status();
    EXPECT_EQ(later.us[0], kLarge);
    if (rank != 2) {
      EXPECT_GE(later.us[2], 50'000);
    }
    return status;
  });
  testing::expect_all_ok(results);
}

TEST(PerformanceInfo, IsIndexedByTheOriginalRankAndMayBeStrided) {
  Ranks ranks(4);
  const LayerCase layer = scaled_in(4, {3, 2, 0});  // rank 1 is gone
  testing::expect_all_ok(ranks.run([&](Group& group) -> Status {
    const int rank = layer.rank_in_layer(group.rank());
    if (rank < 0) {
      return {};
    }
    if (group.rank() == 3) {
      std::this_thread::sleep_for(200ms);
    }
    Waits waits{std::vector<std::int64_t>(8, -1)};
    DispatchArgs args = layer.dispatch_args(rank);
    args.performance_info = TensorView::contiguous(waits.us.data(), DType::kInt64, {4});
    args.performance_info->strides = {2};
    Status status = dispatch_only(group, args);
    if (group.rank() != 3) {
      EXPECT_GE(waits.us[6], 50'000);
    }
    EXPECT_EQ(waits.us[2], 0);  // raised to the 0 microseconds waited for a rank that is not there
    for (const std::size_t between : {1U, 3U, 5U, 7U}) {
      EXPECT_EQ(waits.us[between], -1);
    }
    return status;
  }));
}

}  // namespace
}  // namespace waybill
