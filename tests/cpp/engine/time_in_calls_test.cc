// GroupStats::in_call_total_ns, beside the same calls timed from outside.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "setup_calls.h"
#include "support/ranks.h"
#include "waybill/barrier.h"

namespace waybill {
namespace {

using namespace std::chrono_literals;
using testing::LayerCase;
using testing::plain_layer;
using testing::Ranks;

/// Adds the nanoseconds of `action` to `total`.
template <typename Action>
auto timed(std::int64_t& total, const Action& action) {
  const auto begin = std::chrono::steady_clock::now();
  auto result = action();
  total += std::chrono::nanoseconds(std::chrono::steady_clock::now() - begin).count();
  return result;
}

TEST(TimeInCalls, LiesWithinTheCallsAndCoversTheirWaits) {
  Ranks ranks(2);
  testing::expect_all_ok(ranks.run([&](Group& group) -> Status {
    std::int64_t outside = 0;
    for (int round = 0; round < 5; ++round) {
      std::this_thread::sleep_for(group.rank() * 2ms);
      Status status = timed(outside, [&] { return barrier(group, {.world_size = 2}); });
      if (!status.ok()) {
        return status;
      }
    }
    const GroupStats stats = group.stats();
    EXPECT_GT(stats.in_call_total_ns, 0);
    EXPECT_LE(stats.in_call_total_ns, outside);
    EXPECT_GE(stats.in_call_total_ns, stats.wait_total_us * 1000);
    return {};
  }));
}

TEST(TimeInCalls, LeavesOutWhatIsBetweenSetupAndTeardown) {
  Ranks ranks(2);
  const LayerCase layer = plain_layer(2);
  testing::expect_all_ok(ranks.run([&](Group& group) -> Status {
    const SetupCalls calls{layer, group.rank()};
    std::int64_t outside = 0;
    auto begun = timed(outside, [&] { return dispatch_setup(group, calls.dispatch_args()); });
    if (!begun.ok()) {
      return begun.status();
    }
    const std::int64_t setup = group.stats().in_call_total_ns;
    EXPECT_GT(setup, 0);
    EXPECT_LE(setup, outside);
    std::this_thread::sleep_for(20ms);
    EXPECT_EQ(group.stats().in_call_total_ns, setup);
    auto sent = timed(outside, [&] {
      return dispatch_teardown(group, calls.dispatch_end(begun->comm_cmd_info));
    });
    EXPECT_GT(group.stats().in_call_total_ns, setup);
    EXPECT_LE(group.stats().in_call_total_ns, outside);
    return sent.status();
  }));
}

}  // namespace
}  // namespace waybill
