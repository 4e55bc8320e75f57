#include "engine/workers.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/ranks.h"

namespace waybill::engine {
namespace {

using Parts = std::set<std::pair<std::int64_t, std::int64_t>>;

/// The parts of a loop, and on how many threads they ran.
Parts parts_of(Workers& workers, std::int64_t items, std::int64_t least, std::size_t* threads) {
  std::mutex mutex;
  Parts parts;
  std::set<std::thread::id> ids;
  workers.run(items, least, [&](std::int64_t begin, std::int64_t end) {
    const std::lock_guard lock(mutex);
    EXPECT_TRUE(parts.insert({begin, end}).second);
    ids.insert(std::this_thread::get_id());
  });
  *threads = ids.size();
  return parts;
}

TEST(Workers, ShareALoopInEqualParts) {
  Workers workers(3);
  std::size_t threads = 0;
  EXPECT_EQ(parts_of(workers, 10, 1, &threads), (Parts{{0, 3}, {3, 6}, {6, 10}}));
  EXPECT_EQ(threads, 3U);
  EXPECT_EQ(parts_of(workers, 10, 4, &threads), (Parts{{0, 5}, {5, 10}})) << "at least 4 items";
  EXPECT_EQ(threads, 2U);
}

TEST(Workers, KeepASmallLoopOnTheCallingThread) {
  Workers workers(4);
  std::size_t threads = 0;
  EXPECT_EQ(parts_of(workers, 7, 4, &threads), (Parts{{0, 7}}));
  EXPECT_EQ(parts_of(workers, 0, 4, &threads), Parts{});
  EXPECT_EQ(threads, 0U);
}

// With cores of their own threads stay awake for a while; without, they sleep at once.
class WorkersThat : public ::testing::TestWithParam<bool> {};

INSTANTIATE_TEST_SUITE_P(HaveCores, WorkersThat, ::testing::Bool());

TEST_P(WorkersThat, DoEachItemOnceInEachOfManyLoops) {
  Workers workers(4, GetParam());
  for (std::int64_t items = 1; items < 2000; ++items) {
    std::vector<std::atomic<int>> done(static_cast<std::size_t>(items % 64 + 1));
    workers.run(static_cast<std::int64_t>(done.size()), items % 5, [&](auto begin, auto end) {
      for (std::int64_t i = begin; i < end; ++i) {
        ++done[static_cast<std::size_t>(i)];
      }
    });
    for (const std::atomic<int>& times : done) {
      ASSERT_EQ(times, 1) << done.size();
    }
  }
}

// Rows of 256 KiB: each is worth a core (least_items), unlike those of drawn layers.
TEST(Workers, RowsOfACallThatAreSharedAreTheSameRows) {
  GroupOptions options;
  options.timeout = std::chrono::seconds(20);
  options.window_bytes = 16 * testing::kTestWindowBytes;
  options.threads = 3;
  auto groups = Group::local(2, options);
  ASSERT_TRUE(groups.ok()) << groups.status().message();
  testing::LayerCase layer = testing::plain_layer(2);
  layer.h = 64 << 10;
  layer.x_stride = layer.h;
  std::mt19937_64 random(7);
  for (auto& rank : layer.ranks) {
    const auto bytes = static_cast<std::size_t>(3 * layer.h * 4);
    for (auto* rows : {&rank.x, &rank.shared_x, &rank.ori_x}) {
      rows->resize(bytes);
      testing::fill_random(layer.dtype, random, rows->data(), 3 * layer.h);
    }
  }
  testing::expect_all_ok(testing::on_threads(2, [&](std::size_t r) {
    return testing::status_of(testing::run_layer((*groups)[r], layer));
  }));
}

}  // namespace
}  // namespace waybill::engine
