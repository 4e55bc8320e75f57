#pragma once

#include <cstdint>

#include "numerics/convert.h"
#include "numerics/element.h"

// The arithmetic of docs/contract/operators.md section 7, one element at a time. Every set of
// kernels, on whatever device, gives the bits that these functions give.
namespace waybill::numerics {

/// What quant_mode 2 derives from the largest magnitude of a row.
struct RowScale {
  float multiplier;  ///< d: q = RNE(f * d). 0 where every q of the row is 0
  float scale;       ///< what the receiver multiplies with: 1 / d
};

/// amax_bits: the maximum of magnitude_bits(f) over the row. A row with NaN gets q = 0 and scale
/// NaN, one with infinity q = 0 and scale infinity: d = 127/amax is then NaN or 0 and no q can be
/// meant, so all sets agree on zero.
WAYBILL_HOST_DEVICE inline RowScale row_scale_of(std::uint32_t amax_bits) noexcept {
  if (amax_bits > kInfinityBits) return {0.0f, float_of(kQuietNanBits)};
  if (amax_bits == kInfinityBits) return {0.0f, float_of(kInfinityBits)};
  if (amax_bits == 0) return {0.0f, 0.0f};
  const float d = div_rn(127.0f, float_of(amax_bits));
  if (bits_of(d) == kInfinityBits) return {0.0f, 0.0f};
  return {d, div_rn(1.0f, d)};
}

/// Only with a multiplier other than 0: a row without one may hold NaN and infinity.
WAYBILL_HOST_DEVICE inline std::int8_t quantise(float f, float multiplier) noexcept {
  return float_to_int8(mul_rn(f, multiplier));
}

/// One summand: separate multiplication and addition.
WAYBILL_HOST_DEVICE inline float accumulate(float acc, float value, float weight) noexcept {
  return add_rn(acc, mul_rn(value, weight));
}

/// Lanes of a sum over the hidden dimension. Lane j starts at 0 and takes the elements j, j + 16,
/// j + 32, ... one after the other: vectors of any width can keep this order.
inline constexpr int kSumLanes = 16;

/// The end of such a sum, a pairwise tree: lane j takes lane j + 8, then j + 4, j + 2, j + 1.
/// Spoils the lanes.
WAYBILL_HOST_DEVICE inline float sum_of_lanes(float* lanes) noexcept {
  for (int width = kSumLanes / 2; width > 0; width /= 2) {
    for (int j = 0; j < width; ++j) lanes[j] = add_rn(lanes[j], lanes[j + width]);
  }
  return lanes[0];
}

/// One summand of a mean square.
WAYBILL_HOST_DEVICE inline float mean_square_term(float f, float inverse_h) noexcept {
  return mul_rn(mul_rn(f, f), inverse_h);
}

/// One element of an RMS norm, before its second rounding to the dtype.
template <DType dtype>
WAYBILL_HOST_DEVICE float normalise(float f, float rstd, float gamma) noexcept {
  return mul_rn(round_to<dtype>(mul_rn(f, rstd)), gamma);
}

/// 1/127 rounded to float32, the factor of comm_quant_mode 2.
inline constexpr float kCommFactor = 1.0f / 127.0f;

/// Scale of a group whose largest magnitude has these bits, before it is rounded to the row's type.
WAYBILL_HOST_DEVICE inline float comm_scale_of(std::uint32_t amax_bits) noexcept {
  return mul_rn(float_of(amax_bits), kCommFactor);
}

/// scale: as comm_scale_of gives it, unrounded. A group whose scale is 0 (by underflow, too) gives
/// zeros; so does one with NaN or infinity, because finite/inf = 0 and the other quotients are NaN.
WAYBILL_HOST_DEVICE inline std::int8_t comm_quantise(float value, float scale) noexcept {
  if (scale == 0.0f) return 0;
  const float rounded_to_half = float16_to_float(float_to_float16(div_rn(value, scale)));
  return float_to_int8(rounded_to_half);
}

WAYBILL_HOST_DEVICE inline float comm_dequantise(std::int8_t q, float scale) noexcept {
  return mul_rn(static_cast<float>(q), scale);
}

}  // namespace waybill::numerics
