#include "window/placement.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <numeric>

#include "window/memory_budget.h"
#include "window/region.h"

namespace waybill::window {
namespace {

constexpr std::int64_t kPage = 4096;
constexpr std::int64_t kPagesInGranule = kGranule / kPage;

std::int64_t count(const Placement& placement) {
  return std::accumulate(placement.pages.begin(), placement.pages.end(), std::int64_t{0});
}

/// Emulated kernels, and some sandboxes, do not answer.
bool can_ask() {
  const int on_stack = 0;
  const std::array<const std::byte*, 1> page{reinterpret_cast<const std::byte*>(&on_stack)};
  return count(placement_of(page)) == 1;
}

class Placing : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!can_ask()) {
      GTEST_SKIP() << "this kernel does not say where pages lie";
    }
  }

  Region region(std::int64_t granules) {
    auto made = Region::create("a test", granules * kGranule, budget_);
    EXPECT_TRUE(made.ok());
    return std::move(*made);
  }

  static void touch(const Region& region, std::int64_t offset, std::int64_t bytes) {
    for (std::int64_t at = offset; at < offset + bytes; at += kPage) {
      region.data()[at] = std::byte{1};
    }
  }

  MemoryBudget budget_;
};

TEST_F(Placing, CommittedPagesLieOnTheNodeOfTheThreadThatCommits) {
  Region region = this->region(8);
  EXPECT_EQ(count(region.placement()), 0);
  ASSERT_TRUE(region.commit(kGranule, 2 * kGranule).ok());
  ASSERT_TRUE(region.commit(5 * kGranule, 1).ok());
  touch(region, kGranule, 2 * kGranule);  // kernels before 5.14 map pages when they are touched
  touch(region, 5 * kGranule, kGranule);
  const Placement placement = region.placement();
  EXPECT_EQ(count(placement), 3 * kPagesInGranule);
  EXPECT_EQ(placement.absent, 0);
  ASSERT_FALSE(placement.pages.empty());
  if (access("/sys/devices/system/node/node1", F_OK) != 0) {
    EXPECT_EQ(placement.pages, std::vector<std::int64_t>{3 * kPagesInGranule});
    EXPECT_EQ(own_node(), 0);
  }
}

TEST_F(Placing, PagesThatWereNotCommittedAreAbsent) {
  Region region = this->region(4);
  ASSERT_TRUE(region.commit(0, 1).ok());
  touch(region, 0, kGranule);
  const std::array<const std::byte*, 3> pages{
      region.data(), region.data() + kGranule, region.data() + 3 * kGranule};
  const Placement placement = placement_of(pages);
  EXPECT_EQ(count(placement), 1);
  EXPECT_EQ(placement.absent, 2);
  region.punch(0, kGranule);
  EXPECT_EQ(placement_of(pages).absent, 3);
}

TEST_F(Placing, OfLargeRegionsASampleIsLookedAt) {
  constexpr std::int64_t kGranules = 3 * kMostPages / kPagesInGranule + 1;
  Region region = this->region(kGranules);
  ASSERT_TRUE(region.commit(0, kGranules * kGranule).ok());
  touch(region, 0, kGranules * kGranule);
  const std::int64_t looked_at = count(region.placement());
  EXPECT_LE(looked_at, kMostPages);
  EXPECT_GE(looked_at, kMostPages / 2);
}

TEST(Placements, AddUpNodeByNode) {
  Placement one{.pages = {1, 2}, .absent = 3};
  one.add({.pages = {10, 0, 5}, .absent = 1});
  EXPECT_EQ(one.pages, (std::vector<std::int64_t>{11, 2, 5}));
  EXPECT_EQ(one.absent, 4);
}

}  // namespace
}  // namespace waybill::window
