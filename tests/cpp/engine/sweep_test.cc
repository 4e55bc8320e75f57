#include <gtest/gtest.h>
#if defined(__SSE__)
#include <immintrin.h>
#endif
#include <rapidcheck/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "support/layer_case.h"
#include "support/run_layer.h"

namespace waybill {
namespace {

using testing::draw_case;
using testing::LayerCase;
using testing::ThreadGroup;
using testing::TpThreadGroup;

constexpr int kMaxRanks = 16;

/// One group for each size and thread count, used for all cases: calls of all kinds follow each
/// other over the same windows.
ThreadGroup& group_of(int num_ranks, int threads) {
  static std::map<std::pair<int, int>, std::unique_ptr<ThreadGroup>> groups;
  auto& group = groups[{num_ranks, threads}];
  if (!group) {
    group = std::make_unique<ThreadGroup>(num_ranks, threads);
  }
  return *group;
}

/// rapidcheck draws seeds; a failure prints the seed and the case.
void sweep(int cases, const std::function<std::string(std::uint64_t)>& run) {
  const auto property = [&] {
    const std::string text = run(*rc::gen::arbitrary<std::uint64_t>());
    if (!text.empty()) {
      RC_FAIL(text);
    }
  };
  rc::detail::TestParams params;
  params.seed = 20260601;
  params.maxSuccess = cases;
  rc::detail::TestMetadata metadata;
  metadata.id = "sweep";
  const auto result = rc::detail::checkTestable(property, metadata, params);
  std::ostringstream text;
  rc::detail::printResultMessage(result, text);
  EXPECT_TRUE(result.is<rc::detail::SuccessResult>()) << text.str();
}

std::string run_case(std::uint64_t seed, int max_ranks, int threads) {
  const LayerCase layer = draw_case(seed, max_ranks);
  return group_of(layer.given_ranks(), threads).run(layer);
}

TEST(Sweep, DrawsEveryForm) {
  std::map<std::string, int> seen;
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    const LayerCase layer = draw_case(seed, kMaxRanks);
    const bool occurrences = layer.form == IndexForm::kOccurrences;
    seen["left out"] += layer.is_scaled_in() && layer.num_ranks < layer.given_ranks() ? 1 : 0;
    seen["renumbered"] += layer.is_scaled_in() && layer.group_rank(0) != 0 ? 1 : 0;
    seen["other roles"] +=
        layer.is_scaled_in() && layer.num_shared_ranks != layer.given.num_shared_ranks ? 1 : 0;
    seen["flag off"] += layer.elastic() && !layer.is_scaled_in() ? 1 : 0;
    seen["v1"] += occurrences && !layer.set_up ? 1 : 0;
    seen["v1 with shared experts"] += occurrences && layer.num_shared_ranks > 0 ? 1 : 0;
    seen["norm of triples"] += layer.norm && !occurrences ? 1 : 0;
    seen["norm of occurrences"] += layer.norm && occurrences ? 1 : 0;
    seen["norm with constants"] += layer.norm && layer.num_constant > 0 ? 1 : 0;
    seen["constants"] += layer.num_constant > 0 && !layer.wide_alphas ? 1 : 0;
    seen["wide constants"] += layer.num_constant > 0 && layer.wide_alphas ? 1 : 0;
    seen["copies"] += layer.num_copy > 0 ? 1 : 0;
    seen["special and elastic"] += layer.num_special() > 0 && layer.is_scaled_in() ? 1 : 0;
    seen["set up"] += layer.set_up ? 1 : 0;
    seen["not routed, set up"] += layer.not_routed && layer.set_up ? 1 : 0;
    seen["not routed, v1 with shared experts"] +=
        layer.not_routed && occurrences && layer.num_shared_ranks > 0 ? 1 : 0;
    seen["not routed, smooth, with shared experts"] +=
        layer.not_routed && layer.smooth && layer.num_shared_ranks > 0 ? 1 : 0;
    seen["not routed, norm"] += layer.not_routed && layer.norm ? 1 : 0;
    seen["not routed, elastic"] += layer.not_routed && layer.is_scaled_in() ? 1 : 0;
    seen["not routed, constants"] += layer.not_routed && layer.num_constant > 0 ? 1 : 0;
    seen["set up, quantised on the way back"] += layer.set_up && layer.comm_quant_mode == 2 ? 1 : 0;
    seen["set up with a row for the shared expert"] +=
        layer.set_up && layer.smooth && layer.scale_of_shared ? 1 : 0;
  }
  for (const auto& [name, count] : seen) {
    EXPECT_GE(count, 10) << name;
  }
}

TEST(Sweep, TwoThousandCasesOverOneToSixteenRanks) {
  sweep(2000, [](std::uint64_t seed) { return run_case(seed, kMaxRanks, 1); });
}

TEST(Sweep, ThreadsInsideARankGiveTheSameBits) {
  sweep(200, [](std::uint64_t seed) { return run_case(seed, 4, 3); });
}

TEST(Sweep, TwoTpRanks) {
  std::map<int, std::unique_ptr<TpThreadGroup>> groups;
  sweep(400, [&](std::uint64_t seed) {
    const std::vector<LayerCase> pair = testing::draw_tp_pair(seed, 4);
    auto& group = groups[pair[0].num_ranks];
    if (!group) {
      group = std::make_unique<TpThreadGroup>(pair[0].num_ranks);
    }
    return group->run(pair);
  });
}

#if defined(__SSE__)
constexpr std::uint64_t kOddMode = 0xe040;  // flush to zero, denormals are zero, towards zero
std::uint64_t float_mode() { return _mm_getcsr(); }
void set_float_mode(std::uint64_t mode) { _mm_setcsr(static_cast<unsigned>(mode)); }
#elif defined(__aarch64__)
constexpr std::uint64_t kOddMode = 0x3c0'0000;  // default NaN, flush to zero, towards zero
std::uint64_t float_mode() {
  std::uint64_t mode = 0;
  asm volatile("mrs %0, fpcr" : "=r"(mode));
  return mode;
}
void set_float_mode(std::uint64_t mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
#else
constexpr std::uint64_t kOddMode = 0;
std::uint64_t float_mode() { return 0; }
void set_float_mode(std::uint64_t) {}
#endif

TEST(Sweep, TheCallersFloatingPointModeChangesNothing) {
  if (kOddMode == 0) {
    GTEST_SKIP() << "no such mode";
  }
  const std::uint64_t saved = float_mode();
  set_float_mode(saved | kOddMode);
  ThreadGroup& group = group_of(1, 1);
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    EXPECT_EQ(testing::run_layer(group.groups()[0], draw_case(seed, 1)), "");
    EXPECT_EQ(float_mode() & kOddMode, kOddMode);
  }
  set_float_mode(saved);
}

}  // namespace
}  // namespace waybill
