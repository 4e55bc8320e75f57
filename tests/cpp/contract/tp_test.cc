#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "calls.h"
#include "contract/combine_contract.h"
#include "contract/dispatch_contract.h"

namespace waybill::contract {
namespace {

/// TP = 2: one expert a rank.
struct TpDispatchCall : DispatchCall {
  GroupFacts facts = kTpGroup;
  TpDispatchCall() {
    args.layer.moe_expert_num = 4;
    args.tp_world_size = 2;
    args.tp_rank_id = 1;
  }
};

struct TpCombineCall : CombineCall {
  GroupFacts facts = kTpGroup;
  std::vector<std::int32_t> tp_counts = {1, 5};  ///< one row of the peer, rank 0
  TpCombineCall() {
    counts = {1, 1, 2, 5, 1, 1, 1, 1};
    args.layer.moe_expert_num = 4;
    args.tp_world_size = 2;
    args.tp_rank_id = 1;
    args.tp_send_counts = TensorView::contiguous(tp_counts.data(), DType::kInt32, {2});
  }
};

template <typename Call>
std::vector<BadCall<Call>> bad_tp() {
  return {
      {"WithoutAGroup",
       [](Call& call) { call.facts.tp_world_size = 0; },
       "group_tp",
       "a group of 2 ranks other than group_ep, since tp_world_size is 2",
       "none"},
      {"AGroupOfThree",
       [](Call& call) { call.facts.tp_world_size = 3; },
       "group_tp",
       "a group of 2 ranks other than group_ep, since tp_world_size is 2",
       "one of 3"},
      {"ThePeersPosition",
       [](Call& call) { call.args.tp_rank_id = 0; },
       "tp_rank_id",
       "this rank's position in group_tp, 1",
       "0"},
      {"APositionPastTheGroup",
       [](Call& call) { call.args.tp_rank_id = 2; },
       "tp_rank_id",
       "this rank's position in group_tp, 1",
       "2"},
      {"TwoExpertsARank",
       [](Call& call) { call.args.layer.moe_expert_num = 8; },
       "tp_world_size",
       "0 or 1, since a MoE rank has more or less than one expert",
       "2"},
      {"NoExperts",
       [](Call& call) { call.args.layer.moe_expert_num = 0; },
       "tp_world_size",
       "0 or 1, since a MoE rank has more or less than one expert",
       "2"},
      {"ElasticInfo",
       [](Call& call) { call.args.elastic_info = call.elastic_view(); },
       "elastic_info",
       "None since tp_world_size is 2",
       "(12,) int32"},
  };
}

class TpDispatch : public ::testing::TestWithParam<BadCall<TpDispatchCall>> {};

TEST_P(TpDispatch, NamesArgumentExpectedAndGot) {
  TpDispatchCall call;
  ASSERT_TRUE(check_dispatch(call.facts, call.args).ok());
  GetParam().change(call);
  const Status status = check_dispatch(call.facts, call.args).status();
  ASSERT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.info().argument, GetParam().argument);
  EXPECT_EQ(status.message(), sentence_of("npu_moe_distribute_dispatch_v2", GetParam()));
}

class TpCombine : public ::testing::TestWithParam<BadCall<TpCombineCall>> {};

TEST_P(TpCombine, NamesArgumentExpectedAndGot) {
  TpCombineCall call;
  const auto good = check_combine(call.facts, call.args);
  ASSERT_TRUE(good.ok()) << good.status().message();
  GetParam().change(call);
  const Status status = check_combine(call.facts, call.args).status();
  ASSERT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.info().argument, GetParam().argument);
  EXPECT_EQ(status.message(), sentence_of("npu_moe_distribute_combine_v2", GetParam()));
}

const std::vector<BadCall<TpCombineCall>> kBadCombine = {
    {"QuantisedReturns",
     [](TpCombineCall& call) { call.args.comm_quant_mode = 2; },
     "comm_quant_mode",
     "0 since tp_world_size is 2",
     "2"},
    {"WithoutTpCounts",
     [](TpCombineCall& call) { call.args.tp_send_counts.reset(); },
     "tp_send_counts",
     "a tensor since tp_world_size is 2",
     "None"},
    {"OneTpCount",
     [](TpCombineCall& call) { call.args.tp_send_counts = shaped(DType::kInt32, {1}); },
     "tp_send_counts",
     "a vector of at least 2 int32 (rows of both TP ranks)",
     "(1,) int32"},
    {"LongTpCounts",
     [](TpCombineCall& call) { call.args.tp_send_counts = shaped(DType::kInt64, {2}); },
     "tp_send_counts",
     "a vector of at least 2 int32 (rows of both TP ranks)",
     "(2,) int64"},
    {"NegativeRowsOfThePeer",
     [](TpCombineCall& call) { call.tp_counts[0] = -1; },
     "tp_send_counts",
     "numbers >= 0",
     "-1"},
    {"MoreRowsOfBothThanThereAre",
     [](TpCombineCall& call) { call.tp_counts[0] = 2; },
     "ep_send_counts",
     "a total of at most the 6 rows of expand_x",
     "7"},
};

