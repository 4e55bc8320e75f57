#include "window/pool.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "window/checks.h"

namespace waybill::window {
namespace {

constexpr std::int64_t kPoolBytes = std::int64_t{16} << 20;

Pool make_pool(MemoryBudget& budget, std::int64_t bytes = kPoolBytes) {
  auto pool = Pool::create(bytes, budget);
  EXPECT_TRUE(pool.ok());
  return std::move(*pool);
}

TEST(Pool, ABufferIsAddressSpaceUntilItIsCommitted) {
  MemoryBudget budget;
  Pool pool = make_pool(budget);
  auto buffer = pool.allocate(8 << 20);
  ASSERT_TRUE(buffer.ok());
  EXPECT_EQ(pool.usage().reserved_bytes, 0);
  ASSERT_TRUE(pool.commit(*buffer, 100'000).ok());
  EXPECT_EQ(pool.usage().reserved_bytes, 2 * kGranule);
  EXPECT_EQ(pool.usage().in_use_bytes, 2 * kGranule);
  EXPECT_EQ(budget.reserved(), 2 * kGranule);
  std::memset(buffer->data(), 1, 100'000);
}

TEST(Pool, AFreedRangeIsWarmAndUsedAgain) {
  MemoryBudget budget;
  Pool pool = make_pool(budget);
  std::byte* address = nullptr;
  for (int i = 0; i < 3; ++i) {
    auto buffer = pool.allocate(1 << 20);
    ASSERT_TRUE(buffer.ok());
    ASSERT_TRUE(pool.commit(*buffer, 1 << 20).ok());
    EXPECT_TRUE(address == nullptr || address == buffer->data());
    address = buffer->data();
    EXPECT_EQ(pool.usage().reserved_bytes, 1 << 20);
  }
  EXPECT_EQ(pool.usage().in_use_bytes, 0);
  EXPECT_EQ(pool.usage().buffers, 0);
  pool.trim();
  EXPECT_EQ(pool.usage().reserved_bytes, 0);
  EXPECT_EQ(budget.reserved(), 0);
}

TEST(Pool, CountsTheRowsThatItCouldReserve) {
  MemoryBudget budget;
  Pool pool = make_pool(budget);
  auto warm = pool.allocate(1 << 20);
  ASSERT_TRUE(pool.commit(*warm, 1 << 20).ok());
  auto rows = pool.allocate(4 << 20);
  auto scales = pool.allocate(1 << 20);
  ASSERT_TRUE(rows.ok() && scales.ok());
  const std::vector<Pool::Rows> buffers = {{&pool, &*rows, kGranule}, {&pool, &*scales, 4}};
  EXPECT_EQ(pool.count_affordable(buffers, 64).rows, 64);
  EXPECT_EQ(pool.count_affordable(buffers, 0).rows, 0);
  budget.set_limit(budget.reserved() + 6 * kGranule);
  // One granule is for the scales.
  EXPECT_EQ(pool.count_affordable(buffers, 64).rows, 5);
  EXPECT_EQ(pool.count_affordable(buffers, 3).rows, 3);
  ASSERT_TRUE(pool.commit(*rows, 2 * kGranule).ok());
  EXPECT_EQ(pool.count_affordable(buffers, 64).rows, 5) << "rows that have memory count, too";
  *warm = Buffer();
  EXPECT_EQ(pool.count_affordable(buffers, 64).rows, 5 + (1 << 20) / kGranule)
      << "trim() gives it back";
  for (const std::int64_t count : {21, 22}) {
    const bool fits =
        pool.commit(*scales, 4 * count).ok() && pool.commit(*rows, count * kGranule).ok();
    EXPECT_EQ(fits, count == 21) << count;
  }
  EXPECT_NE(pool.describe_shortage(0).find("WAYBILL_MAX_MEMORY; 2 outputs"), std::string::npos)
      << pool.describe_shortage(0);
}

TEST(Pool, ANoteGoesWithItsBuffer) {
  MemoryBudget budget;
  Pool pool = make_pool(budget);
  auto first = pool.allocate(100);
  auto second = pool.allocate(100);
  pool.set_note(*second, 7);
  EXPECT_EQ(pool.note_at(first->data()), 0);
  EXPECT_EQ(pool.note_at(second->data()), 7);
  EXPECT_EQ(pool.note_at(second->data() + 1), 0);
  EXPECT_EQ(pool.note_at(nullptr), 0);
  const std::byte* place = second->data();
  *second = Buffer();
  auto third = pool.allocate(100);
  ASSERT_EQ(third->data(), place);
  EXPECT_EQ(pool.note_at(place), 0);
}

TEST(CheckedPool, PoisonsWhatIsFreedAndNoticesWhoWritesPastTheEnd) {
  MemoryBudget budget;
  auto pool = Pool::create(kPoolBytes, budget, true);
  ASSERT_TRUE(pool.ok());
  std::byte* data = nullptr;
  {
    auto buffer = pool->allocate(5000);
    ASSERT_TRUE(buffer.ok() && pool->commit(*buffer, 5000).ok());
    data = buffer->data();
    std::memset(data, 1, 5000);
  }
  EXPECT_EQ(data[0], kPoison);
  EXPECT_EQ(data[4999], kPoison);
  EXPECT_EQ(pool->take_damaged(), 0);
  {
    auto buffer = pool->allocate(kGranule - kCanaryBytes);
    ASSERT_TRUE(buffer.ok() && pool->commit(*buffer, 10).ok());
    data = buffer->data();
    data[kGranule - kCanaryBytes] = std::byte{1};
  }
  EXPECT_EQ(pool->take_damaged(), 1);
  EXPECT_EQ(pool->take_damaged(), 0);
}

TEST(Pool, FullAddressSpaceIsAnErrorThatSaysSo) {
  MemoryBudget budget;
  Pool pool = make_pool(budget);
  auto first = pool.allocate(kPoolBytes);
  ASSERT_TRUE(first.ok());
  const auto second = pool.allocate(1);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), StatusCode::kOutOfMemory);
  EXPECT_NE(second.status().message().find("WAYBILL_WINDOW_BYTES"), std::string::npos);
  *first = Buffer();
  EXPECT_TRUE(pool.allocate(1).ok());
}

TEST(Pool, MemoryOfFreeRangesIsGivenBackBeforeARefusal) {
  MemoryBudget budget;
  budget.set_limit(8 * kGranule);
  Pool pool = make_pool(budget);
  {
    auto held = pool.allocate(kGranule);
    auto freed = pool.allocate(6 * kGranule);
    ASSERT_TRUE(pool.commit(*held, kGranule).ok());
    ASSERT_TRUE(pool.commit(*freed, 6 * kGranule).ok());
    *freed = Buffer();
    auto blocker = pool.allocate(6 * kGranule - 4096);
    auto far = pool.allocate(6 * kGranule);
    *blocker = Buffer();
    EXPECT_TRUE(pool.commit(*far, 6 * kGranule).ok());
    auto more = pool.allocate(2 * kGranule);
    const Status too_much = pool.commit(*more, 2 * kGranule);
    EXPECT_EQ(too_much.code(), StatusCode::kOutOfMemory);
    EXPECT_NE(too_much.message().find("WAYBILL_MAX_MEMORY"), std::string::npos);
  }
}

TEST(Pool, CallsOfManySizesUseTheSamePages) {
  MemoryBudget budget;
  constexpr std::int64_t kRow = 4096;
  constexpr std::int64_t kMostTokens = 512;
  Pool pool = make_pool(budget, std::int64_t{2} << 30);
  std::mt19937 random(1);
  for (int i = 0; i < 300; ++i) {
    const std::int64_t tokens = random() % kMostTokens + 1;
    // Address space for 64 rows a token, of which 8 come; then, behind it, a row for each token.
    auto received = pool.allocate(64 * tokens * kRow);
    auto sums = pool.allocate(tokens * kRow);
    ASSERT_TRUE(pool.commit(*received, 8 * tokens * kRow).ok());
    ASSERT_TRUE(pool.commit(*sums, tokens * kRow).ok());
  }
  const std::int64_t largest_call = 9 * kMostTokens * kRow;
  EXPECT_LE(pool.usage().reserved_bytes, largest_call * 3 / 2);
}

TEST(Pool, ABufferThatFitsOnlyExactlyIsFound) {
  MemoryBudget budget;
  constexpr std::int64_t kBytes = 4 * kPoolBytes;
  constexpr std::int64_t kRest = (std::int64_t{2} << 20) + 4096;  // would take 4 MiB
  Pool pool = make_pool(budget, kBytes);
  {
    auto most = pool.allocate(kBytes - kRest);
    ASSERT_TRUE(most.ok());
    auto rest = pool.allocate(kRest);
    EXPECT_TRUE(rest.ok());
    EXPECT_FALSE(pool.allocate(1).ok());
  }
  EXPECT_TRUE(pool.allocate(kBytes).ok());
}

TEST(Pool, BuffersOutliveThePool) {
  MemoryBudget budget;
  Buffer kept;
  {
    Pool pool = make_pool(budget);
    auto buffer = pool.allocate(100);
    ASSERT_TRUE(buffer.ok() && pool.commit(*buffer, 100).ok());
    kept = *buffer;
  }
  std::memset(kept.data(), 7, 100);
  EXPECT_EQ(kept.data()[99], std::byte{7});
  kept = Buffer();
  EXPECT_EQ(budget.reserved(), 0);
}

TEST(Pool, KnowsWhatLiesInIt) {
  MemoryBudget budget;
  Pool pool = make_pool(budget);
  auto first = pool.allocate(4096);
  auto second = pool.allocate(4096);
  EXPECT_EQ(pool.offset_of(first->data(), 4096), 0);
  EXPECT_EQ(pool.offset_of(second->data() + 8, 100), 4096 + 8);
  int elsewhere = 0;
  EXPECT_EQ(pool.offset_of(&elsewhere, 4), -1);
  EXPECT_EQ(pool.offset_of(first->data(), kPoolBytes + 1), -1);
}

TEST(Pool, BuffersAreFreedFromAnyThread) {
  MemoryBudget budget;
  Pool pool = make_pool(budget);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&pool, i] {
      for (int j = 0; j < 200; ++j) {
        auto buffer = pool.allocate(1000 * (i + 1));
        ASSERT_TRUE(buffer.ok() && pool.commit(*buffer, 1000).ok());
        std::memset(buffer->data(), i, 1000);
        const Buffer copy = *buffer;
        *buffer = Buffer();
        ASSERT_EQ(copy.data()[999], static_cast<std::byte>(i));
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(pool.usage().buffers, 0);
}

RC_GTEST_PROP(PoolProperty, BuffersNeverOverlapAndRangesJoinAgain, ()) {
  MemoryBudget budget;
  Pool pool = make_pool(budget);
  std::vector<std::pair<Buffer, std::int64_t>> held;
  const auto steps = *rc::gen::container<std::vector<std::pair<bool, int>>>(
      rc::gen::pair(rc::gen::arbitrary<bool>(), rc::gen::inRange(1, 300'000)));
  for (const auto& [take, number] : steps) {
    if (take || held.empty()) {
      auto buffer = pool.allocate(number);
      if (buffer.ok()) {
        for (const auto& [other, bytes] : held) {
          RC_ASSERT(buffer->data() + number <= other.data() ||
                    other.data() + bytes <= buffer->data());
        }
        held.emplace_back(std::move(*buffer), number);
      }
    } else {
      held.erase(held.begin() + number % static_cast<int>(held.size()));
    }
  }
  held.clear();
  RC_ASSERT(pool.allocate(kPoolBytes).ok());
}

}  // namespace
}  // namespace waybill::window
