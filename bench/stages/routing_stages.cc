#include <benchmark/benchmark.h>

#include <cstring>
#include <random>
#include <vector>

#include "contract/check.h"
#include "contract/topology.h"
#include "routing/receive_plan.h"
#include "routing/send_plan.h"
#include "stages.h"

namespace waybill::bench {
namespace {

using contract::Checker;
using contract::Operator;
using contract::Topology;
using routing::Cell;
using routing::SendCounts;
using routing::SourceRouting;

constexpr int kRanks = 8;
constexpr std::int64_t kExperts = 64;

Topology topology() {
  return {.num_ranks = kRanks,
          .num_experts = kExperts,
          .special_begin = kExperts,
          .special_end = kExperts};
}

/// K different experts a token.
std::vector<std::int32_t> draw_ids(std::int64_t bs) {
  std::mt19937 random(1);
  std::vector<std::int32_t> ids;
  for (std::int64_t t = 0; t < bs; ++t) {
    const auto first = static_cast<std::int32_t>(random() % kExperts);
    const auto step = static_cast<std::int32_t>(2 * (random() % (kExperts / 2)) + 1);
    for (std::int32_t k = 0; k < kTopK; ++k) {
      ids.push_back((first + k * step) % static_cast<std::int32_t>(kExperts));
    }
  }
  return ids;
}

/// The ids of one rank and what routing makes of them, in memory that is reused as a call does.
class Routed {
 public:
  explicit Routed(std::int64_t bs) : bs_(bs), ids_(draw_ids(bs)) {
    count();
    entries_.resize(static_cast<std::size_t>(counts_.num_entries));
  }

  bool count() { return routing::count(check_, topology(), all_, counts_).ok(); }
  void sort() { routing::sort_by_expert(counts_, all_, cursor_, entries_); }
  SourceRouting source() const {
    return {counts_.expert_offsets.data(), counts_.num_entries, counts_.num_active};
  }
  const std::int32_t* ids() const { return ids_.data(); }
  std::int32_t* entries() { return entries_.data(); }
  std::size_t id_bytes() const { return ids_.size() * sizeof(std::int32_t); }

 private:
  TensorView ids_view() const {
    return TensorView::contiguous(ids_.data(), DType::kInt32, {bs_, kTopK});
  }

  const std::int64_t bs_;
  const std::vector<std::int32_t> ids_;
  const Checker check_{Operator::kDispatchV2, {.world_size = kRanks}};
  const routing::ActivePairs all_{std::nullopt, ids_view()};
  SendCounts counts_;
  std::vector<std::int32_t> cursor_;
  std::vector<std::int32_t> entries_;
};

void count_stage(benchmark::State& state) {
  Routed routed(state.range(0));
  for (auto _ : state) {
    benchmark::DoNotOptimize(routed.count());
  }
  state.SetItemsProcessed(state.iterations() * state.range(0) * kTopK);
}

void sort_stage(benchmark::State& state) {
  Routed routed(state.range(0));
  for (auto _ : state) {
    routed.sort();
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * state.range(0) * kTopK);
}

void plan_stage(benchmark::State& state) {
  const Routed routed(state.range(0));
  const std::vector<SourceRouting> sources(kRanks, routed.source());
  std::vector<Cell> cells;
  for (auto _ : state) {
    benchmark::DoNotOptimize(routing::plan_receive(topology(), sources, cells));
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(cells.size()));
}

/// The ids copied once: what count and sort at least read and write.
void ceiling_stage(benchmark::State& state) {
  Routed routed(state.range(0));
  for (auto _ : state) {
    std::memcpy(routed.entries(), routed.ids(), routed.id_bytes());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * state.range(0) * kTopK);
}

}  // namespace

void register_routing_stages() {
  using Stage = void (*)(benchmark::State&);
  const std::pair<const char*, Stage> stages[] = {{"ceiling/copy_of_ids/BS", ceiling_stage},
                                                  {"routing_count/BS", count_stage},
                                                  {"routing_sort/BS", sort_stage},
                                                  {"routing_plan_receive/BS", plan_stage}};
  for (const auto& [name, stage] : stages) {
    benchmark::RegisterBenchmark(name, stage)->Arg(8)->Arg(128)->Arg(1024);
  }
}

}  // namespace waybill::bench
