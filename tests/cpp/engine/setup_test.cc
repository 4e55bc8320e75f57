#include "waybill/setup.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "setup_calls.h"
#include "support/ranks.h"
#include "waybill/barrier.h"
#include "waybill/combine.h"

namespace waybill {
namespace {

using namespace std::chrono_literals;
using testing::LayerCase;
using testing::plain_layer;
using testing::Ranks;

void wait_until(const std::atomic<int>& value, int least) {
  while (value.load() < least) {
    std::this_thread::sleep_for(1ms);
  }
}

TEST(Setup, WaitsForNobody) {
  // Each rank in turn comes only when the other's setup is back: a setup that waited would not.
  thread_local bool in_setup = false;
  static std::atomic<int> waits{0};
  waits = 0;
  Ranks ranks(2, 20s, [](Phase phase) {
    waits += in_setup && (phase == Phase::kWaitSignals || phase == Phase::kWaitReaders) ? 1 : 0;
  });
  const LayerCase layer = plain_layer(2);
  std::atomic<int> back{0};
  constexpr int kRounds = 6;
  testing::expect_all_ok(ranks.run([&](Group& group) -> Status {
    const SetupCalls calls{layer, group.rank()};
    for (int round = 0; round < kRounds; ++round) {
      const bool late = group.rank() == round % 2;
      if (late) {
        wait_until(back, 2 * round + 1);
      }
      in_setup = true;
      auto begun = dispatch_setup(group, calls.dispatch_args());
      in_setup = false;
      if (!begun.ok()) {
        return begun.status();
      }
      if (!late) {
        ++back;
      }
      auto sent = dispatch_teardown(group, calls.dispatch_end(begun->comm_cmd_info));
      if (!sent.ok()) {
        return sent.status();
      }
      const TensorView rows = sent->expand_x.view();
      if (late) {
        wait_until(back, 2 * round + 2);
      }
      in_setup = true;
      auto returning =
          combine_setup(group, calls.combine_args(rows, sent->assist_info_for_combine));
      in_setup = false;
      if (!returning.ok()) {
        return returning.status();
      }
      if (!late) {
        ++back;
      }
      auto sums = combine_teardown(
          group, calls.combine_end(rows, begun->expand_idx, returning->comm_cmd_info));
      if (!sums.ok()) {
        return sums.status();
      }
    }
    return {};
  }));
  EXPECT_EQ(waits, 0);
  EXPECT_EQ(ranks[0].stats().calls, 2 * kRounds);
  EXPECT_EQ(ranks[1].stats().completed, 2 * kRounds);
}

TEST(Setup, HasTheShapesOfTheContractsExample) {
  // x (32,256) bf16, K 8, E 16, M 16, defaults.
  LayerCase layer;
  layer.num_ranks = 16;
  layer.num_experts = 16;
  layer.h = layer.x_stride = 256;
  layer.k = 8;
  LayerCase::RankInput input;
  input.bs = 32;
  input.x.resize(32 * 256 * 2);
  for (std::int32_t i = 0; i < 32 * 8; ++i) {
    input.ids.push_back(i % 8 + i / 8 % 8);
  }
  input.weights.assign(32 * 8, 1.0F);
  layer.ranks.assign(16, input);
  Ranks ranks(16);
  testing::expect_all_ok(ranks.run([&](Group& group) -> Status {
    const SetupCalls calls{layer, group.rank()};
    auto begun = dispatch_setup(group, calls.dispatch_args());
    if (!begun.ok()) {
      return begun.status();
    }
    EXPECT_EQ(begun->y.shape, (Dims{288, 256}));
    EXPECT_EQ(begun->y.dtype, DType::kBFloat16);
    EXPECT_EQ(begun->expand_idx.shape, (Dims{256}));
    EXPECT_EQ(begun->comm_cmd_info.shape, (Dims{4864}));
    auto sent = dispatch_teardown(group, calls.dispatch_end(begun->comm_cmd_info));
    if (!sent.ok()) {
      return sent.status();
    }
    EXPECT_EQ(sent->expand_x.shape, (Dims{512, 256}));
    EXPECT_EQ(sent->dynamic_scales.shape, (Dims{512}));
    EXPECT_EQ(sent->assist_info_for_combine.shape, (Dims{65536}));
    EXPECT_EQ(sent->expert_token_nums.shape, (Dims{1}));
    // combine_setup takes any number of rows that is enough; here all that arrived fit into 512.
    auto returning = combine_setup(
        group, calls.combine_args(sent->expand_x.view(), sent->assist_info_for_combine));
    if (!returning.ok()) {
      return returning.status();
    }
    EXPECT_EQ(returning->quant_expand_x.shape, (Dims{512, 512}));
    EXPECT_EQ(returning->quant_expand_x.dtype, DType::kInt8);
    EXPECT_EQ(returning->comm_cmd_info.shape, (Dims{(512 + 16) * 16}));
    return combine_teardown(group,
                            calls.combine_end(
                                sent->expand_x.view(), begun->expand_idx, returning->comm_cmd_info))
        .status();
  }));
}

TEST(Setup, QuantisedRowsTakeTheirScaleWithThem) {
  LayerCase layer = plain_layer(1);
  layer.quantised = true;
  Ranks ranks(1);
  const SetupCalls calls{layer, 0};
  auto begun = dispatch_setup(ranks[0], calls.dispatch_args());
  ASSERT_TRUE(begun.ok());
  EXPECT_EQ(begun->y.shape, (Dims{3 * 3, 512}));  // Align512(Align32(16) + 4)
  EXPECT_EQ(begun->y.dtype, DType::kInt8);
  EXPECT_TRUE(dispatch_teardown(ranks[0], calls.dispatch_end(begun->comm_cmd_info)).ok());
}

TEST(Setup, OfTwoGroupsMayBeOpenAtOnce) {
  Ranks first(2);
  Ranks second(2);
  const LayerCase layer = plain_layer(2);
  testing::expect_all_ok(testing::on_threads(2, [&](std::size_t r) -> Status {
    const SetupCalls calls{layer, static_cast<int>(r)};
    Group& one = first[static_cast<int>(r)];
    Group& two = second[static_cast<int>(r)];
    for (int round = 0; round < 5; ++round) {
      auto a = dispatch_setup(one, calls.dispatch_args());
      auto b = dispatch_setup(two, calls.dispatch_args());
      if (!a.ok() || !b.ok()) {
        return a.ok() ? b.status() : a.status();
      }
      const Status other = dispatch_teardown(two, calls.dispatch_end(a->comm_cmd_info)).status();
      EXPECT_EQ(other.code(), StatusCode::kInvalidState);
      EXPECT_EQ(other.info().argument, "comm_cmd_info");
      auto late = dispatch_teardown(two, calls.dispatch_end(b->comm_cmd_info));
      auto early = dispatch_teardown(one, calls.dispatch_end(a->comm_cmd_info));
      if (!late.ok() || !early.ok()) {
        return late.ok() ? early.status() : late.status();
      }
    }
    return {};
  }));
  first.expect_works();
  second.expect_works();
}

TEST(Setup, WhatAnotherRankDoesDifferentlyIsRaisedByTeardown) {
  Ranks ranks(3);
  const LayerCase layer = plain_layer(3);
  LayerCase quantised = layer;
  quantised.quantised = true;
  const auto with_odd = [&](const std::function<Status(Group&)>& odd) {
    return ranks.run([&](Group& group) -> Status {
      if (group.rank() == 1) {
        return odd(group);
      }
      const SetupCalls calls{layer, group.rank()};
      auto begun = dispatch_setup(group, calls.dispatch_args());
      EXPECT_TRUE(begun.ok());
      return dispatch_teardown(group, calls.dispatch_end(begun->comm_cmd_info)).status();
    });
  };
  const auto other_mode = with_odd([&](Group& group) -> Status {
    const SetupCalls calls{quantised, 1};
    auto begun = dispatch_setup(group, calls.dispatch_args());
    EXPECT_TRUE(begun.ok());
    return dispatch_teardown(group, calls.dispatch_end(begun->comm_cmd_info)).status();
  });
  for (const Status& status : other_mode) {
    ASSERT_EQ(status.code(), StatusCode::kMismatch) << status.message();
    EXPECT_EQ(status.info().argument, "quant_mode");
    EXPECT_EQ(status.info().op, "npu_moe_distribute_dispatch_teardown");
  }
  const auto other_operator =
      with_odd([&](Group& group) { return testing::dispatch_only(group, layer.dispatch_args(1)); });
  for (const Status& status : other_operator) {
    ASSERT_EQ(status.code(), StatusCode::kMismatch) << status.message();
    EXPECT_NE(status.message().find("npu_moe_distribute_dispatch_v2 on rank 1"), std::string::npos);
  }
  ranks.expect_resets();
  const auto refused = with_odd([&](Group& group) {
    DispatchSetupArgs args = SetupCalls{layer, 1}.dispatch_args();
    args.common.comm_type = 1;
    return dispatch_setup(group, args).status();
  });
  EXPECT_EQ(refused[1].code(), StatusCode::kInvalidArgument);
  for (const std::size_t r : {0U, 2U}) {
    EXPECT_EQ(refused[r].code(), StatusCode::kMismatch) << refused[r].message();
    EXPECT_EQ(refused[r].info().argument, "comm_type");
  }
  ranks.expect_works();
}

TEST(Setup, RefusesWhatTheFamilyDoesNotHave) {
  Ranks ranks(1);
  const LayerCase layer = plain_layer(1);
  const std::vector<std::uint8_t> mask(6, 1);
  DispatchSetupArgs args = SetupCalls{layer, 0}.dispatch_args();
  args.x_active_mask = TensorView::contiguous(mask.data(), DType::kBool, {3, 2});
  const Status status = dispatch_setup(ranks[0], args).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("argument x_active_mask: expected (BS,) bool, got (3, 2) bool"),
            std::string::npos)
      << status.message();
  ranks.expect_works();
}

TEST(Setup, AResetClosesIt) {
  Ranks ranks(2);
  const LayerCase layer = plain_layer(2);
  testing::expect_all_ok(ranks.run([&](Group& group) -> Status {
    const SetupCalls calls{layer, group.rank()};
    auto begun = dispatch_setup(group, calls.dispatch_args());
    EXPECT_TRUE(begun.ok());
    Status status = group.reset().status();
    const Status closed =
        dispatch_teardown(group, calls.dispatch_end(begun->comm_cmd_info)).status();
    EXPECT_EQ(closed.code(), StatusCode::kInvalidState);
    EXPECT_NE(closed.message().find("expected an open setup on this group (npu_moe_distribute_"),
              std::string::npos)
        << closed.message();
    return status;
  }));
  ranks.expect_works();
}

TEST(Setup, DestroyingAGroupWithOneOpenDoesNotHang) {
  const LayerCase layer = plain_layer(2);
  const auto begin = std::chrono::steady_clock::now();
  {
    Ranks ranks(2);
    const SetupCalls calls{layer, 0};
    EXPECT_TRUE(dispatch_setup(ranks[0], calls.dispatch_args()).ok());
    ranks[0].close(50ms);
    ranks[1].close(50ms);
  }
  {
    Ranks ranks(2);
    testing::expect_all_ok(ranks.run([&](Group& group) {
      Status status =
          dispatch_setup(group, SetupCalls{layer, group.rank()}.dispatch_args()).status();
      group.close(10s);
      return status;
    }));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 8s);
}

TEST(Setup, ATimeoutOfItsTeardownClosesItAndAsksForAReset) {
  Ranks ranks(2, 2s);
  const LayerCase layer = plain_layer(2);
  const SetupCalls calls{layer, 0};
  auto begun = dispatch_setup(ranks[0], calls.dispatch_args());
  ASSERT_TRUE(begun.ok());
  const Status late =
      dispatch_teardown(ranks[0], calls.dispatch_end(begun->comm_cmd_info)).status();
  EXPECT_EQ(late.code(), StatusCode::kTimeout);
  EXPECT_EQ(late.info().ranks, std::vector<int>{1});
  const Status again =
      dispatch_teardown(ranks[0], calls.dispatch_end(begun->comm_cmd_info)).status();
  EXPECT_EQ(again.code(), StatusCode::kInvalidState);
  EXPECT_NE(again.message().find("reset"), std::string::npos);
  ranks.expect_resets();
  ranks.expect_works();
}

// close() gives the setup up and punches holes where its rows were: the peer sums zeros.
TEST(Setup, ClosingAGroupNeverGivesItsPeersOtherRowsThanThoseOfTheSetup) {
  // Rank 0's rows lie in its pool. It closes between its combine_setup and rank 1's teardown.
  Ranks ranks(2);
  LayerCase layer = plain_layer(2);
  layer.h = layer.x_stride = 8192;  // rows of many pages
  for (auto& rank : layer.ranks) {
    rank.x.resize(static_cast<std::size_t>(3 * layer.h * 4));
  }
  std::atomic<int> closed{0};
  testing::expect_all_ok(ranks.run([&](Group& group) -> Status {
    const SetupCalls calls{layer, group.rank()};
    auto begun = dispatch_setup(group, calls.dispatch_args());
    auto sent = dispatch_teardown(group, calls.dispatch_end(begun->comm_cmd_info));
    if (!sent.ok()) {
      return sent.status();
    }
    std::fill_n(sent->expand_x.data<float>(), 12 * layer.h, 1.0F);
    const TensorView rows = sent->expand_x.view();
    CombineSetupArgs setup = calls.combine_args(rows, sent->assist_info_for_combine);
    setup.expand_x_owner = std::make_shared<Tensor>(std::move(sent->expand_x));
    auto returning = combine_setup(group, setup);
    setup.expand_x_owner = nullptr;
    if (!returning.ok()) {
      return returning.status();
    }
    if (group.rank() == 0) {
      group.close(50ms);
      closed = 1;
      return {};
    }
    wait_until(closed, 1);
    auto sums = combine_teardown(
        group, calls.combine_end(rows, begun->expand_idx, returning->comm_cmd_info));
    // Two rows of ones, each with weight 0.5; an error would be as good.
    const auto is_right = [](float sum) { return sum == 1.0F; };
    EXPECT_TRUE(
        !sums.ok() ||
        std::all_of(sums->data<float>(), sums->data<float>() + sums->shape.product(), is_right));
    return {};
  }));
}

}  // namespace
}  // namespace waybill
