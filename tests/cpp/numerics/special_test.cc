// exp, softmax and the reciprocal root: their accuracy, and the bits of the Python reference.
#include "numerics/special.h"

#include <gtest/gtest.h>

#include <cmath>

#include "numerics/model.h"
#include "numerics/test_support.h"

namespace waybill::numerics::testing {
namespace {

constexpr float kLowest = -0x1.5d589ep+6f;

void expect_bits(float got, std::uint32_t want) {
  EXPECT_TRUE(is_same(got, float_of(want))) << std::hexfloat << got << " and " << float_of(want);
}

TEST(Exp, HasTheBitsOfThePythonReference) {
  // x and exp_f32(x): zeros, the lowest x and its neighbours, infinity, NaN, numbers around 0,
  // around the odd multiples of ln(2) / 2, and in between.
  struct Case {
    std::uint32_t x, y;
  };
  constexpr Case kCases[] = {
      {0x0000'0000u, 0x3f80'0000u}, {0x8000'0000u, 0x3f80'0000u}, {0xc2ae'ac4fu, 0x0080'0026u},
      {0xc2ae'ac4eu, 0x0080'0066u}, {0xc2ae'ac50u, 0x0000'0000u}, {0xc2b0'0000u, 0x0000'0000u},
      {0xc2cf'f0a4u, 0x0000'0000u}, {0xf149'f2cau, 0x0000'0000u}, {0xff80'0000u, 0x0000'0000u},
      {0x7fc0'0000u, 0x7fc0'0000u}, {0x8000'0001u, 0x3f80'0000u}, {0x8080'0000u, 0x3f80'0000u},
      {0xb080'0000u, 0x3f80'0000u}, {0xb300'0000u, 0x3f80'0000u}, {0xb380'0000u, 0x3f7f'ffffu},
      {0xb400'0000u, 0x3f7f'fffeu}, {0xbeb1'7218u, 0x3f35'04f3u}, {0xbeb1'7218u, 0x3f35'04f3u},
      {0xbeb1'7219u, 0x3f35'04f3u}, {0xbf00'0000u, 0x3f1b'4598u}, {0xbf31'7218u, 0x3f00'0000u},
      {0xbf80'0000u, 0x3ebc'5ab2u}, {0xbf85'1592u, 0x3eb5'04f3u}, {0xc000'0000u, 0x3e0a'9555u},
      {0xc049'0fdbu, 0x3d31'0113u}, {0xc120'0000u, 0x383e'6bceu}, {0xc18a'a122u, 0x3300'000cu},
      {0xc1a0'0000u, 0x310d'a433u}, {0xc22d'3333u, 0x2038'fd84u}, {0xc2ad'cccdu, 0x00c6'0f89u},
      {0xc2ae'0000u, 0x00b3'3687u}, {0xc2ae'999au, 0x0084'c38bu}, {0xc2ae'ac08u, 0x0080'11e7u},
      {0xbfd3'3ef7u, 0x3e44'96a9u}, {0xc1df'bc51u, 0x2b49'299du}, {0xc0fc'de2cu, 0x39c1'f6f2u},
      {0xbcd3'4166u, 0x3f79'7b90u}, {0xbd66'5372u, 0x3f72'007cu}, {0xc1ae'ee98u, 0x2faf'4127u},
      {0xbb2b'974fu, 0x3f7f'54a2u}, {0xc14b'083au, 0x364e'eac8u}, {0xc11d'ec6bu, 0x3858'cf36u},
      {0xbea4'd1acu, 0x3f39'89feu}, {0xbd6d'4b7au, 0x3f71'972bu}, {0xbd37'b75du, 0x3f74'c57cu},
  };
  for (const Case& c : kCases) {
    SCOPED_TRACE(float_of(c.x));
    expect_bits(exp_f32(float_of(c.x)), c.y);
  }
}

double error_in_ulp(float x) {
  const long double exact = std::exp(static_cast<long double>(x));
  const long double ulp = std::ldexp(1.0L, std::ilogb(exact) - 23);
  return static_cast<double>(std::fabs(static_cast<long double>(exp_f32(x)) - exact) / ulp);
}

TEST(Exp, IsWithin1Point2Ulp) {
  constexpr int kSteps = 1000;
  for (int i = 0; i <= kSteps; ++i) {
    const float evenly = kLowest * (static_cast<float>(i) / kSteps);
    EXPECT_LE(error_in_ulp(evenly), 1.2) << evenly;
    const float towards_zero = std::ldexp(evenly, -(i % 40));
    EXPECT_LE(error_in_ulp(towards_zero), 1.2) << towards_zero;
  }
}

TEST(Exp, EndsAtTheLeastNormalNumber) {
  EXPECT_GE(exp_f32(kLowest), 0x1p-126f);
  EXPECT_EQ(bits_of(exp_f32(std::nextafter(kLowest, -INFINITY))), 0u);
  EXPECT_LT(std::exp(static_cast<long double>(std::nextafter(kLowest, -INFINITY))), 0x1p-126L);
}

TEST(SoftmaxPair, HasTheBitsOfThePythonReference) {
  struct Case {
    std::uint32_t l1, l2, p1, p2;
  };
  constexpr Case kCases[] = {
      {0x0000'0000u, 0x0000'0000u, 0x3f00'0000u, 0x3f00'0000u},
      {0x8000'0000u, 0x0000'0000u, 0x3f00'0000u, 0x3f00'0000u},
      {0x3f80'0000u, 0x3f80'0000u, 0x3f00'0000u, 0x3f00'0000u},
      {0x3f80'0000u, 0x4000'0000u, 0x3e89'b2b1u, 0x3f3b'26a8u},
      {0x4000'0000u, 0x3f80'0000u, 0x3f3b'26a8u, 0x3e89'b2b1u},
      {0xc060'0000u, 0x3e80'0000u, 0x3cbc'3b0au, 0x3f7a'1e28u},
      {0x3dcc'cccdu, 0x3e99'999au, 0x3ee6'7c28u, 0x3f0c'c1ecu},
      {0x42c8'0000u, 0x4148'0000u, 0x3f80'0000u, 0x0000'0000u},
      {0x4148'0000u, 0x42c8'0000u, 0x0000'0000u, 0x3f80'0000u},
      {0x4149'999au, 0x42c8'0000u, 0x0000'0000u, 0x3f80'0000u},
      {0x7149'f2cau, 0xf149'f2cau, 0x3f80'0000u, 0x0000'0000u},
      {0x7f61'b1e6u, 0xff61'b1e6u, 0x3f80'0000u, 0x0000'0000u},
      {0x0001'16c2u, 0x8001'16c2u, 0x3f00'0000u, 0x3f00'0000u},
      {0xc29a'4000u, 0xc298'2000u, 0x3e83'7f7cu, 0x3f3e'4041u},
      {0x4480'1000u, 0x447f'd000u, 0x3f46'fd20u, 0x3e64'0b82u},
      {0x7f80'0000u, 0x3f80'0000u, 0xffc0'0000u, 0xffc0'0000u},
      {0x3f80'0000u, 0x7f80'0000u, 0xffc0'0000u, 0xffc0'0000u},
      {0x7f80'0000u, 0x7f80'0000u, 0xffc0'0000u, 0xffc0'0000u},
      {0xff80'0000u, 0xff80'0000u, 0xffc0'0000u, 0xffc0'0000u},
      {0xff80'0000u, 0x4000'0000u, 0x0000'0000u, 0x3f80'0000u},
      {0x4000'0000u, 0xff80'0000u, 0x3f80'0000u, 0x0000'0000u},
      {0x7fc0'0000u, 0x3f80'0000u, 0x7fc0'0000u, 0x7fc0'0000u},
      {0x3f80'0000u, 0x7fc0'0000u, 0x7fc0'0000u, 0x7fc0'0000u},
  };
  for (const Case& c : kCases) {
    SCOPED_TRACE(float_of(c.l1));
    SCOPED_TRACE(float_of(c.l2));
    const SoftmaxPair p = softmax_pair(float_of(c.l1), float_of(c.l2));
    expect_bits(p.p1, c.p1);
    expect_bits(p.p2, c.p2);
  }
}

TEST(Rstd, HasTheBitsOfThePythonReference) {
  struct Case {
    std::uint32_t mean_square, eps, rstd;
  };
  constexpr Case kCases[] = {
      {0x0000'0000u, 0x3586'37bdu, 0x4479'ffffu}, {0x3f80'0000u, 0x3586'37bdu, 0x3f7f'fff8u},
      {0x3f00'0000u, 0x3586'37bdu, 0x3fb5'04e7u}, {0x3586'37bdu, 0x3586'37bdu, 0x4430'c6d6u},
      {0x4040'0000u, 0x3586'37bdu, 0x3f13'cd38u}, {0x0001'16c2u, 0x3586'37bdu, 0x4479'ffffu},
      {0x7f61'b1e6u, 0x3586'37bdu, 0x1f88'52afu}, {0x3eaa'a64cu, 0x3586'37bdu, 0x3fdd'b699u},
      {0x0000'0000u, 0x0000'0000u, 0x7f80'0000u}, {0x3f80'0000u, 0x0000'0000u, 0x3f80'0000u},
      {0x3f00'0000u, 0x0000'0000u, 0x3fb5'04f3u}, {0x3586'37bdu, 0x0000'0000u, 0x4479'ffffu},
      {0x4040'0000u, 0x0000'0000u, 0x3f13'cd3au}, {0x0001'16c2u, 0x0000'0000u, 0x60ad'790au},
      {0x7f61'b1e6u, 0x0000'0000u, 0x1f88'52afu}, {0x3eaa'a64cu, 0x0000'0000u, 0x3fdd'b6aeu},
      {0x0000'0000u, 0x3727'c5acu, 0x439e'1d28u}, {0x3f80'0000u, 0x3727'c5acu, 0x3f7f'ffacu},
      {0x3f00'0000u, 0x3727'c5acu, 0x3fb5'047cu}, {0x3586'37bdu, 0x3727'c5acu, 0x4396'c174u},
      {0x4040'0000u, 0x3727'c5acu, 0x3f13'cd2au}, {0x0001'16c2u, 0x3727'c5acu, 0x439e'1d28u},
      {0x7f61'b1e6u, 0x3727'c5acu, 0x1f88'52afu}, {0x3eaa'a64cu, 0x3727'c5acu, 0x3fdd'b5d4u},
  };
  for (const Case& c : kCases) {
    SCOPED_TRACE(float_of(c.mean_square));
    expect_bits(rstd_of(float_of(c.mean_square), float_of(c.eps)), c.rstd);
  }
}

TEST(Rstd, IsTheModel) {
  Random random(5);
  for (const Content content : kContents) {
    for (const float f : make_floats(content, 2000, random)) {
      for (const float eps : {0.0f, 1e-6f, 1.0f}) {
        const float want = model::div(1.0f, model::sqrt(model::add(f, eps)));
        EXPECT_TRUE(is_same(rstd_of(f, eps), want)) << f << " " << eps;
      }
    }
  }
}

}  // namespace
}  // namespace waybill::numerics::testing
