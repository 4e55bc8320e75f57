#include "engine/store_choice.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>

namespace waybill::engine {
namespace {

using numerics::StoreKind;
using std::chrono::nanoseconds;

constexpr std::int64_t kBytes = std::int64_t{4} << 20;

/// Copies `count` times, each way in the time given; how often streaming was chosen.
int pull(StoreChoice& choice,
         int count,
         nanoseconds ordinary,
         nanoseconds streaming,
         std::int64_t bytes = kBytes) {
  int streamed = 0;
  for (int i = 0; i < count; ++i) {
    const StoreKind kind = choice.begin_pull(bytes);
    choice.note(bytes, kind, kind == StoreKind::kStreaming ? streaming : ordinary);
    streamed += kind == StoreKind::kStreaming ? 1 : 0;
  }
  return streamed;
}

TEST(StoreChoice, TriesBothAndStaysWithTheFaster) {
  StoreChoice slow_streams;
  EXPECT_EQ(pull(slow_streams, 6, nanoseconds(100), nanoseconds(300)), 3);
  EXPECT_EQ(pull(slow_streams, 200, nanoseconds(100), nanoseconds(300)), 0);
  EXPECT_EQ(slow_streams.for_rows(kBytes), StoreKind::kOrdinary);
  StoreChoice fast_streams;
  EXPECT_EQ(pull(fast_streams, 6, nanoseconds(300), nanoseconds(100)), 3);
  EXPECT_EQ(pull(fast_streams, 200, nanoseconds(300), nanoseconds(100)), 200);
  EXPECT_EQ(fast_streams.for_rows(kBytes), StoreKind::kStreaming);
}

TEST(StoreChoice, FollowsWhenTheOtherOneBecomesFaster) {
  StoreChoice choice;
  pull(choice, 200, nanoseconds(100), nanoseconds(300));
  // The next trial finds out.
  pull(choice, 256, nanoseconds(300), nanoseconds(100));
  EXPECT_EQ(choice.for_rows(kBytes), StoreKind::kStreaming);
  EXPECT_GE(pull(choice, 256, nanoseconds(300), nanoseconds(100)), 253);
}

TEST(StoreChoice, OneDisturbedCopyChangesNothing) {
  StoreChoice choice;
  pull(choice, 100, nanoseconds(100), nanoseconds(130));
  pull(choice, 1, nanoseconds(1'000'000), nanoseconds(130));
  EXPECT_EQ(choice.for_rows(kBytes), StoreKind::kOrdinary);
}

TEST(StoreChoice, KnowsEachSizeByItself) {
  StoreChoice choice;
  pull(choice, 100, nanoseconds(100), nanoseconds(300), std::int64_t{1} << 20);
  pull(choice, 100, nanoseconds(300), nanoseconds(100), std::int64_t{64} << 20);
  EXPECT_EQ(choice.for_rows(std::int64_t{1} << 20), StoreKind::kOrdinary);
  EXPECT_EQ(choice.for_rows(std::int64_t{64} << 20), StoreKind::kStreaming);
}

TEST(StoreChoice, SmallCopiesStayInTheCache) {
  StoreChoice choice;
  EXPECT_EQ(pull(choice, 50, nanoseconds(300), nanoseconds(100), 4096), 0);
  EXPECT_EQ(choice.for_rows(0), StoreKind::kOrdinary);
  EXPECT_EQ(choice.for_tokens(4096), StoreKind::kOrdinary);
}

// What is pulled next pushes them out.
TEST(StoreChoice, TokensStreamWhereRowsDo) {
  StoreChoice choice;
  EXPECT_EQ(choice.for_tokens(kBytes), StoreKind::kOrdinary);
  pull(choice, 100, nanoseconds(300), nanoseconds(100), 8 * kBytes);
  EXPECT_EQ(choice.for_tokens(kBytes), StoreKind::kStreaming);
}

TEST(StoreChoice, SizesOfAnyMagnitudeAreAllowed) {
  StoreChoice choice;
  for (int bit = 0; bit < 62; ++bit) {
    pull(choice, 8, nanoseconds(100), nanoseconds(100), std::int64_t{1} << bit);
  }
  EXPECT_EQ(choice.for_rows(INT64_MAX), choice.for_rows(INT64_MAX));
}

TEST(StoreChoice, PullTellsTheKindAndNotesTheTime) {
  StoreChoice choice;
  for (int i = 0; i < 6; ++i) {
    const StoreChoice::Pull copy(choice, kBytes);
    EXPECT_EQ(copy.kind(), i < 3 ? StoreKind::kOrdinary : StoreKind::kStreaming);
  }
}

}  // namespace
}  // namespace waybill::engine