template <typename Call>
std::string name_of_case(const ::testing::TestParamInfo<BadCall<Call>>& info) {
  return info.param.name;
}

INSTANTIATE_TEST_SUITE_P(Layer,
                         TpDispatch,
                         ::testing::ValuesIn(bad_tp<TpDispatchCall>()),
                         name_of_case<TpDispatchCall>);
INSTANTIATE_TEST_SUITE_P(Layer,
                         TpCombine,
                         ::testing::ValuesIn(bad_tp<TpCombineCall>()),
                         name_of_case<TpCombineCall>);
INSTANTIATE_TEST_SUITE_P(Rows,
                         TpCombine,
                         ::testing::ValuesIn(kBadCombine),
                         name_of_case<TpCombineCall>);

TEST(Tp, CombineTakesThePeersRowsFromItsPlaceInTheCounts) {
  TpCombineCall call;
  const auto shape = check_combine(call.facts, call.args);
  ASSERT_TRUE(shape.ok());
  EXPECT_EQ(shape->rows, 5);
  EXPECT_EQ(shape->peer_rows, 1);
  call.tp_counts[1] = -7;  // this rank's own rows come from ep_send_counts
  EXPECT_TRUE(check_combine(call.facts, call.args).ok());
  std::vector<std::int32_t> strided = {0, 9, 9, 9, 9};
  call.args.tp_send_counts = TensorView::contiguous(strided.data(), DType::kInt32, {3});
  call.args.tp_send_counts->strides = {2};
  EXPECT_EQ(check_combine(call.facts, call.args)->peer_rows, 0);
}

TEST(Tp, OutputsHoldBothPartsAndThePeersAreAgreedOn) {
  TpDispatchCall call;
  call.args.quant_mode = 2;
  auto shape = check_dispatch(call.facts, call.args);
  ASSERT_TRUE(shape.ok());
  DispatchOutputs outputs = output_shapes(*shape);
  EXPECT_EQ(outputs.expand_x, (Dims{2 * 16, 16}));
  EXPECT_EQ(outputs.dynamic_scales, (Dims{2 * 16}));
  EXPECT_EQ(outputs.assist_info_for_combine, (Dims{16 * 128}));
  EXPECT_EQ(outputs.expert_token_nums, (Dims{1}));
  EXPECT_EQ(outputs.ep_recv_counts, (Dims{2 * 4}));
  EXPECT_EQ(outputs.tp_recv_counts, (Dims{2}));
  EXPECT_EQ(outputs.expand_scales, (Dims{16}));
  EXPECT_EQ(agreement_of(*shape, call.args)[Agreed::kTpWorldSize], 2);
  call.args.expert_scales = shaped(DType::kFloat32, {4, 2});
  shape = check_dispatch(call.facts, call.args);
  EXPECT_EQ(output_shapes(*shape).ep_recv_counts, (Dims{2 * 4 + 2 * 16 * 2}));
}

TEST(Tp, ZeroAndOneMeanTheSameToTheOthers) {
  for (const int tp : {0, 1}) {
    DispatchCall call;
    call.args.tp_world_size = tp;
    call.args.tp_rank_id = 7;  // ignored
    const auto shape = check_dispatch(kTpGroup, call.args);
    ASSERT_TRUE(shape.ok());
    EXPECT_EQ(agreement_of(*shape, call.args)[Agreed::kTpWorldSize], 1);
    EXPECT_EQ(output_shapes(*shape).tp_recv_counts, (Dims{tp}));
  }
}

TEST(Tp, SharedRanksHaveAPeerToo) {
  TpDispatchCall call;
  call.args.layer.shared_expert_rank_num = 2;
  call.args.layer.moe_expert_num = 2;
  EXPECT_TRUE(check_dispatch(call.facts, call.args).ok());
}

}  // namespace
}  // namespace waybill::contract
