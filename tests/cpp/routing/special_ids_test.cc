// Ids of special experts, ids that elastic_info has taken away, and expand_idx.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "contract/topology.h"
#include "routing/send_plan.h"

namespace waybill::routing {
namespace {

using contract::Checker;
using contract::Operator;
using contract::Topology;

const Checker kCheck(Operator::kDispatchV2, {.rank = 0, .world_size = 2});

/// Two ranks left of four: M was 8, newM is 4. Three special experts from id 8 on.
constexpr Topology kScaledIn{
    .num_ranks = 2, .rank = 0, .num_experts = 4, .special_begin = 8, .special_end = 11};

/// Ids of shape (BS, K) with an optional (BS, K) mask.
struct Batch {
  std::int64_t k = 1;
  std::vector<std::int32_t> ids;
  std::optional<std::vector<std::uint8_t>> mask = {};

  std::int64_t bs() const { return static_cast<std::int64_t>(ids.size()) / k; }
  TensorView view() const { return TensorView::contiguous(ids.data(), DType::kInt32, {bs(), k}); }
  ActivePairs pairs() const {
    if (!mask) {
      return {std::nullopt, view()};
    }
    return {TensorView::contiguous(mask->data(), DType::kBool, {bs(), k}), view()};
  }
  bool active(std::size_t i) const { return (!mask || (*mask)[i] != 0) && ids[i] != -1; }
};

Status count_batch(const Topology& topology, const Batch& batch, SendCounts& counts) {
  return count(kCheck, topology, batch.pairs(), counts);
}

TEST(SpecialIds, AreNotSentButTheirTokensGoToTheSharedExperts) {
  const Batch batch{.k = 2, .ids = {8, 0, 9, 10, 3, 8}};
  SendCounts counts;
  ASSERT_TRUE(count_batch(kScaledIn, batch, counts).ok());
  EXPECT_EQ(counts.expert_offsets, (std::vector<std::int32_t>{0, 1, 1, 1, 2}));
  EXPECT_EQ(counts.rows_to, (std::vector<std::int32_t>{1, 1}));
  EXPECT_EQ(counts.num_entries, 2);
  EXPECT_EQ(counts.num_active, 3);
  std::vector<std::int32_t> entries(2);
  std::vector<std::int32_t> cursor;
  sort_by_expert(counts, batch.pairs(), cursor, entries);
  EXPECT_EQ(entries, (std::vector<std::int32_t>{1, 4}));
}

TEST(SpecialIds, OfMaskedPairsAreNeverRead) {
  const Batch batch{
      .k = 2, .ids = {-77, 0, 99, 2147483647}, .mask = std::vector<std::uint8_t>{0, 1, 0, 0}};
  SendCounts counts;
  ASSERT_TRUE(count_batch(kScaledIn, batch, counts).ok());
  EXPECT_EQ(counts.num_entries, 1);
  EXPECT_EQ(counts.num_active, 1);
}

TEST(SpecialIds, EveryOtherIdIsAnErrorThatNamesBothRanges) {
  for (const std::int32_t id : {-2, 4, 5, 7, 11, 2147483647, -2147483647 - 1}) {
    const Batch batch{.k = 3, .ids = {0, 8, 10, 3, id, 0}};
    SendCounts counts;
    const Status status = count_batch(kScaledIn, batch, counts);
    ASSERT_EQ(status.code(), StatusCode::kInvalidArgument) << id;
    EXPECT_EQ(status.message(),
              "npu_moe_distribute_dispatch_v2: argument expert_ids: expected ids in [0, 4) or [8, "
              "11) (-1 or false in x_active_mask leaves a choice out), got " +
                  std::to_string(id) + " at token 1, k 1 (rank 0)");
  }
}

TEST(SpecialIds, StrictModesNameOnlyWhatTheyHave) {
  for (const auto& [strict, way] : {std::pair(Strict::kA3,
                                              " (false in x_active_mask leaves a "
                                              "choice out)"),
                                    std::pair(Strict::kA2, "")}) {
    const Checker check(Operator::kDispatchV2, {.rank = 0, .world_size = 2, .strict = strict});
    const Batch batch{.k = 1, .ids = {-2}};
    SendCounts counts;
    const Status status = count(check, kScaledIn, batch.pairs(), counts);
    EXPECT_NE(status.message().find("ids in [0, 4) or [8, 11)" + std::string(way) + ", got -2"),
              std::string::npos)
        << status.message();
  }
}

TEST(NotRouted, IsAsIfTheMaskWereFalse) {
  const Batch batch{.k = 2, .ids = {-1, 3, -1, -1, 9, -1, 0, 0}};
  const Batch masked{.k = 2,
                     .ids = {7, 3, 7, 7, 9, 7, 0, 0},
                     .mask = std::vector<std::uint8_t>{0, 1, 0, 0, 1, 0, 1, 1}};
  SendCounts counts;
  SendCounts want;
  ASSERT_TRUE(count_batch(kScaledIn, batch, counts).ok());
  ASSERT_TRUE(count_batch(kScaledIn, masked, want).ok());
  EXPECT_EQ(counts.expert_offsets, want.expert_offsets);
  EXPECT_EQ(counts.rows_to, want.rows_to);
  EXPECT_EQ(counts.num_entries, 3);
  EXPECT_EQ(counts.num_active, 3);  // not token 1
  std::vector<std::int32_t> cursor;
  std::vector<std::int32_t> entries(3);
  sort_by_expert(counts, batch.pairs(), cursor, entries);
  EXPECT_EQ(entries, (std::vector<std::int32_t>{6, 7, 1}));
  std::vector<std::int32_t> active(3);
  list_active(batch.pairs(), active);
  EXPECT_EQ(active, (std::vector<std::int32_t>{0, 2, 3}));
  std::vector<std::int32_t> occurrences(8, -5);
  count_occurrences(counts, batch.pairs(), cursor, occurrences.data());
  EXPECT_EQ(occurrences[7], 1);
}

TEST(NotRouted, NeedsTheMaskToo) {
  const Batch batch{.k = 2, .ids = {-1, 3, 2, -1}, .mask = std::vector<std::uint8_t>{1, 0, 0, 1}};
  SendCounts counts;
  ASSERT_TRUE(count_batch(kScaledIn, batch, counts).ok());
  EXPECT_EQ(counts.num_entries, 0);
  EXPECT_EQ(counts.num_active, 0);
}

TEST(SpecialIds, WithoutThemOneRangeIsNamed) {
  Topology topology = kScaledIn;
  topology.special_end = topology.special_begin;
  SendCounts counts;
  const Status status = count_batch(topology, {.k = 1, .ids = {8}}, counts);
  EXPECT_NE(status.message().find("expected ids in [0, 4) (-1 or false in x_active_mask leaves a "
                                  "choice out), got 8 at token 0, k 0"),
            std::string::npos)
      << status.message();
}

TEST(SpecialIds, MayBeAllThereIs) {
  const Topology only{.num_ranks = 1, .num_experts = 0, .special_begin = 0, .special_end = 2};
  const Batch batch{.k = 1, .ids = {0, 1, 1}};
  SendCounts counts;
  ASSERT_TRUE(count_batch(only, batch, counts).ok());
  EXPECT_EQ(counts.num_entries, 0);
  EXPECT_EQ(counts.num_active, 3);
}

RC_GTEST_PROP(Occurrences, AreTheEarlierPairsThatChoseTheSameExpert, ()) {
  Batch batch;
  batch.k = *rc::gen::inRange<std::int64_t>(1, 5);
  const auto pairs = static_cast<std::size_t>(batch.k * *rc::gen::inRange(0, 12));
  const auto id = rc::gen::element(-1, 0, 1, 2, 3, 8, 9, 10);
  batch.ids = *rc::gen::container<std::vector<std::int32_t>>(pairs, id);
  if (*rc::gen::arbitrary<bool>()) {
    batch.mask =
        *rc::gen::container<std::vector<std::uint8_t>>(pairs, rc::gen::element<std::uint8_t>(0, 1));
  }
  SendCounts counts;
  RC_ASSERT(count_batch(kScaledIn, batch, counts).ok());
  std::vector<std::int32_t> got(pairs + 1, -5);
  std::vector<std::int32_t> cursor;
  count_occurrences(counts, batch.pairs(), cursor, got.data());
  RC_ASSERT(got.back() == -5);
  for (std::size_t i = 0; i < pairs; ++i) {
    if (!batch.active(i) || batch.ids[i] >= 4) {
      continue;
    }
    std::int32_t want = 0;
    for (std::size_t j = 0; j < i; ++j) {
      want += batch.active(j) && batch.ids[j] == batch.ids[i] ? 1 : 0;
    }
    RC_ASSERT(got[i] == want);
  }
}

TEST(Occurrences, OfTheWorkedExample) {
  // docs/contract/operators.md section 9: E=2, M=4.
  const Topology topology{.num_ranks = 2, .num_experts = 4, .special_begin = 4, .special_end = 4};
  const Batch batch{.k = 2, .ids = {0, 2, 3, 2}};
  SendCounts counts;
  ASSERT_TRUE(count_batch(topology, batch, counts).ok());
  std::vector<std::int32_t> got(4, -1);
  std::vector<std::int32_t> cursor;
  count_occurrences(counts, batch.pairs(), cursor, got.data());
  EXPECT_EQ(got, (std::vector<std::int32_t>{0, 0, 0, 1}));
}

}  // namespace
}  // namespace waybill::routing
