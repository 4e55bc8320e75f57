// Every set of this machine against the scalar one: same bits, and no byte touched outside.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <string>

#include "numerics/test_support.h"

namespace waybill::numerics::testing {
namespace {

constexpr std::size_t kCapacity = 7168 * sizeof(float);
constexpr std::size_t kMaxTerms = 9;

const Kernels& scalar() { return scalar_kernels(); }

class Levels : public ::testing::TestWithParam<KernelSet> {
 protected:
  void SetUp() override {
    if (!GetParam().supported) GTEST_SKIP() << "this machine cannot run it";
  }

  const Kernels& simd() const { return GetParam().kernels; }

  /// body(dtype, content, h, place) for all of them; long rows in one place only.
  template <class Body>
  static void for_each_row(Body body) {
    for (const DType dtype : kRowDTypes) {
      for (const Content content : kContents) {
        for (const std::int64_t h : row_lengths()) {
          for (const Place where : kPlaces) {
            if (h > 1000 && where != Place::kEnd) continue;
            SCOPED_TRACE(std::string(name_of(dtype)) + " content " +
                         std::to_string(static_cast<int>(content)) + " h " + std::to_string(h) +
                         " place " + std::to_string(static_cast<int>(where)));
            body(dtype, content, h, where);
            if (HasFailure()) return;
          }
        }
      }
    }
  }

