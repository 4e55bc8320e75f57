// Errors of calls with TP = 2: each of four ranks is in an EP group and in a TP group.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "support/ranks.h"
#include "waybill/barrier.h"

namespace waybill {
namespace {

using namespace std::chrono_literals;
using testing::LayerCase;
using testing::on_threads;
using testing::plain_layer;
using testing::Ranks;
using testing::run_layer;
using testing::status_of;

/// Two EP groups of two and two TP groups of two.
class TpRanks {
 public:
  explicit TpRanks(std::chrono::milliseconds timeout = 20s) {
    for (int i = 0; i < 2; ++i) {
      ep_.emplace_back(2, timeout);
      tp_.emplace_back(2, timeout);
    }
  }
  struct Place {
    int tp_rank, rank;
    Group& ep;
    Group& tp;
    /// As it is listed in results.
    static std::size_t index(int tp_rank, int rank) {
      return static_cast<std::size_t>(2 * rank + tp_rank);
    }
  };
  std::vector<Status> run(const std::function<Status(const Place&)>& body) {
    return on_threads(4, [&](std::size_t i) {
      const int tp_rank = static_cast<int>(i % 2);
      const int rank = static_cast<int>(i / 2);
      return body({tp_rank, rank, ep_[i % 2][rank], tp_[i / 2][tp_rank]});
    });
  }
  void expect_works(std::uint64_t seed = 1) {
    std::vector<LayerCase> pair;
    do {
      pair = testing::draw_tp_pair(seed++, 2);
    } while (pair[0].num_ranks != 2);
    testing::expect_all_ok(run([&](const Place& place) {
      return status_of(run_layer(place.ep,
                                 pair[static_cast<std::size_t>(place.tp_rank)],
                                 {&place.tp, &pair[static_cast<std::size_t>(1 - place.tp_rank)]}));
    }));
  }
  void expect_resets() {
    testing::expect_all_ok(run([](const Place& place) {
      Status status = place.ep.reset().status();
      return status.ok() ? place.tp.reset().status() : status;
    }));
  }

