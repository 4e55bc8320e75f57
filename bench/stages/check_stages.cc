#include <benchmark/benchmark.h>

#include <cstring>
#include <numeric>
#include <vector>

#include "contract/agreement.h"
#include "contract/dispatch_contract.h"
#include "stages.h"

namespace waybill::bench {
namespace {

using contract::Agreement;

constexpr int kRanks = 8;
constexpr contract::GroupFacts kGroup{.world_size = kRanks};

DispatchArgs legal_call() {
  return {.x = TensorView::contiguous(nullptr, DType::kBFloat16, {128, kHidden}),
          .expert_ids = TensorView::contiguous(nullptr, DType::kInt32, {128, kTopK}),
          .layer = {.ep_world_size = kRanks, .moe_expert_num = 64},
          .quant_mode = 2};
}

void contract_stage(benchmark::State& state) {
  const DispatchArgs args = legal_call();
  for (auto _ : state) {
    benchmark::DoNotOptimize(contract::check_dispatch(kGroup, args).ok());
  }
}

std::vector<Agreement> equal_headers(std::int64_t count) {
  const DispatchArgs args = legal_call();
  const Agreement one = contract::agreement_of(*contract::check_dispatch(kGroup, args), args);
  return std::vector<Agreement>(static_cast<std::size_t>(count), one);
}

void headers_stage(benchmark::State& state) {
  const std::vector<Agreement> headers = equal_headers(state.range(0));
  std::vector<int> members(headers.size());
  std::iota(members.begin(), members.end(), 0);
  const std::vector<std::uint32_t> completed(headers.size(), 0);
  const contract::Checker check(contract::Operator::kDispatchV2, kGroup);
  for (auto _ : state) {
    benchmark::DoNotOptimize(contract::compare(check, headers, members, completed).status.ok());
  }
}

void ceiling_stage(benchmark::State& state) {
  const std::vector<Agreement> headers = equal_headers(state.range(0));
  for (auto _ : state) {
    for (const Agreement& header : headers) {
      benchmark::DoNotOptimize(std::memcmp(&header, headers.data(), sizeof(header)));
    }
  }
}

}  // namespace

void register_check_stages() {
  benchmark::RegisterBenchmark("check_dispatch", contract_stage);
  benchmark::RegisterBenchmark("ceiling/memcmp_of_headers/E", ceiling_stage)
      ->RangeMultiplier(2)
      ->Range(2, 16);
  benchmark::RegisterBenchmark("compare_headers/E", headers_stage)
      ->RangeMultiplier(2)
      ->Range(2, 16);
}

}  // namespace waybill::bench
