// Sums that stay in float32, sums over the hidden dimension, and what follows them: every set
// against the model, no byte touched outside, and bits that the Python reference gave.
#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <string>

#include "numerics/model.h"
#include "numerics/scalar.h"
#include "numerics/test_support.h"

namespace waybill::numerics::testing {
namespace {

constexpr std::size_t kCapacity = 7168 * sizeof(float);
constexpr std::size_t kMaxTerms = 9;

std::vector<std::byte> bytes_of(const std::vector<float>& floats) {
  return encode_row(DType::kFloat32, floats);
}

class Sums : public ::testing::TestWithParam<KernelSet> {
 protected:
  void SetUp() override {
    if (!GetParam().supported) GTEST_SKIP() << "this machine cannot run it";
  }

  const Kernels& set() const { return GetParam().kernels; }

  /// body(dtype, content, h, place) for all of them; long rows in one place only.
  template <class Body>
  static void for_each_row(Body body) {
    for (const DType dtype : kRowDTypes) {
      for (const Content content : kContents) {
        for (const std::int64_t h : row_lengths()) {
          for (const Place where : kPlaces) {
            if (h > 100 && where != Place::kEnd) continue;
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

  Random random_{20250314};
  GuardedBuffer a_{kCapacity};
  GuardedBuffer b_{kCapacity};
  GuardedBuffer out_{kCapacity};
};

const float* as_floats(const std::byte* p) { return reinterpret_cast<const float*>(p); }
float* as_floats(std::byte* p) { return reinterpret_cast<float*>(p); }

TEST_P(Sums, AccumulateIsTheModel) {
  std::deque<GuardedBuffer> row_buffers;
  while (row_buffers.size() < kMaxTerms) row_buffers.emplace_back(kCapacity);
  for_each_row([&](DType dtype, Content content, std::int64_t h, Place where) {
    const std::size_t num_terms = random_() % (kMaxTerms + 1);
    const bool fresh = random_() % 2 == 0;
    const std::vector<float> weights =
        make_floats(Content::kNormal, static_cast<std::int64_t>(num_terms), random_);
    // What a fresh sum finds must not matter: all NaN.
    const std::vector<float> before =
        fresh ? std::vector<float>(static_cast<std::size_t>(h), std::nanf(""))
              : make_floats(content, h, random_);
    std::vector<float> want = fresh ? std::vector<float>(before.size(), 0.0f) : before;
    std::vector<Term> terms;
    for (std::size_t t = 0; t < num_terms; ++t) {
      const std::vector<std::byte> row = make_row(dtype, content, h, random_);
      terms.push_back({row_buffers[t].place(row, where), weights[t]});
      const std::vector<float> values = decode_row(dtype, row);
      for (std::size_t i = 0; i < want.size(); ++i) {
        want[i] = model::add(want[i], model::mul(values[i], weights[t]));
      }
    }
    const std::vector<std::byte> start = bytes_of(before);
    std::byte* acc = out_.place(start.size(), where);
    if (h > 0) std::memcpy(acc, start.data(), start.size());
    const auto count = static_cast<std::int64_t>(num_terms);
    set().accumulate(terms.data(), count, dtype, fresh, h, as_floats(acc));
    EXPECT_EQ(first_difference(DType::kFloat32, acc, want.data(), h), -1);
    EXPECT_TRUE(out_.surroundings_intact());
  });
}

TEST_P(Sums, FreshStartsAtPlusZeroAndWithoutTermsNothingElseChanges) {
  const float minus_zero = -0.0f;
  const Term term = {&minus_zero, 1.0f};
  float acc = minus_zero;
  set().accumulate(nullptr, 0, DType::kFloat32, false, 1, &acc);
  EXPECT_EQ(bits_of(acc), bits_of(-0.0f));
  set().accumulate(&term, 1, DType::kFloat32, false, 1, &acc);
  EXPECT_EQ(bits_of(acc), bits_of(-0.0f));
  set().accumulate(&term, 1, DType::kFloat32, true, 1, &acc);
  EXPECT_EQ(bits_of(acc), 0u);
  acc = 3.0f;
  set().accumulate(nullptr, 0, DType::kFloat32, true, 1, &acc);
  EXPECT_EQ(bits_of(acc), 0u);
}

TEST_P(Sums, RoundRowIsTheModel) {
  for_each_row([&](DType dtype, Content content, std::int64_t h, Place where) {
    const std::vector<float> f = make_floats(content, h, random_);
    const std::vector<std::byte> want = encode_row(dtype, f);
    const std::byte* from = a_.place(bytes_of(f), where);
    std::byte* out = out_.place(want.size(), where);
    set().round_row(as_floats(from), dtype, h, out);
    EXPECT_EQ(first_difference(dtype, out, want.data(), h), -1);
    EXPECT_TRUE(out_.surroundings_intact());
  });
}

TEST_P(Sums, RoundRowAroundEveryTie) {
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    std::vector<float> f;
    for (std::uint32_t bits = 0; bits < 0xffffu; ++bits) {
      const double middle = (model::decode(dtype, bits) + model::decode(dtype, bits + 1)) / 2;
      const auto tie = static_cast<float>(middle);
      f.insert(f.end(), {std::nextafter(tie, -INFINITY), tie, std::nextafter(tie, INFINITY)});
    }
    const std::vector<std::byte> want = encode_row(dtype, f);
    std::vector<std::byte> out(want.size());
    const auto h = static_cast<std::int64_t>(f.size());
    set().round_row(f.data(), dtype, h, out.data());
    EXPECT_EQ(first_difference(dtype, out.data(), want.data(), h), -1) << name_of(dtype);
  }
}

TEST_P(Sums, OneSpecialValueAmongNumbersIsRoundedAsTheyAre) {
  // Vectors that have no special value may take another path than those that have one.
  const float specials[] = {0x1p-130f, -0x1.fffffep-127f, 0.0f, NAN, INFINITY};
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    for (const float special : specials) {
      for (std::size_t at = 0; at < 100; ++at) {
        std::vector<float> f(100, 1.0f + 0x1p-8f);
        f[at] = special;
        const std::vector<std::byte> want = encode_row(dtype, f);
        std::vector<std::byte> out(want.size());
        set().round_row(f.data(), dtype, 100, out.data());
        EXPECT_EQ(first_difference(dtype, out.data(), want.data(), 100), -1) << at;

        const std::vector<std::byte> ones = encode_row(dtype, std::vector<float>(100, 1.0f));
        set().normalise_row(f.data(), 1.0f, ones.data(), dtype, 100, out.data());
        EXPECT_EQ(first_difference(dtype, out.data(), want.data(), 100), -1) << at;
      }
    }
  }
}

TEST_P(Sums, DotIsTheModel) {
  for_each_row([&](DType dtype, Content content, std::int64_t h, Place where) {
    const std::vector<std::byte> a = make_row(dtype, content, h, random_);
    const std::vector<std::byte> b = make_row(dtype, content, h, random_);
    std::vector<float> products = decode_row(dtype, a);
    const std::vector<float> factors = decode_row(dtype, b);
    for (std::size_t i = 0; i < products.size(); ++i) {
      products[i] = model::mul(products[i], factors[i]);
    }
    const float got = set().dot(a_.place(a, where), b_.place(b, where), dtype, h);
    const float want = model::sum_over_h(products);
    EXPECT_TRUE(is_same(got, want)) << got << " and " << want;
  });
}

TEST_P(Sums, RoundRowMeanSquareIsTheModel) {
  for_each_row([&](DType dtype, Content content, std::int64_t h, Place where) {
    const std::vector<float> f = make_floats(content, h, random_);
    const float inverse_h = h == 0 ? 1.0f : 1.0f / static_cast<float>(h);
    std::vector<float> terms = f;
    for (float& term : terms) term = model::mul(model::mul(term, term), inverse_h);
    const std::vector<std::byte> rounded = encode_row(dtype, f);
    std::byte* out = out_.place(rounded.size(), where);
    const float* from = as_floats(a_.place(bytes_of(f), where));
    const float got = set().round_row_mean_square(from, dtype, h, inverse_h, out);
    const float want = model::sum_over_h(terms);
    EXPECT_TRUE(is_same(got, want)) << got << " and " << want;
    EXPECT_EQ(first_difference(dtype, out, rounded.data(), h), -1);
    EXPECT_TRUE(out_.surroundings_intact());
  });
}

TEST_P(Sums, NormaliseRowIsTheModel) {
  for_each_row([&](DType dtype, Content content, std::int64_t h, Place where) {
    const std::vector<float> f = make_floats(content, h, random_);
    const std::vector<std::byte> gamma = make_row(dtype, content, h, random_);
    const Content rstd_content = random_() % 2 == 0 ? content : Content::kNormal;
    const float rstd = make_floats(rstd_content, 1, random_)[0];
    std::vector<float> values = f;
    for (float& value : values) value = model::mul(value, rstd);
    values = decode_row(dtype, encode_row(dtype, values));
    const std::vector<float> factors = decode_row(dtype, gamma);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = model::mul(values[i], factors[i]);
    const std::vector<std::byte> want = encode_row(dtype, values);

    std::byte* y = out_.place(want.size(), where);
    const float* from = as_floats(a_.place(bytes_of(f), where));
    set().normalise_row(from, rstd, b_.place(gamma, where), dtype, h, y);
    EXPECT_EQ(first_difference(dtype, y, want.data(), h), -1);
    EXPECT_TRUE(out_.surroundings_intact());
  });
}

/// Element i of row k of the table below: (hash >> 8) / 2^24 - 1/2, exact in float32.
std::vector<float> hashed_row(std::uint32_t k, std::int64_t h) {
  std::vector<float> row;
  for (std::int64_t i = 0; i < h; ++i) {
    const std::uint32_t hash = static_cast<std::uint32_t>(i) * 2654435761u + k * 40503u;
    row.push_back(static_cast<float>(hash >> 8) * 0x1p-24f - 0.5f);
  }
  return row;
}

TEST_P(Sums, HaveTheBitsOfThePythonReference) {
  // sum_over_h(f * g) and sum_over_h((f * f) * f32(1 / h)) for rows 1 (f) and 2 (g).
  struct Case {
    std::int64_t h;
    std::uint32_t dot, inverse_h, mean_square;
  };
  constexpr Case kCases[] = {
      {7, 0x3f2b'ca0au, 0x3e12'4925u, 0x3dc4'54fcu},
      {100, 0x4106'b4c0u, 0x3c23'd70au, 0x3dac'6c83u},
      {576, 0x4240'064eu, 0x3ae3'8e39u, 0x3daa'b046u},
      {7168, 0x4415'5729u, 0x3912'4925u, 0x3daa'acc2u},
  };
  for (const Case& c : kCases) {
    const std::vector<float> f = hashed_row(1, c.h);
    const std::vector<float> g = hashed_row(2, c.h);
    EXPECT_EQ(bits_of(set().dot(f.data(), g.data(), DType::kFloat32, c.h)), c.dot) << c.h;
    std::vector<float> out(f.size());
    const float mean_square = set().round_row_mean_square(
        f.data(), DType::kFloat32, c.h, float_of(c.inverse_h), out.data());
    EXPECT_EQ(bits_of(mean_square), c.mean_square) << c.h;
  }
}

TEST_P(Sums, EachLaneTakesEverySixteenthElement) {
  // What swallows the 1, and what cancels 2^24, depends on the lanes of the three.
  const std::vector<float> ones(64, 1.0f);
  for (std::size_t big = 0; big < 64; ++big) {
    for (std::size_t other = big + 1; other < 64; ++other) {
      std::vector<float> f(64, 0.0f);
      f[big] = 0x1p24f;
      f[other] = 1.0f;
      f[(other + 7) % 64] += -0x1p24f;
      const float got = set().dot(f.data(), ones.data(), DType::kFloat32, 64);
      EXPECT_EQ(bits_of(got), bits_of(model::sum_over_h(f))) << big << " " << other;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All,
                         Sums,
                         ::testing::ValuesIn(kernel_sets().begin(), kernel_sets().end()),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace waybill::numerics::testing
