// Groups of which elastic_info or a reset leaves a part.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "support/ranks.h"
#include "waybill/barrier.h"

namespace waybill {
namespace {

using namespace std::chrono_literals;
using testing::dispatch_only;
using testing::LayerCase;
using testing::plain_layer;
using testing::Ranks;
using testing::run_layer;
using testing::scaled_in;
using testing::status_of;

/// A call of dispatch by the members of the layer.
void expect_members_dispatch(Ranks& ranks, const LayerCase& layer) {
  testing::expect_all_ok(ranks.run([&](Group& group) {
    const int rank = layer.rank_in_layer(group.rank());
    return rank < 0 ? Status() : dispatch_only(group, layer.dispatch_args(rank));
  }));
}

void expect_layer_works(Ranks& ranks, const LayerCase& layer) {
  testing::expect_all_ok(
      ranks.run([&](Group& group) { return status_of(run_layer(group, layer)); }));
}

TEST(Elastic, WorksWithoutAResetWhileAllLive) {
  Ranks ranks(5);
  for (const std::vector<int>& members :
       {std::vector<int>{0, 1, 3}, {3, 1, 0}, {1, 3}, {0, 1, 3}, {3}}) {
    expect_layer_works(ranks, scaled_in(5, members));
    expect_layer_works(ranks, scaled_in(5, members));
    ranks.expect_resets();
  }
  ranks.expect_works();
}

TEST(Elastic, FewerAndFewerRanksNeedNoReset) {
  Ranks ranks(4);
  expect_layer_works(ranks, plain_layer(4));
  expect_layer_works(ranks, scaled_in(4, {0, 2, 3}));
  expect_layer_works(ranks, scaled_in(4, {2, 0}));
  expect_layer_works(ranks, scaled_in(4, {2}));
  expect_layer_works(ranks, scaled_in(4, {2}));
  ranks.expect_resets();
  ranks.expect_works();
}

/// Rank 2 was left out of `calls` calls; then all ranks call.
void expect_left_out_rank_gets_an_error(int calls) {
  Ranks ranks(4);
  const LayerCase whole = plain_layer(4);
  const LayerCase part = scaled_in(4, {0, 1, 3});
  for (int i = 0; i < calls; ++i) {
    expect_members_dispatch(ranks, part);
  }
  const auto results = ranks.run([&](Group& group) {
    Status status = dispatch_only(group, whole.dispatch_args(group.rank()));
    EXPECT_TRUE(group.reset().ok());
    return status;
  });
  for (const Status& status : results) {
    EXPECT_FALSE(status.ok()) << calls;
  }
  // After one call the others' headers are still those of this rank's number: a mismatch.
  EXPECT_EQ(results[2].code(), calls == 1 ? StatusCode::kMismatch : StatusCode::kInvalidState)
      << "after " << calls << " calls: " << results[2].message();
  ranks.expect_works();
}

TEST(Elastic, ARankLeftOutGetsAnErrorFromTheWholeGroupUntilAReset) {
  for (const int calls : {1, 2, 3, 4, 7}) {
    expect_left_out_rank_gets_an_error(calls);
  }
}

TEST(Elastic, AfterAResetWithoutARankCallsMayNotIncludeIt) {
  Ranks ranks(3, 2s);
  const LayerCase whole = plain_layer(3);
  const LayerCase part = scaled_in(3, {2, 0});
  for (const Status& status : ranks.run([](Group& group) -> Status {
         if (group.rank() == 1) {
           return {};
         }
         auto members = group.reset();
         EXPECT_TRUE(!members.ok() || *members == (std::vector<int>{0, 2}));
         return members.status();
       })) {
    ASSERT_TRUE(status.ok()) << status.message();
  }
  for (int round = 0; round < 3; ++round) {
    const auto refused = ranks.run([&](Group& group) {
      return group.rank() == 1 ? Status() : barrier(group, {.world_size = 3});
    });
    for (const std::size_t r : {0U, 2U}) {
      ASSERT_EQ(refused[r].code(), StatusCode::kInvalidState);
      EXPECT_EQ(refused[r].info().ranks, std::vector<int>{1});
      EXPECT_NE(refused[r].message().find("one that includes rank 1"), std::string::npos)
          << refused[r].message();
    }
    // Those calls took a number on both ranks: they are still in step.
    expect_layer_works(ranks, part);
    const auto again = ranks.run([&](Group& group) {
      return group.rank() == 1 ? Status() : dispatch_only(group, whole.dispatch_args(group.rank()));
    });
    EXPECT_EQ(again[0].code(), StatusCode::kInvalidState);
    EXPECT_EQ(again[2].code(), StatusCode::kInvalidState);
  }
  EXPECT_EQ(ranks[0].stats().calls, ranks[2].stats().calls);
  // A rank that includes it alone makes the others see a refusal.
  const auto results = ranks.run([&](Group& group) {
    return group.rank() == 1   ? Status()
           : group.rank() == 0 ? dispatch_only(group, whole.dispatch_args(0))
                               : dispatch_only(group, part.dispatch_args(0));
  });
  EXPECT_EQ(results[0].code(), StatusCode::kInvalidState);
  EXPECT_EQ(results[2].code(), StatusCode::kMismatch);
  expect_layer_works(ranks, part);
}

/// What one rank passes differently: [flag, newE, newSR, newM, tables] of four ranks, M = 8.
struct Difference {
  const char* name;
  const char* value;
  std::vector<int> members;
  std::vector<int> other_members;  ///< of ranks 1 and, where it is only in these, 3
};

TEST(Elastic, DifferentPartsAreAMismatchOnEveryRank) {
  Ranks ranks(4);
  const std::vector<Difference> differences = {
      {"tables", "the same tables", {0, 1, 2}, {0, 1, 3}},
      {"order", "the same tables", {0, 1, 2}, {1, 0, 2}},
      {"size", "the same newE", {0, 1, 2}, {0, 1, 2, 3}},
  };
  for (const Difference& difference : differences) {
    const LayerCase layer = scaled_in(4, difference.members);
    const LayerCase other = scaled_in(4, difference.other_members);
    const auto results = ranks.run([&](Group& group) {
      const bool odd = group.rank() == 1 || layer.rank_in_layer(group.rank()) < 0;
      const LayerCase& own = odd ? other : layer;
      const int rank = own.rank_in_layer(group.rank());
      return rank < 0 ? Status(ErrorInfo{StatusCode::kMismatch, "", "elastic_info", {}, ""})
                      : dispatch_only(group, own.dispatch_args(rank));
    });
    for (const std::size_t r : {0U, 1U, 2U}) {
      ASSERT_EQ(results[r].code(), StatusCode::kMismatch) << results[r].message();
      EXPECT_EQ(results[r].info().argument, "elastic_info") << difference.name;
      EXPECT_NE(results[r].message().find(difference.value), std::string::npos)
          << results[r].message();
    }
    ranks.expect_resets();
    ranks.expect_works();
  }
}

TEST(Elastic, GivenOnSomeRanksOnlyIsAMismatch) {
  Ranks ranks(3);
  const LayerCase all = scaled_in(3, {0, 1, 2});
  LayerCase off = all;
  off.given.info[0] = 0;
  LayerCase none = plain_layer(3);
  none.global_bs = all.global_bs;
  struct Pair {
    const LayerCase& usual;
    const LayerCase& odd;
    const char* text;
  };
  for (const Pair& pair : {Pair{none, all, "None on ranks 0 and 2, 1 on rank 1"},
                           Pair{all, none, "None on rank 1, 1 on ranks 0 and 2"},
                           Pair{none, off, "None on ranks 0 and 2, 0 on rank 1"},
                           Pair{all, off, "0 on rank 1, 1 on ranks 0 and 2"}}) {
    const auto results = ranks.run([&](Group& group) {
      return dispatch_only(group,
                           (group.rank() == 1 ? pair.odd : pair.usual).dispatch_args(group.rank()));
    });
    for (const Status& status : results) {
      ASSERT_EQ(status.code(), StatusCode::kMismatch);
      EXPECT_EQ(status.info().argument, "elastic_info");
      EXPECT_NE(status.message().find(pair.text), std::string::npos) << status.message();
    }
    ranks.expect_works();
  }
}

TEST(Elastic, DifferentNumbersOfSharedRanksAreAMismatch) {
  Ranks ranks(4);
  // E = 4, SR = 2, M = 2 (L = 1); three ranks are left, of which one or two are shared.
  LayerCase one = scaled_in(4, {0, 1, 2});
  one.given.num_experts = 2;
  one.given.num_shared_ranks = 2;
  one.given.info[2] = 1;
  one.given.info[3] = 2;
  for (auto& rank : one.ranks) {
    rank.ids = {0, 0, 0, 0, 0, 0};
  }
  LayerCase two = one;
  two.given.info[2] = 2;
  two.given.info[3] = 1;
  const auto results = ranks.run([&](Group& group) {
    return group.rank() == 3
               ? Status()
               : dispatch_only(group, (group.rank() == 1 ? two : one).dispatch_args(group.rank()));
  });
  for (const std::size_t r : {0U, 1U, 2U}) {
    ASSERT_EQ(results[r].code(), StatusCode::kMismatch) << results[r].message();
    EXPECT_NE(results[r].message().find("the same newSR on all ranks, got 1 on ranks 0 and 2, 2"),
              std::string::npos)
        << results[r].message();
  }
  ranks.expect_resets();
  ranks.expect_works();
}

TEST(Elastic, AnIdPastTheNewExpertsIsARefusal) {
  Ranks ranks(4);
  LayerCase layer = scaled_in(4, {0, 1, 3});  // M = 8, newM = 6
  layer.num_zero = 1;
  layer.ranks[0].ids[3] = 8;  // a zero expert: its id did not change
  expect_layer_works(ranks, layer);
  layer.ranks[0].ids[3] = 7;
  const auto results = ranks.run([&](Group& group) {
    const int rank = layer.rank_in_layer(group.rank());
    return rank < 0 ? Status() : dispatch_only(group, layer.dispatch_args(rank));
  });
  EXPECT_EQ(results[0].code(), StatusCode::kInvalidArgument);
  EXPECT_NE(results[0].message().find("expected ids in [0, 6) or [8, 9) (-1 or false in "
                                      "x_active_mask leaves a choice out), got 7 at token 1, k 1"),
            std::string::npos)
      << results[0].message();
  EXPECT_EQ(results[1].code(), StatusCode::kMismatch);
  EXPECT_EQ(results[3].code(), StatusCode::kMismatch);
}

}  // namespace
}  // namespace waybill
