#pragma once

#include <cstdint>

#include "numerics/convert.h"

// exp, softmax and the reciprocal root, each a sequence of single IEEE operations: the bits of a
// library's functions depend on the library and on the machine.
namespace waybill::numerics {

/// exp(x) of x <= 0, within 1.2 ulp; +0 where exp(x) is less than the least normal number; NaN
/// stays NaN.
WAYBILL_HOST_DEVICE inline float exp_f32(float x) noexcept {
  constexpr float kLowest = -0x1.5d589ep+6f;
  constexpr float kLog2E = 0x1.715476p+0f;
  constexpr float kLn2High = 0x1.62e4p-1f;  // of 15 significant bits: n * kLn2High is exact
  constexpr float kLn2Low = 0x1.7f7d1cp-20f;
  constexpr float kToInteger = 0x1.8p23f;  // near it floats are the integers: adding it rounds
  if (magnitude_bits(x) > kInfinityBits) return x;
  if (x < kLowest) return 0.0f;

  const float shifted = add_rn(mul_rn(x, kLog2E), kToInteger);
  const float n = add_rn(shifted, -kToInteger);
  const float r = add_rn(add_rn(x, -mul_rn(n, kLn2High)), -mul_rn(n, kLn2Low));
  float p = 0x1.a01a02p-13f;                  // 1/7!
  p = add_rn(mul_rn(p, r), 0x1.6c16c2p-10f);  // 1/6!
  p = add_rn(mul_rn(p, r), 0x1.111112p-7f);
  p = add_rn(mul_rn(p, r), 0x1.555556p-5f);
  p = add_rn(mul_rn(p, r), 0x1.555556p-3f);
  p = add_rn(mul_rn(p, r), 0.5f);
  p = add_rn(mul_rn(p, r), 1.0f);
  p = add_rn(mul_rn(p, r), 1.0f);
  const std::uint32_t exponent = bits_of(shifted) - bits_of(kToInteger);  // n, modulo 2^32
  return mul_rn(p, float_of((exponent + 127u) << 23));
}

struct SoftmaxPair {
  float p1, p2;
};

/// The softmax of two numbers. NaN in either, or an infinite maximum, makes a NaN of both.
WAYBILL_HOST_DEVICE inline SoftmaxPair softmax_pair(float l1, float l2) noexcept {
  // Where one is NaN it does not matter which is taken: the NaN stays in its own difference and
  // with it in the total.
  const float largest = l1 > l2 ? l1 : l2;
  const float e1 = exp_f32(add_rn(l1, -largest));
  const float e2 = exp_f32(add_rn(l2, -largest));
  const float total = add_rn(e1, e2);
  return {div_rn(e1, total), div_rn(e2, total)};
}

/// 1 / sqrt(mean_square + eps), the factor of an RMS norm.
WAYBILL_HOST_DEVICE inline float rstd_of(float mean_square, float eps) noexcept {
  return div_rn(1.0f, sqrt_rn(add_rn(mean_square, eps)));
}

}  // namespace waybill::numerics
