#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "support/layer_case.h"
#include "support/run_layer.h"

namespace waybill {
namespace {

using testing::draw_case;
using testing::LayerCase;
using testing::ThreadGroup;
using testing::TpThreadGroup;

constexpr int kMaxRanks = 12;

/// Up to four hosts, each with ranks that need not follow one another.
std::vector<std::string> draw_hosts(int num_ranks, std::mt19937_64& random) {
  const int num_hosts = 2 + static_cast<int>(random() % 3);
  std::vector<std::string> hosts;
  for (int r = 0; r < num_ranks; ++r) {
    const std::uint64_t host = random() % 2 == 0 ? static_cast<std::uint64_t>(r * num_hosts) /
                                                       static_cast<std::uint64_t>(num_ranks)
                                                 : random() % static_cast<std::uint64_t>(num_hosts);
    hosts.push_back("host" + std::to_string(host));
  }
  return hosts;
}

/// Four groups of each size, used for all cases.
ThreadGroup& group_of(int num_ranks, std::uint64_t seed, bool checked) {
  static std::map<std::pair<int, std::uint64_t>, std::unique_ptr<ThreadGroup>> groups;
  const std::uint64_t variant = seed % 4 + (checked ? 4 : 0);
  auto& group = groups[{num_ranks, variant}];
  if (!group) {
    std::mt19937_64 random(variant * 64 + static_cast<std::uint64_t>(num_ranks));
    group = std::make_unique<ThreadGroup>(num_ranks, 1, draw_hosts(num_ranks, random), checked);
  }
  return *group;
}

void sweep(std::uint64_t first, std::uint64_t cases, bool checked) {
  for (std::uint64_t seed = first; seed < first + cases; ++seed) {
    const LayerCase layer = draw_case(seed, kMaxRanks);
    if (layer.given_ranks() > 1) {
      ASSERT_EQ(group_of(layer.given_ranks(), seed, checked).run(layer), "") << "seed " << seed;
    }
  }
}

TEST(HostsSweep, EveryFormOverTwoToFourHosts) { sweep(1000, 600, false); }

TEST(HostsSweep, CheckedModeOverHosts) { sweep(5000, 150, true); }

TEST(HostsSweep, TpRanksOnDifferentHosts) {
  std::map<int, std::unique_ptr<TpThreadGroup>> groups;
  for (std::uint64_t seed = 0; seed < 150; ++seed) {
    const std::vector<LayerCase> pair = testing::draw_tp_pair(seed, 3);
    auto& group = groups[pair[0].num_ranks];
    if (!group) {
      group = std::make_unique<TpThreadGroup>(pair[0].num_ranks, true);
    }
    ASSERT_EQ(group->run(pair), "") << "seed " << seed;
  }
}

}  // namespace
}  // namespace waybill
