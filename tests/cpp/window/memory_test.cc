#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "window/layout.h"
#include "window/memory_budget.h"
#include "window/region.h"
#include "window/window.h"
#include "window/words.h"

namespace waybill::window {
namespace {

namespace fs = std::filesystem;

/// Files that look like the kernel's.
class FakeKernel {
 public:
  FakeKernel() : root_(fs::temp_directory_path() / ("waybill-memory-" + std::to_string(getpid()))) {
    fs::create_directories(root_);
    write("meminfo", "MemTotal: 1000 kB\nMemAvailable:   1000 kB\n");
    write("cgroup", "0::/a/b\n");
  }
  ~FakeKernel() { fs::remove_all(root_); }
  void write(const std::string& name, const std::string& text) {
    fs::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name) << text;
  }
  MemorySources sources() const {
    return {(root_ / "meminfo").string(), (root_ / "cgroup").string(), (root_ / "fs").string()};
  }

 private:
  fs::path root_;
};

TEST(MemoryHeadroom, IsWhatTheMachineHasAvailable) {
  const FakeKernel kernel;
  EXPECT_EQ(read_headroom(kernel.sources()).bytes, 1000 * 1024);
}

TEST(MemoryHeadroom, TheTightestAncestorCounts) {
  FakeKernel kernel;
  kernel.write("fs/a/b/memory.max", "max\n");
  kernel.write("fs/a/b/memory.current", "5000\n");
  kernel.write("fs/a/memory.max", "100000\n");
  kernel.write("fs/a/memory.current", "60000\n");
  kernel.write("fs/a/memory.stat", "anon 50000\ninactive_file 10000\n");
  const MemoryHeadroom headroom = read_headroom(kernel.sources());
  EXPECT_EQ(headroom.bytes, 50000);
  EXPECT_NE(headroom.limited_by.find("/a"), std::string::npos);
}

TEST(MemoryBudget, WhatIsLeftFollowsTheKernelTheLimitAndWhatIsReserved) {
  const FakeKernel kernel;
  MemoryBudget budget(kernel.sources());
  EXPECT_EQ(budget.bytes_left(1), 1000 * 1024);
  ASSERT_TRUE(budget.reserve(24 * 1024, "a test").ok());
  EXPECT_EQ(budget.bytes_left(1), 976 * 1024);
  EXPECT_EQ(budget.recent_headroom().limited_by, "MemAvailable of this machine");
  budget.set_limit(100 * 1024);
  EXPECT_EQ(budget.bytes_left(1), 76 * 1024);
  EXPECT_EQ(budget.recent_headroom().bytes, 76 * 1024);
  EXPECT_EQ(budget.recent_headroom().limited_by, "WAYBILL_MAX_MEMORY");
  budget.set_limit(10 * 1024);
  EXPECT_EQ(budget.bytes_left(1), -14 * 1024);
  EXPECT_EQ(budget.recent_headroom().bytes, 0);
  budget.release(24 * 1024);
  EXPECT_EQ(budget.bytes_left(1), 10 * 1024);
}

TEST(MemoryBudget, AsksTheKernelAgainAfterAWhile) {
  FakeKernel kernel;
  MemoryBudget budget(kernel.sources());
  EXPECT_EQ(budget.bytes_left(1000 * 1024), 1000 * 1024);
  kernel.write("meminfo", "MemAvailable: 10 kB\n");
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (budget.bytes_left(1000 * 1024) != 10 * 1024) {
    ASSERT_LT(std::chrono::steady_clock::now(), end);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

TEST(MemoryHeadroom, KnowsTheFirstVersionOfControlGroups) {
  FakeKernel kernel;
  kernel.write("cgroup", "7:cpu,memory:/box\n3:pids:/\n");
  kernel.write("fs/memory/box/memory.limit_in_bytes", "9223372036854771712\n");
  kernel.write("fs/memory/box/memory.usage_in_bytes", "100\n");
  kernel.write("fs/memory/memory.limit_in_bytes", "9000\n");
  kernel.write("fs/memory/memory.usage_in_bytes", "1000\n");
  EXPECT_EQ(read_headroom(kernel.sources()).bytes, 8000);
}

TEST(MemoryBudget, RefusesWithWhatWasWantedAndWhatIsLeft) {
  FakeKernel kernel;
  kernel.write("fs/a/memory.max", "100000\n");
  kernel.write("fs/a/memory.current", "60000\n");
  MemoryBudget budget(kernel.sources());
  EXPECT_TRUE(budget.reserve(40000, "the window").ok());
  const Status status = budget.reserve(40001, "the window");
  EXPECT_EQ(status.code(), StatusCode::kOutOfMemory);
  for (const char* part : {"40001", "the window", "40000", "memory.max"}) {
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
  }
  budget.set_limit(50000);
  EXPECT_NE(budget.reserve(10001, "x").message().find("WAYBILL_MAX_MEMORY"), std::string::npos);
  EXPECT_TRUE(budget.reserve(10000, "x").ok());
}

TEST(Region, CommitsGranulesOnceAndKeepsThem) {
  MemoryBudget budget;
  auto region = Region::create("a test", 16 * kGranule, budget);
  ASSERT_TRUE(region.ok());
  ASSERT_TRUE(region->commit(kGranule - 1, 2).ok());
  EXPECT_EQ(region->committed_bytes(), 2 * kGranule);
  std::memset(region->data(), 5, 2 * kGranule);
  ASSERT_TRUE(region->commit(0, 4 * kGranule).ok());
  EXPECT_EQ(region->committed_bytes(), 4 * kGranule);
  EXPECT_EQ(region->data()[kGranule], std::byte{5});
  region->punch(100, 2 * kGranule);
  EXPECT_EQ(region->committed_bytes(), 3 * kGranule);
  EXPECT_EQ(region->data()[kGranule], std::byte{0});
  EXPECT_EQ(region->data()[0], std::byte{5});
  EXPECT_EQ(budget.reserved(), 3 * kGranule);
}

TEST(Region, PastItsEndIsAnError) {
  MemoryBudget budget;
  auto region = Region::create("a test", 4 * kGranule, budget);
  ASSERT_TRUE(region.ok());
  EXPECT_EQ(region->commit(3 * kGranule, kGranule + 1).code(), StatusCode::kOutOfMemory);
  EXPECT_EQ(region->committed_bytes(), 0);
}

TEST(Region, PeersReadAndCannotWrite) {
  MemoryBudget budget;
  auto region = Region::create("a test", 4 * kGranule, budget);
  ASSERT_TRUE(region.ok() && region->commit(0, kGranule).ok());
  region->data()[7] = std::byte{9};
  auto fd = region->open_read_only();
  ASSERT_TRUE(fd.ok());
  EXPECT_LT(write(*fd, "x", 1), 0);
  auto mapping = PeerMapping::map(*fd, 4 * kGranule);
  ASSERT_TRUE(mapping.ok());
  EXPECT_EQ(mapping->data()[7], std::byte{9});
  region->data()[7] = std::byte{10};
  EXPECT_EQ(mapping->data()[7], std::byte{10});
}

TEST(Region, APeersFileThatIsTooShortIsRefused) {
  MemoryBudget budget;
  auto region = Region::create("a test", kGranule, budget);
  auto fd = region->open_read_only();
  EXPECT_FALSE(PeerMapping::map(*fd, 2 * kGranule).ok());
}

TEST(Window, BeginsInEpochOneWithoutData) {
  MemoryBudget budget;
  auto window = Window::create(8 * kGranule, budget);
  ASSERT_TRUE(window.ok());
  EXPECT_EQ((*window)->control->signalled.load(), stamp(1, 0));
  EXPECT_EQ((*window)->control->done.load(), stamp(1, 0));
  EXPECT_EQ((*window)->control->left.load(), 0U);
  EXPECT_EQ((*window)->halves[0].committed_bytes(), 0);
}

TEST(Layout, SectionsFollowEachOtherOnLinesOfTheirOwn) {
  const auto layout = DispatchLayout::of({.num_ranks = 128,
                                          .num_experts = 1000,
                                          .num_entries = 77,
                                          .num_active = 13,
                                          .num_weights = 91,
                                          .num_rows = 5,
                                          .row_bytes = 14336,
                                          .quantised = true});
  std::int64_t end = 0;
  for (const Section& section : {layout.rows_to,
                                 layout.expert_offsets,
                                 layout.entries,
                                 layout.active,
                                 layout.weights,
                                 layout.row_scales,
                                 layout.rows}) {
    EXPECT_EQ(section.offset % 64, 0);
    EXPECT_GE(section.offset, end);
    EXPECT_LT(section.offset - end, 64);
    end = section.offset + section.bytes;
  }
  EXPECT_GE(layout.end, end);
  EXPECT_EQ(layout.rows.bytes, 5 * 14336);
}

TEST(Words, EpochAndCall) {
  EXPECT_EQ(epoch_of(stamp(7, 9)), 7U);
  EXPECT_EQ(call_of(stamp(7, 9)), 9U);
  EXPECT_LT(stamp(7, 0xffffffff), stamp(8, 0));
}

}  // namespace
}  // namespace waybill::window
