#include "engine/recheck.h"

#include <gtest/gtest.h>

#include <functional>
#include <ostream>
#include <string>

#include "support/ranks.h"

namespace waybill::engine {
namespace {

using contract::Operator;
using testing::LayerCase;
using testing::plain_layer;
using testing::Ranks;

/// What dispatch of one rank returned, spoiled afterwards, and what a recheck says of it.
struct Spoiled {
  const char* name;
  std::function<void(DispatchResult&)> spoil;
  const char* output;
  const char* text;  ///< from "expected" on
};

void PrintTo(const Spoiled& spoiled, std::ostream* out) { *out << spoiled.name; }

class SpoiledResult : public ::testing::TestWithParam<Spoiled> {};

// One rank with M = 2, BS = 3, K = 2, H = 16: A = 6.
TEST_P(SpoiledResult, IsNamedWithWhatTheArgumentsAskFor) {
  Ranks ranks(1);
  const LayerCase layer = plain_layer(1);
  const DispatchArgs args = layer.dispatch_args(0);
  auto result = dispatch(ranks[0], args);
  ASSERT_TRUE(result.ok()) << result.status().message();
  ASSERT_TRUE(recheck_dispatch(Operator::kDispatchV2, args, *result).ok());
  GetParam().spoil(*result);
  const Status status = recheck_dispatch(Operator::kDispatchV2, args, *result);
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.info().argument, GetParam().output);
  EXPECT_EQ(status.message(),
            std::string("npu_moe_distribute_dispatch_v2: WAYBILL_CHECK: output ") +
                GetParam().output + ": expected " + GetParam().text);
}

INSTANTIATE_TEST_SUITE_P(
    All,
    SpoiledResult,
    ::testing::Values(
        Spoiled{"Rows",
                [](DispatchResult& result) { result.expand_x.shape = {5, 16}; },
                "expand_x",
                "(6, 16), got (5, 16)"},
        Spoiled{"Scales",
                [](DispatchResult& result) { result.dynamic_scales.shape = {7}; },
                "dynamic_scales",
                "(6,), got (7,)"},
        Spoiled{"Triples",
                [](DispatchResult& result) { result.assist_info_for_combine.shape = {18}; },
                "assist_info_for_combine",
                "(768,), got (18,)"},
        Spoiled{"Nums",
                [](DispatchResult& result) { result.expert_token_nums.shape = {1}; },
                "expert_token_nums",
                "(2,), got (1,)"},
        Spoiled{"Counts",
                [](DispatchResult& result) { result.ep_recv_counts.shape = {3}; },
                "ep_recv_counts",
                "(2,), got (3,)"},
        Spoiled{"TpCounts",
                [](DispatchResult& result) { result.tp_recv_counts.shape = {2}; },
                "tp_recv_counts",
                "(0,), got (2,)"},
        Spoiled{"ExpandScales",
                [](DispatchResult& result) { result.expand_scales.shape = {6, 1}; },
                "expand_scales",
                "(6,), got (6, 1)"},
        Spoiled{"SumsThatFall",
                [](DispatchResult& result) { result.ep_recv_counts.data<std::int32_t>()[0] = -1; },
                "ep_recv_counts",
                "sums that do not fall, got -1"},
        Spoiled{
            "ARowTooMany",
            [](DispatchResult& result) { result.expert_token_nums.data<std::int64_t>()[1] += 1; },
            "expert_token_nums",
            "6 rows in all, got 7"},
        Spoiled{"MoreRowsThanFit",
                [](DispatchResult& result) {
                  result.rows += 100;
                  result.expert_token_nums.data<std::int64_t>()[1] += 100;
                },
                "expand_x",
                "at least 106 rows, got 6"}),
    [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace waybill::engine
