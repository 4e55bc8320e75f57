// Calls that a group with an open setup refuses, and teardowns that do not belong to it.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "setup_calls.h"
#include "support/ranks.h"
#include "waybill/barrier.h"
#include "waybill/combine.h"

namespace waybill {
namespace {

using testing::LayerCase;
using testing::plain_layer;
using testing::Ranks;

/// kInvalidState with this sentence in it.
void expect_state_error(const Status& status, const std::string& text) {
  EXPECT_EQ(status.code(), StatusCode::kInvalidState) << text;
  EXPECT_NE(status.message().find(text), std::string::npos) << status.message();
}

/// Everything but the teardown of `expected`, on a group with an open setup.
void expect_others_are_refused(Group& group,
                               const LayerCase& layer,
                               const Tensor& command,
                               const std::string& expected) {
  const SetupCalls calls{layer, group.rank()};
  const std::string text = "expected " + expected + ", since a setup is open on this group";
  const DispatchResult none;
  const CombineArgs combine_args = layer.combine_args(group.rank(), layer.x_view(0), none);
  const std::int64_t numbered = group.stats().calls;
  expect_state_error(dispatch(group, layer.dispatch_args(group.rank())).status(), text);
  expect_state_error(combine(group, combine_args).status(), text);
  expect_state_error(combine_add_rms_norm(group, {.combine = combine_args}).status(), text);
  expect_state_error(barrier(group, {.world_size = group.world_size()}), text);
  expect_state_error(dispatch_setup(group, calls.dispatch_args()).status(), text);
  expect_state_error(combine_setup(group, calls.combine_args(layer.x_view(0), command)).status(),
                     text);
  if (expected.find("dispatch") == std::string::npos) {
    expect_state_error(dispatch_teardown(group, calls.dispatch_end(command)).status(), text);
  } else {
    expect_state_error(
        combine_teardown(group, calls.combine_end(layer.x_view(0), command, command)).status(),
        text);
  }
  EXPECT_EQ(group.stats().calls, numbered);
}

TEST(SetupOrder, OnlyTheTeardownIsLegalAndRefusalsTakeNoNumber) {
  Ranks ranks(2);
  const LayerCase layer = plain_layer(2);
  testing::expect_all_ok(ranks.run([&](Group& group) -> Status {
    const SetupCalls calls{layer, group.rank()};
    for (int round = 0; round < 3; ++round) {
      auto begun = dispatch_setup(group, calls.dispatch_args());
      if (!begun.ok()) {
        return begun.status();
      }
      if (group.rank() == 0) {
        expect_others_are_refused(
            group, layer, begun->comm_cmd_info, "npu_moe_distribute_dispatch_teardown");
      }
      auto sent = dispatch_teardown(group, calls.dispatch_end(begun->comm_cmd_info));
      if (!sent.ok()) {
        return sent.status();
      }
      const TensorView rows = sent->expand_x.view();
      auto returning =
          combine_setup(group, calls.combine_args(rows, sent->assist_info_for_combine));
      if (!returning.ok()) {
        return returning.status();
      }
      if (group.rank() == 1) {
        expect_others_are_refused(
            group, layer, returning->comm_cmd_info, "npu_moe_distribute_combine_teardown");
      }
      auto sums = combine_teardown(
          group, calls.combine_end(rows, begun->expand_idx, returning->comm_cmd_info));
      if (!sums.ok()) {
        return sums.status();
      }
    }
    EXPECT_EQ(group.stats().calls, 6);
    return {};
  }));
  ranks.expect_works();
}

TEST(SetupOrder, ATeardownNeedsAnOpenSetup) {
  Ranks ranks(1);
  const LayerCase layer = plain_layer(1);
  const SetupCalls calls{layer, 0};
  const char* text = "expected an open setup on this group (npu_moe_distribute_";
  const Tensor none;
  expect_state_error(dispatch_teardown(ranks[0], calls.dispatch_end(none)).status(), text);
  expect_state_error(
      combine_teardown(ranks[0], calls.combine_end(layer.x_view(0), none, none)).status(), text);
  auto begun = dispatch_setup(ranks[0], calls.dispatch_args());
  ASSERT_TRUE(begun.ok());
  EXPECT_TRUE(dispatch_teardown(ranks[0], calls.dispatch_end(begun->comm_cmd_info)).ok());
  expect_state_error(dispatch_teardown(ranks[0], calls.dispatch_end(begun->comm_cmd_info)).status(),
                     text);
  EXPECT_EQ(ranks[0].stats().calls, 1);
}

struct Change {
  const char* argument;
  std::function<void(DispatchTeardownArgs&)> change;
  const char* text;
};

TEST(SetupOrder, ATeardownRepeatsTheArgumentsOfItsSetup) {
  Ranks ranks(2);
  const LayerCase layer = plain_layer(2);
  const std::vector<Change> changes = {
      {"x",
       [](DispatchTeardownArgs& args) { args.x.shape = {2, 16}; },
       "expected (3, 16) float32 as in the setup, got (2, 16) float32"},
      {"x",
       [](DispatchTeardownArgs& args) { args.x.dtype = DType::kFloat16; },
       "got (3, 16) float16"},
      {"expert_ids",
       [](DispatchTeardownArgs& args) { args.common.expert_ids.shape = {3, 1}; },
       "expected (3, 2) int32 as in the setup, got (3, 1) int32"},
      {"ep_world_size",
       [](DispatchTeardownArgs& args) { args.common.layer.ep_world_size = 3; },
       "got 3"},
      {"ep_rank_id", [](DispatchTeardownArgs& args) { args.common.layer.ep_rank_id = 7; }, "got 7"},
      {"moe_expert_num",
       [](DispatchTeardownArgs& args) { args.common.layer.moe_expert_num = 2; },
       "expected 4 as in the setup, got 2"},
      {"expert_shard_type",
       [](DispatchTeardownArgs& args) { args.common.layer.expert_shard_type = 1; },
       "got 1"},
      {"shared_expert_num",
       [](DispatchTeardownArgs& args) { args.common.layer.shared_expert_num = 0; },
       "got 0"},
      {"shared_expert_rank_num",
       [](DispatchTeardownArgs& args) { args.common.layer.shared_expert_rank_num = 1; },
       "got 1"},
      {"global_bs", [](DispatchTeardownArgs& args) { args.common.layer.global_bs = 8; }, "got 8"},
      {"comm_type", [](DispatchTeardownArgs& args) { args.common.comm_type = 2; }, "got 2"},
      {"quant_mode",
       [](DispatchTeardownArgs& args) { args.quant_mode = 2; },
       "expected 0 as in the setup, got 2"},
      {"comm_alg",
       [](DispatchTeardownArgs& args) { args.common.layer.comm_alg = "fullmesh"; },
       R"(expected "" as in the setup, got "fullmesh")"},
  };
  testing::expect_all_ok(ranks.run([&](Group& group) -> Status {
    const SetupCalls calls{layer, group.rank()};
    auto begun = dispatch_setup(group, calls.dispatch_args());
    if (!begun.ok()) {
      return begun.status();
    }
    for (const Change& change : changes) {
      DispatchTeardownArgs args = calls.dispatch_end(begun->comm_cmd_info);
      change.change(args);
      const Status status = dispatch_teardown(group, args).status();
      expect_state_error(status, change.text);
      EXPECT_EQ(status.ok() ? "" : status.info().argument, change.argument);
    }
    return dispatch_teardown(group, calls.dispatch_end(begun->comm_cmd_info)).status();
  }));
  ranks.expect_works();
}

TEST(SetupOrder, ATeardownKnowsTheCommandOfItsOwnSetup) {
  Ranks ranks(1);
  const LayerCase layer = plain_layer(1);
  const SetupCalls calls{layer, 0};
  auto first = dispatch_setup(ranks[0], calls.dispatch_args());
  ASSERT_TRUE(first.ok());
  ASSERT_TRUE(dispatch_teardown(ranks[0], calls.dispatch_end(first->comm_cmd_info)).ok());
  auto begun = dispatch_setup(ranks[0], calls.dispatch_args());
  ASSERT_TRUE(begun.ok());
  const auto refused = [&](const TensorView& command) {
    DispatchTeardownArgs args = calls.dispatch_end(begun->comm_cmd_info);
    args.comm_cmd_info = command;
    const Status status = dispatch_teardown(ranks[0], args).status();
    expect_state_error(status, "expected what the open setup of this group returned (call 2)");
    return !status.ok();
  };
  refused(first->comm_cmd_info.view());
  TensorView wrong = begun->comm_cmd_info.view();
  wrong.dtype = DType::kFloat32;
  refused(wrong);
  EXPECT_TRUE(dispatch_teardown(ranks[0], calls.dispatch_end(begun->comm_cmd_info)).ok());
}

// A command without elements passes for every setup; shorter ones are read past their end.
TEST(SetupOrder, ACommandOfAnotherLengthIsRefused) {
  Ranks ranks(1);
  const LayerCase layer = plain_layer(1);
  const SetupCalls calls{layer, 0};
  for (const std::int64_t length : {0, 1, 3}) {
    auto begun = dispatch_setup(ranks[0], calls.dispatch_args());
    ASSERT_TRUE(begun.ok());
    const std::vector<std::int32_t> part(begun->comm_cmd_info.data<std::int32_t>(),
                                         begun->comm_cmd_info.data<std::int32_t>() + length);
    DispatchTeardownArgs args = calls.dispatch_end(begun->comm_cmd_info);
    args.comm_cmd_info = TensorView::contiguous(part.data(), DType::kInt32, {length});
    const Status status = dispatch_teardown(ranks[0], args).status();
    EXPECT_FALSE(status.ok()) << length;
    if (!status.ok()) {
      EXPECT_TRUE(dispatch_teardown(ranks[0], calls.dispatch_end(begun->comm_cmd_info)).ok());
    }
  }
}

TEST(SetupOrder, ABadTokenArgumentOfATeardownLeavesItOpen) {
  Ranks ranks(2);
  const LayerCase layer = plain_layer(2);
  testing::expect_all_ok(ranks.run([&](Group& group) -> Status {
    const SetupCalls calls{layer, group.rank()};
    auto begun = dispatch_setup(group, calls.dispatch_args());
    DispatchTeardownArgs bad = calls.dispatch_end(begun->comm_cmd_info);
    bad.expert_token_nums_type = 3;
    EXPECT_FALSE(dispatch_teardown(group, bad).ok());
    auto sent = dispatch_teardown(group, calls.dispatch_end(begun->comm_cmd_info));
    if (!sent.ok()) {
      return sent.status();
    }
    const TensorView rows = sent->expand_x.view();
    auto returning = combine_setup(group, calls.combine_args(rows, sent->assist_info_for_combine));
    if (!returning.ok()) {
      return returning.status();
    }
    CombineTeardownArgs end = calls.combine_end(rows, begun->expand_idx, returning->comm_cmd_info);
    end.expert_scales.dtype = DType::kBFloat16;
    EXPECT_FALSE(combine_teardown(group, end).ok());
    end = calls.combine_end(rows, begun->expand_idx, returning->comm_cmd_info);
    end.expand_idx.shape = {5};
    EXPECT_FALSE(combine_teardown(group, end).ok());
    return combine_teardown(group,
                            calls.combine_end(rows, begun->expand_idx, returning->comm_cmd_info))
        .status();
  }));
  EXPECT_EQ(ranks[0].stats().calls, 2);
  ranks.expect_works();
}

}  // namespace
}  // namespace waybill
