// Group::placement.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <numeric>
#include <thread>
#include <vector>

#include "support/ranks.h"
#include "waybill/barrier.h"

namespace waybill {
namespace {

using testing::Ranks;

std::int64_t count(const std::vector<std::int64_t>& pages) {
  return std::accumulate(pages.begin(), pages.end(), std::int64_t{0});
}

TEST(MemoryPlacement, CountsThePagesOfWindowsAndPool) {
  Ranks ranks(2);
  auto before = ranks[0].placement();
  ASSERT_TRUE(before.ok());
  EXPECT_EQ(count(before->pool_pages), 0);
  ranks.expect_works();
  auto after = ranks[0].placement();
  ASSERT_TRUE(after.ok());
  if (after->unknown_pages != 0) {
    GTEST_SKIP() << "this kernel does not say where pages lie";
  }
  constexpr std::int64_t kPagesInGranule = 16;
  EXPECT_EQ(count(before->window_pages), kPagesInGranule);  // the control page's granule
  EXPECT_GT(count(after->window_pages), kPagesInGranule);
  EXPECT_GT(count(after->pool_pages), 0);
  if (access("/sys/devices/system/node/node1", F_OK) != 0) {
    EXPECT_EQ(after->node, 0);
    EXPECT_EQ(after->window_pages.size(), 1U);
  }
}

TEST(MemoryPlacement, IsRefusedWhileACallRuns) {
  std::atomic<bool> running{false};
  Ranks ranks(2, std::chrono::seconds(20), [&](Phase phase) {
    running = running || phase == Phase::kWaitSignals;
  });
  std::thread first([&] { EXPECT_TRUE(barrier(ranks[0], {.world_size = 2}).ok()); });
  while (!running) {
    std::this_thread::yield();
  }
  EXPECT_EQ(ranks[0].placement().status().code(), StatusCode::kInvalidState);
  EXPECT_TRUE(barrier(ranks[1], {.world_size = 2}).ok());
  first.join();
  EXPECT_TRUE(ranks[0].placement().ok());
}

TEST(MemoryPlacement, IsRefusedAfterClose) {
  Ranks ranks(1);
  ranks[0].close(std::chrono::milliseconds(100));
  EXPECT_EQ(ranks[0].placement().status().code(), StatusCode::kInvalidState);
}

}  // namespace
}  // namespace waybill
