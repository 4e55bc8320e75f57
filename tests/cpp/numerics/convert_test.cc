#include "numerics/convert.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "numerics/model.h"

namespace waybill::numerics {
namespace {

static_assert(float_to_float16(1.0f) == 0x3c00);
static_assert(float16_to_float(0x0001) == 0x1p-24f);
static_assert(float_to_bfloat16(1.0f) == 0x3f80);
static_assert(bfloat16_to_float(0x8000) == 0.0f);

float to_float(DType dtype, std::uint16_t bits) {
  return dtype == DType::kFloat16 ? float16_to_float(bits) : bfloat16_to_float(bits);
}

std::uint16_t from_float(DType dtype, float value) {
  return dtype == DType::kFloat16 ? float_to_float16(value) : float_to_bfloat16(value);
}

std::uint32_t next_bits(std::mt19937& random) { return static_cast<std::uint32_t>(random()); }

class Convert : public ::testing::TestWithParam<DType> {
 protected:
  void expect_as_model(float value) const {
    const std::uint16_t got = from_float(GetParam(), value);
    const std::uint32_t want = model::encode(GetParam(), double{value});
    if (std::isnan(value)) {
      EXPECT_TRUE(model::is_nan(GetParam(), got)) << std::hexfloat << value;
      EXPECT_EQ(got & 0x8000u, want & 0x8000u);
    } else {
      EXPECT_EQ(got, want) << std::hexfloat << value;
    }
  }

  void expect_as_model_both_signs(float value) const {
    expect_as_model(value);
    expect_as_model(-value);
  }

  /// A value where rounding may change its direction, and the floats beside it.
  void expect_as_model_around(float value) const {
    expect_as_model_both_signs(value);
    expect_as_model_both_signs(std::nextafter(value, 0.0f));
    expect_as_model_both_signs(std::nextafter(value, std::numeric_limits<float>::infinity()));
  }

  std::uint16_t infinity() const { return GetParam() == DType::kFloat16 ? 0x7c00 : 0x7f80; }
  std::uint16_t quiet_bit() const { return GetParam() == DType::kFloat16 ? 0x0200 : 0x0040; }
};

TEST_P(Convert, EveryValueToFloatAndBack) {
  for (std::uint32_t i = 0; i <= 0xffff; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    const float value = to_float(GetParam(), bits);
    const double want = model::decode(GetParam(), bits);
    if (std::isnan(want)) {
      EXPECT_TRUE(std::isnan(value)) << bits;
      EXPECT_EQ(from_float(GetParam(), value), bits | quiet_bit());
      continue;
    }
    EXPECT_EQ(double{value}, want) << bits;
    EXPECT_EQ(std::signbit(value), std::signbit(want)) << bits;
    EXPECT_EQ(from_float(GetParam(), value), bits);
  }
}

TEST_P(Convert, RoundsAtEveryBoundary) {
  for (std::uint16_t bits = 0; bits < infinity(); ++bits) {
    // The midpoint to the next value needs one bit more. After the largest finite value comes the
    // place where infinity begins, one unit further.
    const auto next = static_cast<std::uint16_t>(bits + 1);
    const double value = model::decode(GetParam(), bits);
    const double unit =
        next == infinity() ? value - model::decode(GetParam(), static_cast<std::uint16_t>(bits - 1))
                           : model::decode(GetParam(), next) - value;
    expect_as_model_around(static_cast<float>(value));
    expect_as_model_around(static_cast<float>(value + unit / 2));
  }
}

TEST_P(Convert, RoundsAnyBits) {
  std::mt19937 random(1);
  for (int i = 0; i < 2'000'000; ++i) expect_as_model(float_of(next_bits(random)));
}

TEST_P(Convert, RoundsInItsOwnRange) {
  // Uniform bits seldom fall where halves are normal or subnormal.
  std::mt19937 random(2);
  std::uniform_int_distribution<std::uint32_t> exponent(127 - 27, 127 + 17);
  for (int i = 0; i < 1'000'000; ++i) {
    expect_as_model(float_of((next_bits(random) & 0x807f'ffffu) | (exponent(random) << 23)));
  }
}

TEST_P(Convert, SpecialValues) {
  using Limits = std::numeric_limits<float>;
  for (const float value : {0.0f, Limits::infinity(), Limits::max(), Limits::min()}) {
    expect_as_model_both_signs(value);
  }
  for (const float value : {Limits::denorm_min(), 65504.0f, 65520.0f, 65536.0f, 0x1p-24f}) {
    expect_as_model_around(value);
  }
  // A NaN whose payload is only in the bits that get lost.
  expect_as_model(float_of(kInfinityBits | 1u));
  expect_as_model(float_of(kSignBit | kInfinityBits | 1u));
}

INSTANTIATE_TEST_SUITE_P(Halves,
                         Convert,
                         ::testing::Values(DType::kBFloat16, DType::kFloat16),
                         [](const auto& test) { return std::string(name_of(test.param)); });

TEST(FloatToInt8, IsTheModelsRounding) {
  for (int quarter = -4 * 140; quarter <= 4 * 140; ++quarter) {
    const float value = static_cast<float>(quarter) / 4;
    const float infinity = std::numeric_limits<float>::infinity();
    for (const float v :
         {value, std::nextafter(value, infinity), std::nextafter(value, -infinity)}) {
      EXPECT_EQ(float_to_int8(v), model::to_int8(double{v})) << std::hexfloat << v;
    }
  }
  std::mt19937 random(3);
  for (int i = 0; i < 1'000'000; ++i) {
    const float v = float_of(next_bits(random));
    EXPECT_EQ(float_to_int8(v), model::to_int8(double{v})) << std::hexfloat << v;
  }
}

TEST(FloatToInt8, SpecialValues) {
  EXPECT_EQ(float_to_int8(std::numeric_limits<float>::quiet_NaN()), 0);
  EXPECT_EQ(float_to_int8(std::numeric_limits<float>::infinity()), 127);
  EXPECT_EQ(float_to_int8(-std::numeric_limits<float>::infinity()), -127);
  EXPECT_EQ(float_to_int8(-127.6f), -127);
  EXPECT_EQ(float_to_int8(0.5f), 0);
  EXPECT_EQ(float_to_int8(-1.5f), -2);
}

TEST(MagnitudeBits, OrderMagnitudesWithNanOnTop) {
  const float infinity = std::numeric_limits<float>::infinity();
  const float ascending[] = {-0.0f, 0x1p-149f, -1.0f, 2.0f, -infinity};
  for (std::size_t i = 1; i < std::size(ascending); ++i) {
    EXPECT_LT(magnitude_bits(ascending[i - 1]), magnitude_bits(ascending[i]));
  }
  EXPECT_LT(magnitude_bits(infinity), magnitude_bits(float_of(kInfinityBits | 1u)));
  EXPECT_LT(magnitude_bits(infinity), magnitude_bits(float_of(kQuietNanBits | kSignBit)));
}

}  // namespace
}  // namespace waybill::numerics
