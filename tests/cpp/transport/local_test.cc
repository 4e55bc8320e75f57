#include "transport/local.h"

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "window/memory_budget.h"
#include "window/words.h"

namespace waybill::transport {
namespace {

using window::kGranule;
using window::stamp;

constexpr std::int64_t kWindowBytes = 4 * kGranule;

std::vector<std::shared_ptr<window::Window>> make_windows(int count, window::MemoryBudget& budget) {
  std::vector<std::shared_ptr<window::Window>> windows;
  for (int r = 0; r < count; ++r) {
    auto window = window::Window::create(kWindowBytes, budget);
    EXPECT_TRUE(window.ok());
    windows.emplace_back(std::move(*window));
  }
  return windows;
}

TEST(LocalTransport, EveryRankReadsTheWindowsWhereTheyAre) {
  window::MemoryBudget budget;
  const auto windows = make_windows(3, budget);
  LocalTransport transport(windows, kWindowBytes);
  ASSERT_EQ(transport.world_size(), 3);
  EXPECT_EQ(transport.ranks_on_host(), 3);
  for (int r = 0; r < 3; ++r) {
    const window::Window& window = *windows[static_cast<std::size_t>(r)];
    const PeerMemory& peer = transport.peer(r);
    EXPECT_EQ(peer.control, window.control);
    EXPECT_EQ(peer.halves[0], window.halves[0].data());
    EXPECT_EQ(peer.halves[1], window.halves[1].data());
    EXPECT_EQ(peer.pool, window.pool.region().data());
    EXPECT_EQ(peer.window_bytes, kWindowBytes);
    EXPECT_FALSE(transport.has_ended(r));
  }
}

TEST(LocalTransport, SeesWhatAnOwnerWrites) {
  window::MemoryBudget budget;
  const auto windows = make_windows(2, budget);
  LocalTransport transport(windows, kWindowBytes);
  ASSERT_TRUE(windows[1]->halves[0].commit(0, 100).ok());
  windows[1]->halves[0].data()[99] = std::byte{42};
  windows[1]->board.begin_epoch(1, stamp(2, 5));
  EXPECT_EQ(transport.peer(1).control->signalled.load(), stamp(2, 5));
  EXPECT_EQ(transport.peer(1).halves[0][99], std::byte{42});
  EXPECT_EQ(transport.peer(0).control->signalled.load(), stamp(1, 0));
}

TEST(LocalTransport, KeepsTheWindowsOfRanksThatAreGone) {
  window::MemoryBudget budget;
  auto windows = make_windows(2, budget);
  auto transport = std::make_unique<LocalTransport>(windows, kWindowBytes);
  ASSERT_TRUE(windows[0]->halves[1].commit(0, 1).ok());
  windows[0]->halves[1].data()[0] = std::byte{7};
  windows.clear();
  EXPECT_EQ(transport->peer(0).halves[1][0], std::byte{7});
  EXPECT_GT(budget.reserved(), 0);
  transport.reset();
  EXPECT_EQ(budget.reserved(), 0);
}

}  // namespace
}  // namespace waybill::transport
