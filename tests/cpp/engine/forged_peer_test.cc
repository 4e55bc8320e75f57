// A TP peer that publishes what cannot be: the call is an error. The peer is a page that the test
// writes; tests/fuzz tries the rest.

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "engine/group_access.h"
#include "engine/session.h"
#include "support/posts.h"
#include "support/run_layer.h"
#include "waybill/dispatch.h"
#include "waybill/group.h"
#include "window/control.h"

namespace waybill::engine {
namespace {

using Change = std::function<void(window::CallHeader&, std::int32_t& rows_counted)>;

/// dispatch with E = 1 and TP = 2 of two tokens; the peer publishes the same, changed.
Status dispatch_beside(const Change& change) {
  std::vector<Group> tp;
  GroupOptions options;
  options.timeout = std::chrono::seconds(5);
  options.threads = 1;
  options.window_bytes = testing::kTestWindowBytes;
  auto ep = Group::local(1, options);
  options.on_phase = [&](Phase phase) {
    if (phase != Phase::kWaitSignals) {
      return;
    }
    Session& own = engine::session_of(tp[0]);
    Session& peer = engine::session_of(tp[1]);
    const std::size_t half = own.standing().number() % 2;
    ASSERT_TRUE(peer.window().halves[half].commit(0, window::kGranule).ok());
    window::CallHeader header = own.page().headers[half];
    std::int32_t counted = 2;
    change(header, counted);
    std::memcpy(peer.window().halves[half].data(), &counted, sizeof(counted));
    testing::post_call(peer.board(), header);
  };
  tp = std::move(*Group::local(2, options));
  const std::vector<float> x(2 * 4, 1.0F);
  const std::vector<std::int32_t> ids = {0, 0};
  DispatchArgs args{.x = TensorView::contiguous(x.data(), DType::kFloat32, {2, 4}),
                    .expert_ids = TensorView::contiguous(ids.data(), DType::kInt32, {2, 1}),
                    .layer = {.ep_world_size = 1, .moe_expert_num = 1},
                    .tp_group = &tp[0],
                    .tp_world_size = 2};
  return dispatch(ep->front(), args).status();
}

void expect_refused(const Change& change) {
  const Status status = dispatch_beside(change);
  EXPECT_EQ(status.code(), StatusCode::kInternal) << status.message();
  EXPECT_NE(status.message().find("what the TP peer published cannot be"), std::string::npos);
}

TEST(ForgedPeer, WhatItPublishesIsTaken) {
  const Status status = dispatch_beside([](auto&, auto&) {});
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST(ForgedPeer, CountsOfOtherRows) {
  expect_refused([](auto&, std::int32_t& counted) { counted = 3; });
  expect_refused([](auto&, std::int32_t& counted) { counted = -1; });
}

TEST(ForgedPeer, MoreRowsThanCanBe) {
  expect_refused([](window::CallHeader& header, auto&) { header.num_rows = 3; });
  expect_refused([](window::CallHeader& header, auto&) {
    header.num_rows = std::numeric_limits<std::int64_t>::max();
  });
  expect_refused([](window::CallHeader& header, auto&) { header.num_rows = -1; });
}

TEST(ForgedPeer, RowsOutsideOfThePool) {
  expect_refused([](window::CallHeader& header, auto&) {
    header.pool_offset = testing::kTestWindowBytes - 31;
  });
  expect_refused([](window::CallHeader& header, auto&) { header.pool_offset = -4; });
}

}  // namespace
}  // namespace waybill::engine
