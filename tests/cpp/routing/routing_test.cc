#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <vector>

#include "contract/topology.h"
#include "routing/receive_plan.h"
#include "routing/return_plan.h"
#include "routing/send_plan.h"
#include "support/layer_case.h"

namespace waybill::routing {
namespace {

using contract::Checker;
using contract::Operator;
using contract::Topology;
using testing::draw_case;
using testing::LayerCase;
using testing::ModelRow;

constexpr int kMaxRanks = 16;

Topology topology_of(const LayerCase& layer, int rank) {
  return {.num_ranks = layer.num_ranks,
          .rank = rank,
          .num_experts = layer.num_experts,
          .num_shared_ranks = layer.num_shared_ranks,
          .num_shared = layer.shared_experts(),
          .special_begin = layer.given_experts(),
          .special_end = layer.given_experts() + layer.num_special()};
}

/// No shared experts and no special ones.
Topology plain_topology(int num_ranks, int rank, std::int64_t num_experts) {
  return {.num_ranks = num_ranks,
          .rank = rank,
          .num_experts = num_experts,
          .special_begin = num_experts,
          .special_end = num_experts};
}

/// Everything that one rank's routing publishes.
struct Published {
  SendCounts counts;
  std::vector<std::int32_t> entries;
  std::vector<std::int32_t> active;
};

Published publish(const LayerCase& layer, int rank) {
  const DispatchArgs args = layer.dispatch_args(rank);
  const ActivePairs pairs(args.x_active_mask, args.expert_ids);
  Published out;
  const Checker check(Operator::kDispatchV2, {.rank = rank, .world_size = layer.num_ranks});
  EXPECT_TRUE(count(check, topology_of(layer, rank), pairs, out.counts).ok());
  out.entries.resize(static_cast<std::size_t>(out.counts.num_entries));
  out.active.resize(static_cast<std::size_t>(out.counts.num_active));
  std::vector<std::int32_t> cursor;
  sort_by_expert(out.counts, pairs, cursor, out.entries);
  list_active(pairs, out.active);
  return out;
}

RC_GTEST_PROP(Routing, CellsHoldTheRowsOfTheNaiveModel, ()) {
  const LayerCase layer = draw_case(*rc::gen::arbitrary<std::uint64_t>(), kMaxRanks);
  std::vector<Published> published;
  std::vector<SourceRouting> sources;
  for (int r = 0; r < layer.num_ranks; ++r) {
    published.push_back(publish(layer, r));
  }
  for (const Published& p : published) {
    sources.push_back({p.counts.expert_offsets.data(), p.counts.num_entries, p.counts.num_active});
  }
  for (int r = 0; r < layer.num_ranks; ++r) {
    const Topology topology = topology_of(layer, r);
    const std::vector<ModelRow> want = testing::model_rows(layer, r);
    std::vector<Cell> cells;
    RC_ASSERT(plan_receive(topology, sources, cells));
    RC_ASSERT(num_rows(cells) == static_cast<std::int64_t>(want.size()));
    for (const Cell& cell : cells) {
      const Published& source = published[static_cast<std::size_t>(cell.source)];
      for (std::int64_t i = 0; i < cell.num_rows; ++i) {
        const ModelRow& row = want[static_cast<std::size_t>(cell.first_row + i)];
        const auto place = static_cast<std::size_t>(cell.first_entry + i);
        RC_ASSERT(row.source == cell.source);
        if (topology.is_shared(r)) {
          RC_ASSERT(source.active[place] == row.token);
        } else {
          RC_ASSERT(source.entries[place] == row.token * layer.k + row.slot);
        }
      }
    }
    std::int64_t sent_here = 0;
    for (const Published& p : published) {
      sent_here += p.counts.rows_to[static_cast<std::size_t>(r)];
    }
    RC_ASSERT(topology.is_shared(r) || sent_here == num_rows(cells));
  }
}

RC_GTEST_PROP(Routing, NoRankGetsMoreThanItsCapacityWithoutDuplicates, ()) {
  const LayerCase layer = draw_case(*rc::gen::arbitrary<std::uint64_t>(), kMaxRanks);
  std::int64_t most = 0;
  for (const auto& rank : layer.ranks) {
    most = std::max(most, rank.bs);
  }
  for (int r = 0; r < layer.num_ranks; ++r) {
    const std::int64_t capacity =
        contract::capacity(topology_of(layer, r), r, most * layer.num_ranks, layer.k);
    RC_ASSERT(static_cast<std::int64_t>(testing::model_rows(layer, r).size()) <= capacity);
  }
}

TEST(Routing, TheWorkedExampleOfTheContract) {
  // docs/contract/operators.md section 9: E=2, M=4, BS=2, K=2.
  const std::vector<std::vector<std::int32_t>> ids = {{0, 2, 3, 2}, {2, 1, 0, 3}};
  std::vector<Published> published(2);
  std::vector<SourceRouting> sources;
  for (std::size_t r = 0; r < 2; ++r) {
    const TensorView view = TensorView::contiguous(ids[r].data(), DType::kInt32, {2, 2});
    const ActivePairs all(std::nullopt, view);
    const Topology topology = plain_topology(2, static_cast<int>(r), 4);
    const Checker check(Operator::kDispatchV2, {.rank = static_cast<int>(r), .world_size = 2});
    SendCounts& counts = published[r].counts;
    ASSERT_TRUE(count(check, topology, all, counts).ok());
    published[r].entries.resize(4);
    std::vector<std::int32_t> cursor;
    sort_by_expert(counts, all, cursor, published[r].entries);
    sources.push_back({counts.expert_offsets.data(), counts.num_entries, counts.num_active});
  }
  const std::vector<std::vector<std::int64_t>> want_prefix = {{1, 2, 2, 3}, {2, 3, 4, 5}};
  for (int r = 0; r < 2; ++r) {
    std::vector<Cell> cells;
    ASSERT_TRUE(plan_receive(plain_topology(2, r, 4), sources, cells));
    std::vector<std::int64_t> prefix;
    for (const Cell& cell : cells) {
      prefix.push_back(cell.first_row + cell.num_rows);
    }
    EXPECT_EQ(prefix, want_prefix[static_cast<std::size_t>(r)]);
  }
}

TEST(Routing, AnIdOutOfRangeIsNamedWithItsPlace) {
  const std::vector<std::int32_t> ids = {0, 1, 2, 4};
  const TensorView view = TensorView::contiguous(ids.data(), DType::kInt32, {2, 2});
  SendCounts counts;
  const Status status = count(Checker(Operator::kDispatchV2, {.rank = 0, .world_size = 1}),
                              plain_topology(1, 0, 4),
                              ActivePairs(std::nullopt, view),
                              counts);
  ASSERT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.info().argument, "expert_ids");
  EXPECT_NE(status.message().find("[0, 4)"), std::string::npos);
  EXPECT_NE(status.message().find("4 at token 1, k 1"), std::string::npos);
}

TEST(Routing, OffsetsThatCannotBeAreRefused) {
  const Topology topology = plain_topology(1, 0, 2);
  std::vector<Cell> cells;
  for (const std::vector<std::int32_t>& offsets :
       {std::vector<std::int32_t>{-1, 0, 2}, {0, 2, 1}, {0, 1, 9}}) {
    const std::vector<SourceRouting> sources = {{offsets.data(), 2, 0}};
    EXPECT_FALSE(plan_receive(topology, sources, cells));
  }
}

TEST(Returns, TriplesAreOrderedByOwnerAndChecked) {
  const std::vector<std::int32_t> triples = {1, 0, 0, 0, 3, 1, 1, 2, 2};
  const TripleView view{triples.data(), 1, 3};
  const ReturnLimits limits{.num_ranks = 2, .max_bs = 4, .slots = 3};
  const Checker check(Operator::kCombineV2, {.rank = 0, .world_size = 2});
  std::vector<std::int32_t> offsets;
  ASSERT_TRUE(count_returns(check, view, limits, offsets).ok());
  EXPECT_EQ(offsets, (std::vector<std::int32_t>{0, 1, 3}));
  struct Entry {
    std::int32_t row, token, slot;
  };
  std::vector<Entry> entries(3);
  std::vector<std::int32_t> cursor;
  sort_by_owner<Entry>(view, offsets, cursor, entries);
  EXPECT_EQ(entries[0].row, 1);
  EXPECT_EQ(entries[1].row, 0);
  EXPECT_EQ(entries[2].token, 2);
  for (const std::vector<std::int32_t>& bad :
       {std::vector<std::int32_t>{2, 0, 0}, {-1, 0, 0}, {0, 4, 0}, {0, -1, 0}, {0, 0, 3}}) {
    const TripleView one{bad.data(), 1, 1};
    EXPECT_EQ(count_returns(check, one, limits, offsets).info().argument,
              "assist_info_for_combine");
  }
}

TEST(Topology, PlacesSharedExpertsAndSplitsSources) {
  // S=2, SR=4: two ranks for each shared expert.
  const Topology topology{
      .num_ranks = 10, .rank = 5, .num_experts = 12, .num_shared_ranks = 4, .num_shared = 2};
  EXPECT_EQ(topology.experts_per_rank(), 2);
  EXPECT_EQ(topology.owner_of(0), 4);
  EXPECT_EQ(topology.owner_of(11), 9);
  EXPECT_EQ(topology.shared_target(5, 0), 1);
  EXPECT_EQ(topology.shared_target(5, 1), 3);
  EXPECT_TRUE(topology.sends_to_shared(5, 3));
  EXPECT_FALSE(topology.sends_to_shared(5, 2));
  EXPECT_EQ(contract::capacity(topology, 0, 30, 8), 3 * 5);
  EXPECT_EQ(contract::capacity(topology, 5, 30, 8), 30 * 2);
}

}  // namespace
}  // namespace waybill::routing
