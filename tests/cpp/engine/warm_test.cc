#include <gtest/gtest.h>
#include <sys/resource.h>

#include <functional>
#include <string_view>
#include <thread>
#include <vector>

#include "support/counting_new.h"
#include "support/layer_case.h"
#include "support/run_layer.h"

namespace waybill {
namespace {

using testing::LayerCase;

constexpr int kRanks = 4;
constexpr std::int64_t kTokens = 32;
constexpr std::int64_t kHidden = 7168;
constexpr std::int64_t kTopK = 8;
constexpr std::int64_t kExperts = 32;
constexpr std::int64_t kWindow = std::int64_t{4} << 30;

/// BS=32, H=7168, K=8 over four ranks in bfloat16.
LayerCase big_layer() {
  LayerCase layer;
  layer.num_ranks = kRanks;
  layer.h = kHidden;
  layer.x_stride = kHidden;
  layer.k = kTopK;
  layer.num_experts = kExperts;
  std::uint32_t random = 1;
  for (int r = 0; r < kRanks; ++r) {
    LayerCase::RankInput input;
    input.bs = kTokens;
    input.x.resize(static_cast<std::size_t>(kTokens * kHidden * 2));
    for (std::size_t i = 0; i < input.x.size(); i += 2) {
      random = random * 1664525U + 1013904223U;
      input.x[i] = static_cast<std::byte>(random >> 24);
      input.x[i + 1] = std::byte{0x3f};
    }
    for (std::int32_t i = 0; i < kTokens * kTopK; ++i) {
      random = random * 1664525U + 1013904223U;
      const auto first = static_cast<std::int32_t>(random >> 27);
      input.ids.push_back(first);
    }
    for (std::int64_t t = 0; t < kTokens; ++t) {  // distinct experts in a token
      for (std::int64_t j = 0; j < kTopK; ++j) {
        input.ids[static_cast<std::size_t>(t * kTopK + j)] = static_cast<std::int32_t>(
            (input.ids[static_cast<std::size_t>(t * kTopK)] + 3 * j) % kExperts);
      }
    }
    input.weights.assign(static_cast<std::size_t>(kTokens * kTopK), 0.125F);
    input.dispatch_scales = input.weights;
    layer.ranks.push_back(std::move(input));
  }
  return layer;
}

GroupOptions big_windows() {
  GroupOptions options;
  options.window_bytes = kWindow;
  options.threads = 1;
  return options;
}

std::int64_t page_faults() {
  rusage usage{};
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_minflt + usage.ru_majflt;
}

void on_all(std::vector<Group>& groups, const std::function<void(Group&)>& body) {
  std::vector<std::thread> threads;
  for (Group& group : groups) {
    threads.emplace_back([&] { body(group); });
  }
  for (auto& thread : threads) {
    thread.join();
  }
}

/// One dispatch and one in-place combine.
void call_once(Group& group, const LayerCase& layer) {
  auto sent = dispatch(group, layer.dispatch_args(group.rank()));
  ASSERT_TRUE(sent.ok()) << sent.status().message();
  auto back = combine(group, layer.combine_args(group.rank(), sent->expand_x.view(), *sent));
  ASSERT_TRUE(back.ok()) << back.status().message();
}

TEST(Warm, ACallNeitherAllocatesNorFaultsAndCopiesARowOnce) {
  if (!testing::allocations_are_counted()) {
    GTEST_SKIP() << "sanitizers allocate and fault themselves";
  }
  const LayerCase layer = big_layer();
  auto groups = Group::local(kRanks, big_windows());
  ASSERT_TRUE(groups.ok());
  on_all(*groups, [&](Group& group) {
    for (int i = 0; i < 6; ++i) {
      call_once(group, layer);
    }
    const GroupStats before = group.stats();
    const std::int64_t faults = page_faults();
    const std::int64_t made = testing::allocations();
    for (int i = 0; i < 4; ++i) {
      call_once(group, layer);
    }
    EXPECT_EQ(testing::allocations() - made, 0);
    EXPECT_EQ(page_faults() - faults, 0);
    const GroupStats after = group.stats();
    std::int64_t rows = 0;
    for (std::size_t p = 0; p < kRanks; ++p) {
      rows += after.dispatch.rows_received[p] - before.dispatch.rows_received[p];
    }
    EXPECT_EQ(after.bytes_copied - before.bytes_copied, rows * kHidden * 2);
    EXPECT_EQ(after.bytes_published - before.bytes_published, 4 * kTokens * kHidden * 2);
    EXPECT_EQ(after.rows_in_place - before.rows_in_place, rows);
  });
}

std::uint64_t hash_of(const std::byte* data, std::int64_t bytes) {
  return std::hash<std::string_view>{}(
      std::string_view(reinterpret_cast<const char*>(data), static_cast<std::size_t>(bytes)));
}

/// Hash of all that the contract specifies of a result.
std::uint64_t hash_of(const DispatchResult& result) {
  return hash_of(result.expand_x.buffer.data(), result.rows * kHidden * 2) ^
         hash_of(result.assist_info_for_combine.buffer.data(), result.rows * 12) ^
         hash_of(result.ep_recv_counts.buffer.data(), result.ep_recv_counts.shape[0] * 4) ^
         hash_of(result.expert_token_nums.buffer.data(), result.expert_token_nums.shape[0] * 8);
}

TEST(Outputs, AreNeverOverwrittenWhileHeldAndGoBackAfterwards) {
  const LayerCase layer = big_layer();
  auto groups = Group::local(kRanks, big_windows());
  ASSERT_TRUE(groups.ok());
  constexpr int kCalls = 50;
  on_all(*groups, [&](Group& group) {
    std::vector<DispatchResult> held;
    std::vector<Tensor> sums;
    std::vector<std::uint64_t> hashes;
    for (int i = 0; i < 2 * kCalls; ++i) {
      auto sent = dispatch(group, layer.dispatch_args(group.rank()));
      ASSERT_TRUE(sent.ok()) << sent.status().message();
      auto back = combine(group, layer.combine_args(group.rank(), sent->expand_x.view(), *sent));
      ASSERT_TRUE(back.ok()) << back.status().message();
      if (i < kCalls) {
        hashes.push_back(hash_of(*sent) ^ hash_of(back->buffer.data(), kTokens * kHidden * 2));
        held.push_back(std::move(*sent));
        sums.push_back(std::move(*back));
      }
    }
    for (std::size_t i = 0; i < kCalls; ++i) {
      ASSERT_EQ(hash_of(held[i]) ^ hash_of(sums[i].buffer.data(), kTokens * kHidden * 2),
                hashes[i]);
    }
    EXPECT_EQ(group.stats().pool_buffers, kCalls * 8);
    held.clear();
    sums.clear();
    EXPECT_EQ(group.stats().pool_buffers, 0);
    EXPECT_EQ(group.stats().pool_bytes_in_use, 0);
  });
}

TEST(Outputs, CostTheRowsReceivedNotTheWorstCase) {
  LayerCase layer = big_layer();
  for (auto& rank : layer.ranks) {  // everything goes to rank 0: the others receive nothing
    for (std::size_t i = 0; i < rank.ids.size(); ++i) {
      rank.ids[i] = static_cast<std::int32_t>(i % kTopK);
    }
  }
  auto groups = Group::local(kRanks, big_windows());
  ASSERT_TRUE(groups.ok());
  on_all(*groups, [&](Group& group) {
    auto sent = dispatch(group, layer.dispatch_args(group.rank()));
    ASSERT_TRUE(sent.ok());
    const std::int64_t rows = kRanks * kTokens * kTopK;
    EXPECT_EQ(sent->rows, group.rank() == 0 ? rows : 0);
    EXPECT_EQ(sent->expand_x.shape[0], rows);
    const std::int64_t pool = group.stats().pool_bytes;
    if (group.rank() == 0) {
      EXPECT_GE(pool, rows * kHidden * 2);
    } else {
      EXPECT_LT(pool, 1 << 20);
    }
  });
}

TEST(Repeats, AThousandCallsGiveOneHash) {
  const LayerCase layer = testing::draw_case(4242, 8);
  testing::ThreadGroup ranks(layer.given_ranks());
  for (int i = 0; i < 1000; ++i) {
    ASSERT_EQ(ranks.run(layer), "");  // compared bit for bit with the same model every time
  }
}

}  // namespace
}  // namespace waybill