  Random random_{20240607};
  GuardedBuffer x_{kCapacity};
  GuardedBuffer smooth_{kCapacity};
  GuardedBuffer q_{kCapacity};
  GuardedBuffer scale_{kCapacity};
  GuardedBuffer out_{kCapacity};
};

TEST_P(Levels, QuantiseRow) {
  for_each_row([&](DType dtype, Content content, std::int64_t h, Place where) {
    const std::vector<std::byte> row = make_row(dtype, content, h, random_);
    // Wide rows with wide scales would all overflow.
    const Content smooth_content = content == Content::kWide ? Content::kNormal : content;
    const std::vector<float> smooth = make_floats(smooth_content, h, random_);
    const std::byte* x = x_.place(row, where);
    const auto* smooth_bytes = reinterpret_cast<const std::byte*>(smooth.data());
    const std::byte* s = smooth_.place({smooth_bytes, smooth_bytes + 4 * h}, where);

    for (const bool is_smooth : {false, true}) {
      const Quantised want =
          quantise_row(scalar(), dtype, row, is_smooth ? smooth : std::vector<float>{});
      std::byte* q = q_.place(static_cast<std::size_t>(h), where);
      std::byte* scale = scale_.place(sizeof(float), where);
      simd().quantise_row(x,
                          dtype,
                          is_smooth ? reinterpret_cast<const float*>(s) : nullptr,
                          h,
                          reinterpret_cast<std::int8_t*>(q),
                          reinterpret_cast<float*>(scale));
      EXPECT_TRUE(std::equal(want.q.begin(), want.q.end(), reinterpret_cast<std::int8_t*>(q)));
      EXPECT_EQ(std::memcmp(scale, &want.scale, sizeof(float)), 0);
      EXPECT_TRUE(q_.surroundings_intact());
      EXPECT_TRUE(scale_.surroundings_intact());
    }
  });
}

TEST_P(Levels, WeightedSum) {
  std::deque<GuardedBuffer> row_buffers;
  while (row_buffers.size() < kMaxTerms) row_buffers.emplace_back(kCapacity);
  for_each_row([&](DType dtype, Content content, std::int64_t h, Place where) {
    const std::size_t num_terms = random_() % (kMaxTerms + 1);
    std::vector<std::vector<std::byte>> rows;
    std::vector<Term> terms;
    const Content weight_content =
        content == Content::kAnyBits ? Content::kAnyBits : Content::kNormal;
    const std::vector<float> weights =
        make_floats(weight_content, static_cast<std::int64_t>(num_terms), random_);
    for (std::size_t t = 0; t < num_terms; ++t) {
      rows.push_back(make_row(dtype, content, h, random_));
      terms.push_back({row_buffers[t].place(rows[t], where), weights[t]});
    }
    const std::vector<std::byte> want = weighted_sum(scalar(), dtype, h, rows, weights);
    std::byte* out = out_.place(want.size(), where);
    simd().weighted_sum(terms.data(), static_cast<std::int64_t>(num_terms), dtype, h, out);
    EXPECT_EQ(first_difference(dtype, out, want.data(), h), -1);
    EXPECT_TRUE(out_.surroundings_intact());
  });
}

TEST_P(Levels, CommQuantiseRow) {
  for_each_row([&](DType dtype, Content content, std::int64_t h, Place where) {
    const std::vector<std::byte> row = make_row(dtype, content, h, random_);
    const CommQuantised want = comm_quantise_row(scalar(), dtype, row);
    const std::byte* x = x_.place(row, where);
    std::byte* q = q_.place(static_cast<std::size_t>(h), where);
    std::byte* scales = scale_.place(want.scales.size(), where);
    simd().comm_quantise_row(x, dtype, h, reinterpret_cast<std::int8_t*>(q), scales);
    EXPECT_TRUE(std::equal(want.q.begin(), want.q.end(), reinterpret_cast<std::int8_t*>(q)));
    EXPECT_EQ(first_difference(dtype, scales, want.scales.data(), num_comm_groups(h)), -1);
    EXPECT_TRUE(q_.surroundings_intact());
    EXPECT_TRUE(scale_.surroundings_intact());
  });
}

TEST_P(Levels, CommDequantiseRow) {
  for_each_row([&](DType dtype, Content content, std::int64_t h, Place where) {
    CommQuantised from;
    for (std::int64_t i = 0; i < h; ++i) from.q.push_back(static_cast<std::int8_t>(random_()));
    from.scales = make_row(dtype, content, num_comm_groups(h), random_);
    const std::vector<std::byte> want = comm_dequantise_row(scalar(), dtype, from);
    const auto* q_bytes = reinterpret_cast<const std::byte*>(from.q.data());
    const std::byte* q = q_.place({q_bytes, q_bytes + h}, where);
    const std::byte* scales = scale_.place(from.scales, where);
    std::byte* out = out_.place(want.size(), where);
    simd().comm_dequantise_row(reinterpret_cast<const std::int8_t*>(q), scales, dtype, h, out);
    EXPECT_EQ(first_difference(dtype, out, want.data(), h), -1);
    EXPECT_TRUE(out_.surroundings_intact());
  });
}

TEST_P(Levels, CommDequantiseRowWithOneSubnormalScale) {
  constexpr std::int64_t kHidden = 40 * kCommGroup;
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    for (std::int64_t group = 0; group < 40; ++group) {
      CommQuantised from;
      for (std::int64_t i = 0; i < kHidden; ++i) {
        from.q.push_back(static_cast<std::int8_t>(random_()));
      }
      from.scales = make_row(dtype, Content::kNormal, 40, random_);
      const std::uint16_t subnormal = 0x0013;
      std::memcpy(from.scales.data() + 2 * group, &subnormal, sizeof(subnormal));
      EXPECT_EQ(comm_dequantise_row(simd(), dtype, from),
                comm_dequantise_row(scalar(), dtype, from));
    }
  }
}

TEST_P(Levels, QuantiseRowWhereTheMultiplierOverflows) {
  for (const DType dtype : {DType::kBFloat16, DType::kFloat32}) {
    for (int i = 0; i < 4000; ++i) {
      std::vector<std::byte> row = make_row(dtype, Content::kZeros, 40, random_);
      // Around 2^-121 in steps of one unit of bfloat16.
      const auto top = static_cast<std::uint32_t>(((127 - 130) << 7) + i % 2000);
      const std::uint32_t bits = dtype == DType::kFloat32 ? top << 16 : top;
      std::memcpy(row.data() + 8, &bits, static_cast<std::size_t>(size_of(dtype)));
      const Quantised got = quantise_row(simd(), dtype, row);
      const Quantised want = quantise_row(scalar(), dtype, row);
      ASSERT_EQ(got.q, want.q) << i;
      ASSERT_EQ(std::memcmp(&got.scale, &want.scale, sizeof(float)), 0) << i;
    }
  }
}

// There are machines that have the scalar set only.
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Levels);
INSTANTIATE_TEST_SUITE_P(All,
                         Levels,
                         ::testing::ValuesIn(kernel_sets().begin() + 1, kernel_sets().end()),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace waybill::numerics::testing
