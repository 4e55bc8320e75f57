#include <gtest/gtest.h>
#if defined(__SSE__)
#include <immintrin.h>
#endif
#include <rapidcheck/gtest.h>

#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <utility>

#include "support/layer_case.h"
#include "support/run_layer.h"

namespace waybill {
namespace {

using testing::draw_case;
using testing::LayerCase;
using testing::ThreadGroup;

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
void sweep(int cases, int max_ranks, int threads) {
  const auto property = [&] {
    const auto seed = *rc::gen::arbitrary<std::uint64_t>();
    const LayerCase layer = draw_case(seed, max_ranks);
    const std::string text = group_of(layer.num_ranks, threads).run(layer);
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

TEST(Sweep, TwoThousandCasesOverOneToSixteenRanks) { sweep(2000, kMaxRanks, 1); }

TEST(Sweep, ThreadsInsideARankGiveTheSameBits) { sweep(100, 4, 3); }

TEST(Sweep, TheCallersFloatingPointModeChangesNothing) {
#if defined(__SSE__)
  const unsigned saved = _mm_getcsr();
  _mm_setcsr(saved | 0xe040);  // flush to zero, denormals are zero, round towards zero
  ThreadGroup& group = group_of(1, 1);
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const LayerCase layer = draw_case(seed, 1);
    EXPECT_EQ(testing::run_layer(group.groups()[0], layer), "");
    EXPECT_EQ(_mm_getcsr() & 0xe040, 0xe040U);
  }
  _mm_setcsr(saved);
#else
  GTEST_SKIP() << "no such mode";
#endif
}

}  // namespace
}  // namespace waybill
