#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "transport/transport.h"
#include "window/control.h"

namespace waybill::transport {
namespace {

/// Ranks that may run on the cores given.
class Pinned : public Transport {
 public:
  explicit Pinned(const std::vector<std::vector<int>>& cores_of_ranks)
      : pages_(cores_of_ranks.size()) {
    for (std::size_t r = 0; r < pages_.size(); ++r) {
      for (const int core : cores_of_ranks[r]) {
        pages_[r].identity.cores[static_cast<std::size_t>(core) / 64] |= std::uint64_t{1}
                                                                         << core % 64;
      }
      PeerMemory memory;
      memory.control = &pages_[r];
      peers_.push_back(memory);
    }
  }
  bool has_ended(int) noexcept override { return false; }

 private:
  std::vector<window::ControlPage> pages_;
};

TEST(CoresOfRanks, ArePutTogether) {
  EXPECT_EQ(Pinned({{0}, {1}}).cores_of_ranks(), 2) << "each on a core of its own";
  EXPECT_EQ(Pinned({{3}, {3}}).cores_of_ranks(), 1);
  EXPECT_EQ(Pinned({{0, 1}, {1, 2, 70}}).cores_of_ranks(), 4);
  EXPECT_EQ(Pinned({{1023}, {}}).cores_of_ranks(), 1);
  EXPECT_EQ(Pinned({{}, {}}).cores_of_ranks(), 1) << "unknown";
}

TEST(CoresOfRanks, IdentityHasThoseOfItsProcess) {
  const window::Identity identity = window::make_identity("", "", 0, 1);
  EXPECT_TRUE(std::any_of(
      identity.cores.begin(), identity.cores.end(), [](std::uint64_t bits) { return bits != 0; }));
}

}  // namespace
}  // namespace waybill::transport
