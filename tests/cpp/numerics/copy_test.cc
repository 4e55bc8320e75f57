#include <gtest/gtest.h>

#include <algorithm>

#include "numerics/test_support.h"

namespace waybill::numerics::testing {
namespace {

TEST(Copy, CopiesExactlyTheBytes) {
  constexpr std::size_t kCapacity = 1 << 16;
  GuardedBuffer from(kCapacity);
  GuardedBuffer to(kCapacity);
  Random random(1);
  std::vector<std::size_t> sizes = {4095, 4096, 4097, 14336, 65000};
  for (std::size_t size = 0; size <= 300; ++size) sizes.push_back(size);
  for (const Kernels* set : runnable_sets()) {
    for (const std::size_t size : sizes) {
      for (const Place where : kPlaces) {
        const std::vector<std::byte> data =
            make_row(DType::kInt8, Content::kAnyBits, static_cast<std::int64_t>(size), random);
        const Place from_where = kPlaces[random() % 3];
        const std::byte* source = from.place(data, from_where);
        for (const StoreKind kind : {StoreKind::kOrdinary, StoreKind::kStreaming}) {
          std::byte* destination = to.place(size, where);
          set->copy(destination, source, size, kind);
          stream_fence();
          ASSERT_TRUE(std::equal(data.begin(), data.end(), destination)) << size;
          ASSERT_TRUE(to.surroundings_intact()) << size;
        }
      }
    }
  }
}

TEST(Copy, NothingNeedsNoPointers) {
  for (const Kernels* set : runnable_sets()) {
    set->copy(nullptr, nullptr, 0, StoreKind::kOrdinary);
    set->copy(nullptr, nullptr, 0, StoreKind::kStreaming);
  }
}

TEST(Kernels, KnowTheirLevel) {
  EXPECT_TRUE(is_supported(SimdLevel::kScalar));
  for (const SimdLevel level : kLevels) {
    if (is_supported(level)) {
      EXPECT_EQ(kernels(level).level, level);
    }
  }
}

TEST(Kernels, OfALevelAreItsBest) {
  for (const Kernels* set : runnable_sets()) {
    // Sets come in the order of their worth: each has the last word until a better one follows.
    const auto later = [&](const Kernels* other) { return other->level == set->level; };
    const std::vector<const Kernels*> sets = runnable_sets();
    EXPECT_EQ(&kernels(set->level), *std::find_if(sets.rbegin(), sets.rend(), later));
  }
  EXPECT_EQ(&best_kernels(), runnable_sets().back());
}

TEST(Kernels, EmptyRowsNeedNoPointers) {
  for (const Kernels* set : runnable_sets()) {
    for (const DType dtype : kRowDTypes) {
      float scale = 1.0f;
      set->quantise_row(nullptr, dtype, nullptr, 0, nullptr, &scale);
      EXPECT_EQ(scale, 0.0f);
      set->weighted_sum(nullptr, 0, dtype, 0, nullptr);
      set->comm_quantise_row(nullptr, dtype, 0, nullptr, nullptr);
      set->comm_dequantise_row(nullptr, nullptr, dtype, 0, nullptr);
    }
  }
}

TEST(Kernels, OtherDTypesAreLeftAlone) {
  for (const Kernels* set : runnable_sets()) {
    std::int64_t out = -1;
    set->weighted_sum(nullptr, 0, DType::kInt64, 1, &out);
    EXPECT_EQ(out, -1);
  }
}

}  // namespace
}  // namespace waybill::numerics::testing
