// What dispatch does with entries that no honest rank publishes.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "engine/group_access.h"
#include "engine/session.h"
#include "support/posts.h"
#include "support/ranks.h"
#include "waybill/dispatch.h"
#include "waybill/group.h"
#include "window/layout.h"

namespace waybill::engine {
namespace {

constexpr std::int64_t kTokens = 8;
constexpr std::int64_t kHidden = 16 << 10;  // four rows of float32 make a block

using Entries = std::function<void(std::int32_t* entries)>;

/// The status of a dispatch of rank 0 of two whose peer publishes the same tokens, all for rank 0,
/// with its list of entries changed.
Status dispatch_beside(const Entries& change, int threads) {
  std::vector<Group> groups;
  GroupOptions options;
  options.timeout = std::chrono::seconds(20);
  options.threads = threads;
  options.window_bytes = 16 * testing::kTestWindowBytes;
  options.on_phase = [&](Phase phase) {
    if (phase != Phase::kWaitSignals) {
      return;
    }
    Session& own = engine::session_of(groups[0]);
    Session& peer = engine::session_of(groups[1]);
    const std::size_t half = own.standing().number() % 2;
    const auto layout = window::DispatchLayout::of({.num_ranks = 2,
                                                    .num_experts = 2,
                                                    .num_entries = kTokens,
                                                    .num_active = 0,
                                                    .num_weights = 0,
                                                    .num_rows = kTokens,
                                                    .row_bytes = 4 * kHidden,
                                                    .quantised = false});
    std::byte* bytes = peer.window().halves[half].data();
    ASSERT_TRUE(peer.window().halves[half].commit(0, layout.end).ok());
    std::memcpy(bytes, own.window().halves[half].data(), static_cast<std::size_t>(layout.end));
    change(reinterpret_cast<std::int32_t*>(bytes + layout.entries.offset));
    testing::post_call(peer.board(), own.page().headers[half]);
  };
  auto made = Group::local(2, options);
  if (!made.ok()) {
    return made.status();
  }
  groups = std::move(*made);
  const std::vector<float> x(static_cast<std::size_t>(kTokens * kHidden), 1.0F);
  const std::vector<std::int32_t> ids(static_cast<std::size_t>(kTokens), 0);
  return dispatch(groups[0],
                  {.x = TensorView::contiguous(x.data(), DType::kFloat32, {kTokens, kHidden}),
                   .expert_ids = TensorView::contiguous(ids.data(), DType::kInt32, {kTokens, 1}),
                   .layer = {.ep_world_size = 2, .moe_expert_num = 2}})
      .status();
}

class RowPullEntries : public ::testing::TestWithParam<int> {};

INSTANTIATE_TEST_SUITE_P(Threads, RowPullEntries, ::testing::Values(1, 3));

TEST_P(RowPullEntries, InOrderAreTaken) {
  const Status status = dispatch_beside([](auto*) {}, GetParam());
  EXPECT_TRUE(status.ok()) << status.message();
}

// Within a block any order finds every row.
TEST_P(RowPullEntries, OutOfOrderAreRefused) {
  for (const auto& [a, b] : {std::pair{0, 7}, std::pair{1, 6}}) {
    const Status status = dispatch_beside(
        [a = a, b = b](std::int32_t* entries) { std::swap(entries[a], entries[b]); }, GetParam());
    EXPECT_EQ(status.code(), StatusCode::kInternal) << a << " and " << b;
  }
}

TEST_P(RowPullEntries, OfNoTokenAreRefused) {
  for (const std::int32_t entry : {-1, static_cast<std::int32_t>(kTokens), INT32_MAX}) {
    const Status status =
        dispatch_beside([entry](std::int32_t* entries) { entries[7] = entry; }, GetParam());
    EXPECT_EQ(status.code(), StatusCode::kInternal) << entry;
  }
}

}  // namespace
}  // namespace waybill::engine