 private:
  std::vector<Ranks> ep_;  ///< by TP rank
  std::vector<Ranks> tp_;  ///< by EP rank
};

using Place = TpRanks::Place;

/// One expert a rank, TP = 2.
LayerCase tp_layer(int tp_rank) {
  LayerCase layer = plain_layer(2, 1);
  for (auto& rank : layer.ranks) {
    rank.ids = {0, 1, 1, 0, 0, 1};
  }
  layer.tp_rank = tp_rank;
  return layer;
}

DispatchArgs dispatch_args(const LayerCase& layer, const Place& place) {
  DispatchArgs args = layer.dispatch_args(place.rank);
  args.tp_group = &place.tp;
  return args;
}

Status run_dispatch(const Place& place) {
  const LayerCase layer = tp_layer(place.tp_rank);
  return dispatch(place.ep, dispatch_args(layer, place)).status();
}

TEST(Tp, ARefusalIsSeenByBothGroupsWhichGoOnAtOnce) {
  TpRanks ranks;
  for (int round = 0; round < 3; ++round) {
    const auto results = ranks.run([](const Place& place) {
      const LayerCase layer = tp_layer(place.tp_rank);
      DispatchArgs args = dispatch_args(layer, place);
      args.quant_mode = place.tp_rank == 1 && place.rank == 0 ? 7 : 0;
      return dispatch(place.ep, args).status();
    });
    const Status& bad = results[Place::index(1, 0)];
    ASSERT_EQ(bad.code(), StatusCode::kInvalidArgument) << bad.message();
    const Status& ep_peer = results[Place::index(1, 1)];
    EXPECT_EQ(ep_peer.code(), StatusCode::kMismatch);
    EXPECT_EQ(ep_peer.info().ranks, std::vector<int>{0});
    const Status& tp_peer = results[Place::index(0, 0)];
    EXPECT_EQ(tp_peer.code(), StatusCode::kMismatch);
    EXPECT_EQ(tp_peer.info().ranks, std::vector<int>{1});
    for (const Status& status : results) {
      ASSERT_FALSE(status.ok());
      EXPECT_EQ(status.info().argument, "quant_mode") << status.message();
      EXPECT_NE(status.message().find(bad.message()), std::string::npos) << status.message();
    }
    ranks.expect_works(static_cast<std::uint64_t>(round));
  }
}

TEST(Tp, ARefusalOfCombineToo) {
  TpRanks ranks;
  const auto results = ranks.run([](const Place& place) -> Status {
    const LayerCase layer = tp_layer(place.tp_rank);
    auto sent = dispatch(place.ep, dispatch_args(layer, place));
    if (!sent.ok()) {
      return sent.status();
    }
    CombineArgs args = layer.combine_args(place.rank, sent->expand_x.view(), *sent);
    args.tp_group = &place.tp;
    args.layer.comm_alg = place.tp_rank == 0 && place.rank == 1 ? "ring" : "";
    return combine(place.ep, args).status();
  });
  EXPECT_EQ(results[Place::index(0, 1)].code(), StatusCode::kInvalidArgument);
  for (const Status& status : results) {
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.info().argument, "comm_alg") << status.message();
  }
  EXPECT_EQ(results[Place::index(0, 0)].code(), StatusCode::kMismatch);
  EXPECT_EQ(results[Place::index(1, 1)].code(), StatusCode::kMismatch);
  ranks.expect_works();
}

TEST(Tp, CountsThatThePeersDoNotShareAreAnErrorOfBoth) {
  TpRanks ranks;
  const auto results = ranks.run([](const Place& place) -> Status {
    const LayerCase layer = tp_layer(place.tp_rank);
    auto sent = dispatch(place.ep, dispatch_args(layer, place));
    if (!sent.ok()) {
      return sent.status();
    }
    if (place.tp_rank == 1 && place.rank == 0) {
      --sent->tp_recv_counts.data<std::int32_t>()[0];
    }
    CombineArgs args = layer.combine_args(place.rank, sent->expand_x.view(), *sent);
    args.tp_group = &place.tp;
    return combine(place.ep, args).status();
  });
  for (const int tp_rank : {0, 1}) {
    const Status& status = results[Place::index(tp_rank, 0)];
    ASSERT_EQ(status.code(), StatusCode::kInvalidArgument) << status.message();
    EXPECT_EQ(status.info().argument, "tp_send_counts");
    EXPECT_EQ(results[Place::index(tp_rank, 1)].code(), StatusCode::kMismatch);
  }
  ranks.expect_works();
}

TEST(Tp, DifferentArgumentsOfPeersAreAMismatch) {
  TpRanks ranks;
  const auto results = ranks.run([](const Place& place) {
    LayerCase layer = tp_layer(place.tp_rank);
    layer.num_zero = place.tp_rank;  // alike in each EP group
    return dispatch(place.ep, dispatch_args(layer, place)).status();
  });
  for (const Status& status : results) {
    ASSERT_EQ(status.code(), StatusCode::kMismatch) << status.message();
    EXPECT_EQ(status.info().argument, "zero_expert_num");
  }
  ranks.expect_works();
}

TEST(Tp, PeersHaveTheSameEpRank) {
  // The TP groups are crossed: EP rank 0 of one EP group with EP rank 1 of the other.
  std::vector<Ranks> ep;
  std::vector<Ranks> tp;
  for (int i = 0; i < 2; ++i) {
    ep.emplace_back(2);
    tp.emplace_back(2);
  }
  const auto results = on_threads(4, [&](std::size_t i) {
    const int tp_rank = static_cast<int>(i % 2);
    const int rank = static_cast<int>(i / 2);
    return run_dispatch({tp_rank, rank, ep[i % 2][rank], tp[(i / 2 + i) % 2][tp_rank]});
  });
  for (const Status& status : results) {
    ASSERT_EQ(status.code(), StatusCode::kMismatch) << status.message();
    EXPECT_EQ(status.info().argument, "ep_rank_id");
  }
}

TEST(Tp, TheTpGroupIsAnotherGroup) {
  Ranks ranks(2);
  const LayerCase layer = tp_layer(0);
  const auto results = ranks.run([&](Group& group) {
    LayerCase own = layer;
    own.tp_rank = group.rank();
    DispatchArgs args = own.dispatch_args(group.rank());
    args.tp_group = &group;
    return dispatch(group, args).status();
  });
  for (const Status& status : results) {
    EXPECT_FALSE(status.ok());
  }
  ranks.expect_works();
}

TEST(Tp, ATimeoutOfOneEpGroupFailsThePeersAndBothGroupsNeedAReset) {
  TpRanks ranks(2s);
  const auto results = ranks.run([](const Place& place) {
    return place.tp_rank == 0 && place.rank == 1 ? Status() : run_dispatch(place);
  });
  EXPECT_EQ(results[Place::index(0, 0)].code(), StatusCode::kTimeout);
  EXPECT_EQ(results[Place::index(0, 0)].info().ranks, std::vector<int>{1});
  EXPECT_FALSE(results[Place::index(1, 0)].ok());                       // its TP peer
  EXPECT_EQ(results[Place::index(1, 1)].code(), StatusCode::kTimeout);  // of the TP group
  const auto again = ranks.run([](const Place& place) {
    return place.tp_rank == 0 && place.rank == 1 ? Status() : run_dispatch(place);
  });
  for (const auto& [tp_rank, rank] : {std::pair{0, 0}, {1, 0}, {1, 1}}) {
    const Status& status = again[Place::index(tp_rank, rank)];
    EXPECT_EQ(status.code(), StatusCode::kInvalidState) << status.message();
    EXPECT_NE(status.message().find("reset"), std::string::npos) << status.message();
  }
  const auto tp_groups = ranks.run([](const Place& place) {
    return place.rank == 1 ? Status() : barrier(place.tp, {.world_size = 2});
  });
  EXPECT_EQ(tp_groups[Place::index(0, 0)].code(), StatusCode::kInvalidState);
  EXPECT_EQ(tp_groups[Place::index(1, 0)].code(), StatusCode::kInvalidState);
  ranks.expect_resets();
  ranks.expect_works();
}

// The TP group's call takes the members of the call before: here each rank pulls from itself.
TEST(Tp, AnEarlierCallOfTheTpGroupDoesNotChooseItsMembers) {
  TpRanks ranks;
  const std::vector<std::int32_t> swapped = {1, 2, 0, 0, 1, 0, 1, 0};
  const TensorView info = TensorView::contiguous(swapped.data(), DType::kInt32, {8});
  testing::expect_all_ok(ranks.run([&](const Place& place) {
    return barrier(place.tp, {.world_size = 2, .elastic_info = info});
  }));
  ranks.expect_works();
}

// As above, with one member: headers are read past their end.
TEST(Tp, ACallAfterAResetWithoutThePeerIsRefused) {
  TpRanks ranks(2s);
  const auto results = ranks.run([](const Place& place) -> Status {
    if (place.tp_rank == 1) {
      return {};
    }
    auto members = place.tp.reset();
    EXPECT_TRUE(!members.ok() || *members == std::vector<int>{0});
    return members.ok() ? run_dispatch(place) : members.status();
  });
  for (const int rank : {0, 1}) {
    const Status& status = results[Place::index(0, rank)];
    EXPECT_EQ(status.code(), StatusCode::kInvalidState) << status.message();
    EXPECT_TRUE(!status.ok() && status.info().ranks == std::vector<int>{1}) << status.message();
  }
}

/// A call that one rank makes without its TP group, since it got an argument wrong: its peer does
/// not hear of it, and must not take the rank's next call for this one.
TEST(Tp, AFailureThatThePeerDidNotHearOfIsOutOfStep) {
  TpRanks ranks;
  const auto results = ranks.run([](const Place& place) -> Status {
    const LayerCase layer = tp_layer(place.tp_rank);
    Status first;
    for (int call = 1; call <= 2; ++call) {
      DispatchArgs args = dispatch_args(layer, place);
      if (call == 1 && place.tp_rank == 0 && place.rank == 1) {
        args.tp_world_size = 0;
      }
      Status status = dispatch(place.ep, args).status();
      first = first.ok() ? std::move(status) : std::move(first);
    }
    return first;
  });
  for (const Status& status : results) {
    EXPECT_FALSE(status.ok());
  }
  EXPECT_NE(results[Place::index(1, 1)].message().find("out of step"), std::string::npos)
      << results[Place::index(1, 1)].message();
  ranks.expect_resets();
  ranks.expect_works();
}

}  // namespace
}  // namespace waybill
