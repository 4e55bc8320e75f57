// The scalar definition against the model, and the special rows that the contract names.
#include "numerics/scalar.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "numerics/model.h"
#include "numerics/test_support.h"

namespace waybill::numerics::testing {
namespace {

constexpr std::int64_t kLengths[] = {1, 7, 8, 9, 33, 500};
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

const Kernels& scalar() { return kernels(SimdLevel::kScalar); }

void expect_same(float got, float want) {
  if (std::isnan(want)) {
    EXPECT_TRUE(std::isnan(got));
  } else {
    EXPECT_EQ(bits_of(got), bits_of(want)) << got << " and " << want;
  }
}

/// Calls body(dtype, content, h) for all of them.
template <class Body>
void for_each_kind_of_row(Body body) {
  for (const DType dtype : kRowDTypes) {
    for (const Content content : kContents) {
      for (const std::int64_t h : kLengths) {
        SCOPED_TRACE(std::string(name_of(dtype)) + " content " +
                     std::to_string(static_cast<int>(content)) + " h " + std::to_string(h));
        for (int repeat = 0; repeat < 5; ++repeat) body(dtype, content, h);
      }
    }
  }
}

TEST(Scalar, QuantiseIsTheModel) {
  Random random(1);
  for_each_kind_of_row([&](DType dtype, Content content, std::int64_t h) {
    const std::vector<std::byte> x = make_row(dtype, content, h, random);
    const std::vector<float> smooth = make_floats(content, h, random);
    std::vector<float> f = decode_row(dtype, x);
    for (const bool is_smooth : {false, true}) {
      if (is_smooth) {
        for (std::size_t i = 0; i < f.size(); ++i) f[i] = model::mul(f[i], smooth[i]);
      }
      const Quantised got =
          quantise_row(scalar(), dtype, x, is_smooth ? smooth : std::vector<float>{});
      const model::QuantisedRow want = model::quantise_row(f);
      EXPECT_EQ(got.q, want.q);
      expect_same(got.scale, want.scale);
    }
  });
}

TEST(Scalar, WeightedSumIsTheModel) {
  Random random(2);
  for_each_kind_of_row([&](DType dtype, Content content, std::int64_t h) {
    const std::size_t num_terms = random() % 10;
    std::vector<std::vector<std::byte>> rows;
    for (std::size_t t = 0; t < num_terms; ++t) rows.push_back(make_row(dtype, content, h, random));
    const std::vector<float> weights =
        make_floats(Content::kNormal, static_cast<std::int64_t>(num_terms), random);
    std::vector<float> acc(static_cast<std::size_t>(h), 0.0f);
    for (std::size_t t = 0; t < num_terms; ++t) {
      const std::vector<float> row = decode_row(dtype, rows[t]);
      for (std::size_t i = 0; i < acc.size(); ++i) {
        acc[i] = model::add(acc[i], model::mul(row[i], weights[t]));
      }
    }
    const std::vector<std::byte> got = weighted_sum(scalar(), dtype, h, rows, weights);
    EXPECT_EQ(first_difference(dtype, got.data(), encode_row(dtype, acc).data(), h), -1);
  });
}

TEST(Scalar, CommQuantiseIsTheModel) {
  Random random(3);
  for_each_kind_of_row([&](DType dtype, Content content, std::int64_t h) {
    const std::vector<std::byte> x = make_row(dtype, content, h, random);
    const std::vector<float> f = decode_row(dtype, x);
    std::vector<std::int8_t> want_q;
    std::vector<float> want_scales;
    for (auto group = f.begin(); group < f.end();) {
      const auto end = f.end() - group > kCommGroup ? group + kCommGroup : f.end();
      const model::CommGroup want = model::comm_quantise_group({group, end});
      want_q.insert(want_q.end(), want.q.begin(), want.q.end());
      want_scales.push_back(want.scale);
      group = end;
    }
    const CommQuantised got = comm_quantise_row(scalar(), dtype, x);
    EXPECT_EQ(got.q, want_q);
    const std::vector<std::byte> scales = encode_row(dtype, want_scales);
    EXPECT_EQ(first_difference(dtype, got.scales.data(), scales.data(), num_comm_groups(h)), -1);
  });
}

TEST(Scalar, CommDequantiseIsTheModel) {
  Random random(4);
  for_each_kind_of_row([&](DType dtype, Content content, std::int64_t h) {
    CommQuantised from;
    for (std::int64_t i = 0; i < h; ++i) from.q.push_back(static_cast<std::int8_t>(random()));
    from.scales = make_row(dtype, content, num_comm_groups(h), random);
    const std::vector<float> scales = decode_row(dtype, from.scales);
    std::vector<float> want;
    for (std::size_t i = 0; i < from.q.size(); ++i) {
      want.push_back(model::mul(static_cast<float>(from.q[i]), scales[i / kCommGroup]));
    }
    const std::vector<std::byte> got = comm_dequantise_row(scalar(), dtype, from);
    EXPECT_EQ(first_difference(dtype, got.data(), encode_row(dtype, want).data(), h), -1);
  });
}

TEST(Scalar, QuantiseNamedRows) {
  const auto quantise = [](const std::vector<float>& x, const std::vector<float>& smooth = {}) {
    return quantise_row(scalar(), DType::kFloat32, encode_row(DType::kFloat32, x), smooth);
  };
  const std::vector<std::int8_t> zeros = {0, 0};

  Quantised row = quantise({1.0f, -2.0f, 0.5f, -0.0f});
  EXPECT_EQ(row.q, (std::vector<std::int8_t>{64, -127, 32, 0}));  // 63.5 and 31.75
  expect_same(row.scale, 1.0f / 63.5f);

  EXPECT_EQ(quantise({}).scale, 0.0f);
  row = quantise({0.0f, -0.0f});
  EXPECT_EQ(row.q, zeros);
  expect_same(row.scale, 0.0f);
  row = quantise({kInfinity, 1.0f});
  EXPECT_EQ(row.q, zeros);
  expect_same(row.scale, kInfinity);
  row = quantise({-kInfinity, kNan});
  EXPECT_EQ(row.q, zeros);
  expect_same(row.scale, kNan);
  row = quantise({3e38f, 1.0f}, {2.0f, 1.0f});
  EXPECT_EQ(row.q, zeros);
  expect_same(row.scale, kInfinity);
  row = quantise({kInfinity, 1.0f}, {0.0f, 1.0f});
  EXPECT_EQ(row.q, zeros);
  expect_same(row.scale, kNan);
}

TEST(Scalar, QuantiseWhereTheMultiplierOverflows) {
  // 127/amax is infinite up to about 2^-121, and finite from there on.
  const float limit = model::div(127.0f, std::numeric_limits<float>::max());
  float amax = limit * (1 - 0x1p-20f);
  bool was_finite = false;
  for (int i = 0; i < 40; ++i, amax = std::nextafter(amax, 1.0f)) {
    const Quantised row =
        quantise_row(scalar(), DType::kFloat32, encode_row(DType::kFloat32, {amax, -amax}));
    const bool is_finite = !std::isinf(model::div(127.0f, amax));
    EXPECT_TRUE(is_finite || !was_finite);
    was_finite = is_finite;
    EXPECT_EQ(row.q,
              is_finite ? (std::vector<std::int8_t>{127, -127}) : (std::vector<std::int8_t>{0, 0}));
    EXPECT_EQ(row.scale > 0, is_finite);
  }
  EXPECT_TRUE(was_finite);
}

TEST(Scalar, WeightedSumStartsAtPlusZero) {
  const std::vector<std::byte> minus_zero = encode_row(DType::kBFloat16, {-0.0f});
  const auto bits = [&](const std::vector<std::vector<std::byte>>& rows) {
    const std::vector<float> weights(rows.size(), 1.0f);
    const auto out = weighted_sum(scalar(), DType::kBFloat16, 1, rows, weights);
    return model::bits_at(DType::kBFloat16, out.data(), 0);
  };
  EXPECT_EQ(bits({}), 0u);
  EXPECT_EQ(bits({minus_zero}), 0u);
  EXPECT_EQ(bits({minus_zero, minus_zero}), 0u);
}

TEST(Scalar, WeightedSumIsNotFused) {
  // (1 + 2^-12)^2 = 1 + 2^-11 + 2^-24 rounds to 1 + 2^-11; a fused sum would keep the last term.
  const float a = 1 + 0x1p-12f;
  const std::vector<std::vector<std::byte>> rows = {encode_row(DType::kFloat32, {-(1 + 0x1p-11f)}),
                                                    encode_row(DType::kFloat32, {a})};
  for (const Kernels* set : runnable_sets()) {
    const auto out = weighted_sum(*set, DType::kFloat32, 1, rows, {1.0f, a});
    EXPECT_EQ(model::bits_at(DType::kFloat32, out.data(), 0), 0u);
  }
}

TEST(Scalar, CommQuantiseSaturatesAndUnderflows) {
  const float unit = std::numeric_limits<float>::denorm_min();
  const auto quantise = [](const std::vector<float>& x) {
    return comm_quantise_row(scalar(), DType::kFloat32, encode_row(DType::kFloat32, x)).q;
  };
  // 190/127 units round to one unit, 63/127 of a unit to none.
  EXPECT_EQ(quantise({190 * unit, -190 * unit, 5 * unit}),
            (std::vector<std::int8_t>{127, -127, 5}));
  EXPECT_EQ(quantise({63 * unit, -unit}), (std::vector<std::int8_t>{0, 0}));
  EXPECT_EQ(quantise({kInfinity, 1.0f}), (std::vector<std::int8_t>{0, 0}));
  EXPECT_EQ(quantise({kNan, 1.0f}), (std::vector<std::int8_t>{0, 0}));
}

}  // namespace
}  // namespace waybill::numerics::testing
