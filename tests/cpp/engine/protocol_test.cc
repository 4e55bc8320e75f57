#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "support/layer_case.h"
#include "support/ranks.h"
#include "support/run_layer.h"
#include "window/memory_budget.h"

namespace waybill {
namespace {

using namespace std::chrono_literals;
using testing::dispatch_only;
using testing::LayerCase;
using testing::plain_layer;
using testing::Ranks;

/// Each of these on one host, on two and on three: the same errors, the same ranks.
class ProtocolOverHosts : public testing::OverHosts {};
INSTANTIATE_TEST_SUITE_P(Hosts, ProtocolOverHosts, ::testing::Values(1, 2, 3));

TEST_P(ProtocolOverHosts, RefusalIsToldToTheOthersAndTheGroupGoesOn) {
  Ranks ranks(hosts(3));
  const LayerCase layer = plain_layer(3);
  for (int round = 0; round < 3; ++round) {
    const auto results = ranks.run([&](Group& group) {
      DispatchArgs args = layer.dispatch_args(group.rank());
      args.quant_mode = group.rank() == 1 ? 7 : 0;
      return dispatch_only(group, args);
    });
    EXPECT_EQ(results[1].code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(results[1].info().argument, "quant_mode");
    for (std::size_t r : {0U, 2U}) {
      EXPECT_EQ(results[r].code(), StatusCode::kMismatch);
      EXPECT_EQ(results[r].info().ranks, std::vector<int>{1});
      EXPECT_EQ(results[r].info().argument, "quant_mode");
      EXPECT_NE(results[r].message().find(results[1].message()), std::string::npos);
    }
    ranks.expect_works(static_cast<std::uint64_t>(round));
  }
}

TEST_P(ProtocolOverHosts, RefusalDoesNotWaitForTheOthers) {
  Ranks ranks(hosts(2));
  const LayerCase layer = plain_layer(2);
  DispatchArgs bad = layer.dispatch_args(0);
  bad.layer.comm_alg = "ring";
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(dispatch_only(ranks[0], bad).code(), StatusCode::kInvalidArgument);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 5s);
  EXPECT_EQ(dispatch_only(ranks[1], layer.dispatch_args(1)).code(), StatusCode::kMismatch);
  ranks.expect_works();
}

struct Difference {
  const char* argument;
  std::function<void(LayerCase&)> change;
  const char* value;
};

TEST_P(ProtocolOverHosts, MismatchNamesArgumentRanksAndValuesOnEveryRank) {
  const std::vector<Difference> differences = {
      {"x", [](LayerCase& l) { l.h = 8; }, "8 on rank 1"},
      {"x", [](LayerCase& l) { l.dtype = DType::kBFloat16; }, "bfloat16 on rank 1"},
      {"expert_ids", [](LayerCase& l) { l.k = 1; }, "1 on rank 1"},
      {"moe_expert_num", [](LayerCase& l) { l.num_experts = 12; }, "12 on rank 1"},
      {"quant_mode", [](LayerCase& l) { l.quantised = true; }, "2 on rank 1"},
      {"global_bs", [](LayerCase& l) { l.global_bs = 12; }, "12 on rank 1"},
      {"global_bs", [](LayerCase& l) { l.ranks[1].bs = 2; }, "6 on rank 1"},
      {"zero_expert_num", [](LayerCase& l) { l.num_zero = 2; }, "2 on rank 1"},
      {"copy_expert_num", [](LayerCase& l) { l.num_copy = 3; }, "3 on rank 1"},
      {"const_expert_num", [](LayerCase& l) { l.num_constant = 1; }, "1 on rank 1"},
      {"",
       [](LayerCase& l) { l.form = IndexForm::kOccurrences; },
       "npu_moe_distribute_dispatch on rank 1"},
      {"shared_expert_num",
       [](LayerCase& l) {
         l.num_shared = 1;
         l.num_shared_ranks = 1;
       },
       "1 on rank 1"},
  };
  Ranks ranks(hosts(3));
  for (const Difference& difference : differences) {
    const LayerCase layer = plain_layer(3);
    LayerCase other = layer;
    difference.change(other);
    const auto results = ranks.run([&](Group& group) {
      return dispatch_only(group, (group.rank() == 1 ? other : layer).dispatch_args(group.rank()));
    });
    for (const Status& status : results) {
      ASSERT_EQ(status.code(), StatusCode::kMismatch) << difference.argument;
      EXPECT_EQ(status.info().argument, difference.argument);
      EXPECT_EQ(status.info().ranks, std::vector<int>{1});
      EXPECT_NE(status.message().find(difference.value), std::string::npos) << status.message();
      EXPECT_NE(status.message().find("on ranks 0 and 2"), std::string::npos) << status.message();
      if (*difference.argument != '\0') {  // else each rank begins with its own operator
        EXPECT_EQ(status.message(), results[0].message());
      }
    }
    if (*difference.argument == '\0') {
      ranks.expect_resets();
    }
    ranks.expect_works();
  }
}

TEST_P(ProtocolOverHosts, DifferentOperatorsAreAMismatch) {
  Ranks ranks(hosts(2));
  const LayerCase layer = plain_layer(2);
  const std::vector<std::int32_t> counts(4, 0);
  const std::vector<std::int32_t> triples(3, 0);
  const auto results = ranks.run([&](Group& group) -> Status {
    if (group.rank() == 0) {
      return dispatch_only(group, layer.dispatch_args(0));
    }
    DispatchResult none;
    CombineArgs args = layer.combine_args(1, layer.x_view(1), none);
    args.ep_send_counts = TensorView::contiguous(counts.data(), DType::kInt32, {4});
    args.assist_info_for_combine = TensorView::contiguous(triples.data(), DType::kInt32, {3});
    return combine(group, args).status();
  });
  for (const Status& status : results) {
    ASSERT_EQ(status.code(), StatusCode::kMismatch);
    EXPECT_EQ(status.info().argument, "");
    EXPECT_EQ(status.info().ranks, (std::vector<int>{0, 1}));
    EXPECT_NE(status.message().find("npu_moe_distribute_combine_v2 on rank 1"), std::string::npos);
  }
  ranks.expect_resets();
  ranks.expect_works();
}

TEST_P(ProtocolOverHosts, TooManyDuplicatesAreTheSameErrorOnEveryRank) {
  Ranks ranks(hosts(2));
  LayerCase layer = plain_layer(2);
  layer.num_experts = 2;  // L = 1: a rank takes one row a token
  for (auto& rank : layer.ranks) {
    rank.ids.assign(6, 1);
  }
  const auto results = ranks.run(
      [&](Group& group) { return dispatch_only(group, layer.dispatch_args(group.rank())); });
  for (const Status& status : results) {
    ASSERT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find("A = 6"), std::string::npos) << status.message();
    EXPECT_NE(status.message().find("12 for rank 1"), std::string::npos) << status.message();
  }
  ranks.expect_works();
}

/// Runs dispatch on all ranks, lets `spoil` change what combine gets, and returns its errors.
std::vector<Status> spoiled_combine(Ranks& ranks,
                                    const LayerCase& layer,
                                    const std::function<void(int, DispatchResult&)>& spoil) {
  return ranks.run([&](Group& group) -> Status {
    auto sent = dispatch(group, layer.dispatch_args(group.rank()));
    if (!sent.ok()) {
      return sent.status();
    }
    spoil(group.rank(), *sent);
    return combine(group, layer.combine_args(group.rank(), sent->expand_x.view(), *sent)).status();
  });
}

TEST_P(ProtocolOverHosts, AMissingRowIsNamed) {
  Ranks ranks(hosts(2));
  const LayerCase layer = plain_layer(2);
  const auto results = spoiled_combine(ranks, layer, [](int rank, DispatchResult& sent) {
    if (rank == 0) {  // one row fewer comes back
      auto* counts = sent.ep_recv_counts.data<std::int32_t>();
      --counts[3];
    }
  });
  int errors = 0;
  for (const Status& status : results) {
    if (!status.ok()) {
      ++errors;
      EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
      EXPECT_NE(status.message().find("none from any rank"), std::string::npos);
    }
  }
  EXPECT_EQ(errors, 1);
  ranks.expect_resets();
  ranks.expect_works();
}

TEST_P(ProtocolOverHosts, ARowThatComesTwiceIsNamed) {
  Ranks ranks(hosts(2));
  const LayerCase layer = plain_layer(2);
  const auto results = spoiled_combine(ranks, layer, [](int rank, DispatchResult& sent) {
    if (rank == 0) {
      auto* triples = sent.assist_info_for_combine.data<std::int32_t>();
      std::copy(triples, triples + 3, triples + 3);
    }
  });
  int errors = 0;
  for (const Status& status : results) {
    errors += status.ok() ? 0 : 1;
    EXPECT_TRUE(status.ok() || status.info().argument == "assist_info_for_combine");
  }
  EXPECT_GE(errors, 1);
  ranks.expect_resets();
  ranks.expect_works();
}

TEST(Returns, ARankThatFailsAloneStillWaitsForTheReadersOfItsRows) {
  // Rank 0 misses a row and fails; rank 1 reads rank 0's rows late. Rank 0 overwrites its buffer as
  // soon as combine has returned: rank 1 must have read it by then.
  GroupOptions options;
  options.window_bytes = testing::kTestWindowBytes;
  thread_local bool slow = false;
  options.on_phase = [](Phase phase) {
    if (slow && phase == Phase::kPull) {
      std::this_thread::sleep_for(200ms);
    }
  };
  auto groups = Group::local(2, options);
  ASSERT_TRUE(groups.ok());
  const LayerCase layer = plain_layer(2);
  std::vector<Status> results(2);
  std::vector<float> first(2);
  std::vector<std::thread> threads;
  for (int r = 0; r < 2; ++r) {
    threads.emplace_back([&, r] {
      Group& group = (*groups)[static_cast<std::size_t>(r)];
      auto sent = dispatch(group, layer.dispatch_args(r));
      ASSERT_TRUE(sent.ok());
      auto* rows = sent->expand_x.data<float>();
      std::fill_n(rows, sent->rows * layer.h, 1.0F);
      CombineArgs args = layer.combine_args(r, sent->expand_x.view(), *sent);
      std::vector<std::int32_t> counts(sent->ep_recv_counts.data<std::int32_t>(),
                                       sent->ep_recv_counts.data<std::int32_t>() + 4);
      counts[3] -= r == 1 ? 1 : 0;  // rank 1 returns a row of rank 0 or its own less
      args.ep_send_counts = TensorView::contiguous(counts.data(), DType::kInt32, {4});
      slow = true;
      auto back = combine(group, args);
      std::fill_n(rows, sent->rows * layer.h, 99.0F);
      results[static_cast<std::size_t>(r)] = back.status();
      if (back.ok()) {
        first[static_cast<std::size_t>(r)] =
            *std::max_element(back->data<float>(), back->data<float>() + back->shape.product());
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  int failed = 0;
  for (std::size_t r = 0; r < 2; ++r) {
    failed += results[r].ok() ? 0 : 1;
    if (results[r].ok()) {
      EXPECT_EQ(first[r], 1.0F);
    }
  }
  EXPECT_EQ(failed, 1);
}

TEST_P(ProtocolOverHosts, TimeoutNamesTheRankAndAResetOfAllMakesTheGroupWhole) {
  Ranks ranks(hosts(3), 2s);
  const LayerCase layer = plain_layer(3);
  const auto results = ranks.run([&](Group& group) {
    return group.rank() == 2 ? Status() : dispatch_only(group, layer.dispatch_args(group.rank()));
  });
  for (std::size_t r : {0U, 1U}) {
    ASSERT_EQ(results[r].code(), StatusCode::kTimeout);
    EXPECT_EQ(results[r].info().ranks, std::vector<int>{2});
    EXPECT_NE(results[r].message().find("waiting for signals, call 1, epoch 1"), std::string::npos)
        << results[r].message();
  }
  const Status refused = dispatch_only(ranks[0], layer.dispatch_args(0));
  EXPECT_EQ(refused.code(), StatusCode::kInvalidState);
  EXPECT_NE(refused.message().find("reset"), std::string::npos);
  for (int round = 0; round < 3; ++round) {
    for (const Status& status : ranks.run([](Group& group) -> Status {
           auto members = group.reset();
           EXPECT_TRUE(!members.ok() || *members == (std::vector<int>{0, 1, 2}));
           return members.status();
         })) {
      EXPECT_TRUE(status.ok()) << status.message();
    }
    ranks.expect_works();
    EXPECT_EQ(ranks[1].stats().epoch, 2 + round);
  }
}

TEST_P(ProtocolOverHosts, ResetWakesARankThatWaitsInAnOldCall) {
  Ranks ranks(hosts(2), 10s);
  const LayerCase layer = plain_layer(2);
  const auto begin = std::chrono::steady_clock::now();
  const auto results = ranks.run([&](Group& group) -> Status {
    Status waited;
    if (group.rank() == 0) {
      waited = dispatch_only(group, layer.dispatch_args(0));
    }
    auto members = group.reset();
    EXPECT_TRUE(members.ok()) << members.status().message();
    return waited;
  });
  EXPECT_EQ(results[0].code(), StatusCode::kInvalidState);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 5s);
  ranks.expect_works();
}

TEST(Reset, AnInterruptEndsTheWaitAndAResetFollows) {
  std::atomic<bool> stop{false};
  GroupOptions options;
  options.timeout = 20s;
  options.window_bytes = testing::kTestWindowBytes;
  options.interrupted = [&] { return stop.load(); };
  auto groups = Group::local(2, options);
  ASSERT_TRUE(groups.ok());
  const LayerCase layer = plain_layer(2);
  std::thread later([&] {
    std::this_thread::sleep_for(100ms);
    stop = true;
  });
  const Status status = dispatch_only((*groups)[0], layer.dispatch_args(0));
  later.join();
  EXPECT_EQ(status.code(), StatusCode::kInterrupted);
  EXPECT_EQ(dispatch_only((*groups)[0], layer.dispatch_args(0)).code(), StatusCode::kInvalidState);
  stop = false;
  std::thread other([&] { EXPECT_TRUE((*groups)[1].reset().ok()); });
  EXPECT_TRUE((*groups)[0].reset().ok());
  other.join();
}

TEST(OneCallAtATime, ASecondThreadIsRefused) {
  Ranks ranks(2);
  const LayerCase layer = plain_layer(2);
  std::thread first([&] { EXPECT_TRUE(dispatch_only(ranks[0], layer.dispatch_args(0)).ok()); });
  std::this_thread::sleep_for(100ms);
  EXPECT_EQ(dispatch_only(ranks[0], layer.dispatch_args(0)).code(), StatusCode::kInvalidState);
  EXPECT_EQ(ranks[0].reset().status().code(), StatusCode::kInvalidState);
  EXPECT_TRUE(dispatch_only(ranks[1], layer.dispatch_args(1)).ok());
  first.join();
  ranks.expect_works();
}

TEST(Memory, TooLittleIsRefusedWithTheSizeAndNothingIsLost) {
  Ranks ranks(2);
  ranks.expect_works();
  auto& budget = window::MemoryBudget::process();
  LayerCase layer = plain_layer(2);
  layer.h = 100'000;
  layer.x_stride = layer.h;
  for (auto& rank : layer.ranks) {
    rank.x.resize(static_cast<std::size_t>(3 * layer.h * 4));
  }
  budget.set_limit(budget.reserved() + 1000);
  const auto results = ranks.run(
      [&](Group& group) { return dispatch_only(group, layer.dispatch_args(group.rank())); });
  budget.set_limit(std::nullopt);
  for (const Status& status : results) {
    EXPECT_EQ(status.code(), StatusCode::kOutOfMemory);
    EXPECT_NE(status.message().find("wanted"), std::string::npos);
    EXPECT_NE(status.message().find("WAYBILL_MAX_MEMORY"), std::string::npos);
  }
  ranks.expect_works();
}

TEST(Close, AReleasedGroupRefusesAndItsTensorsStay) {
  Ranks ranks(1);
  auto buffer = ranks[0].expert_buffer(2, 4, DType::kFloat32);
  ASSERT_TRUE(buffer.ok());
  buffer->data<float>()[7] = 3.0F;
  ranks[0].close(1s);
  EXPECT_EQ(buffer->data<float>()[7], 3.0F);
  EXPECT_EQ(dispatch_only(ranks[0], plain_layer(1).dispatch_args(0)).code(),
            StatusCode::kInvalidState);
  EXPECT_EQ(ranks[0].expert_buffer(1, 1, DType::kFloat32).status().code(),
            StatusCode::kInvalidState);
}

TEST(ExpertBuffer, ChecksItsArguments) {
  Ranks ranks(1);
  EXPECT_EQ(ranks[0].expert_buffer(-1, 4, DType::kFloat32).status().info().argument, "rows");
  EXPECT_EQ(ranks[0].expert_buffer(1, 0, DType::kFloat32).status().info().argument, "hidden");
  const Status huge = ranks[0].expert_buffer(std::int64_t{1} << 62, 4, DType::kFloat32).status();
  EXPECT_EQ(huge.code(), StatusCode::kOutOfMemory);
  EXPECT_EQ(huge.info().op, "expert_buffer");
  EXPECT_EQ(ranks[0].expert_buffer(1, 1, DType::kInt8).status().info().argument, "dtype");
}

TEST_P(ProtocolOverHosts, StatsCountRowsAndBytesPerPeer) {
  Ranks ranks(hosts(2));
  const LayerCase layer = plain_layer(2);
  const auto results = spoiled_combine(ranks, layer, [](int, DispatchResult&) {});
  for (const Status& status : results) {
    ASSERT_TRUE(status.ok()) << status.message();
  }
  std::int64_t received = 0;
  for (int r = 0; r < 2; ++r) {
    const GroupStats stats = ranks[r].stats();
    EXPECT_EQ(stats.calls, 2);
    EXPECT_EQ(stats.completed, 2);
    EXPECT_EQ(stats.bytes_published, 3 * 16 * 4);
    std::int64_t rows = 0;
    for (std::size_t p = 0; p < 2; ++p) {
      const GroupStats peer = ranks[static_cast<int>(p)].stats();
      EXPECT_EQ(stats.dispatch.rows_received[p],
                peer.dispatch.rows_sent[static_cast<std::size_t>(r)]);
      EXPECT_EQ(stats.combine.rows_received[p],
                peer.combine.rows_sent[static_cast<std::size_t>(r)]);
      EXPECT_EQ(stats.combine.rows_sent[p], stats.dispatch.rows_received[p]);
      rows += stats.dispatch.rows_received[p];
    }
    EXPECT_EQ(stats.bytes_copied, rows * 16 * 4);
    EXPECT_EQ(stats.rows_in_place, rows);
    received += rows;
  }
  EXPECT_EQ(received, 2 * 3 * 2);
}

}  // namespace
}  // namespace waybill
