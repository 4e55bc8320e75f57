#pragma once

#include <cstdint>

/// Marks what the kernels of an accelerator share with the host.
#if defined(__CUDACC__)
#define WAYBILL_HOST_DEVICE __host__ __device__
#else
#define WAYBILL_HOST_DEVICE
#endif

// The one definition of every rounding. Conversions are integer arithmetic, so they depend on
// neither the instruction set nor the floating-point environment, and constant evaluation, host
// and device agree bit for bit.
namespace waybill::numerics {

WAYBILL_HOST_DEVICE constexpr std::uint32_t bits_of(float value) noexcept {
  return __builtin_bit_cast(std::uint32_t, value);
}

WAYBILL_HOST_DEVICE constexpr float float_of(std::uint32_t bits) noexcept {
  return __builtin_bit_cast(float, bits);
}

inline constexpr std::uint32_t kSignBit = 0x8000'0000u;
inline constexpr std::uint32_t kInfinityBits = 0x7f80'0000u;
inline constexpr std::uint32_t kQuietNanBits = 0x7fc0'0000u;

/// |value| as an unsigned number. Its order is that of the magnitudes, with infinity above every
/// finite value and NaN above infinity: a maximum over these never loses a NaN, which a maximum
/// over floats does.
WAYBILL_HOST_DEVICE constexpr std::uint32_t magnitude_bits(float value) noexcept {
  return bits_of(value) & ~kSignBit;
}

/// One multiplication, addition, division or square root, rounded to float32, that no compiler
/// fuses with its neighbours: nvcc contracts plain operators by default. On the host the build
/// turns it off.
WAYBILL_HOST_DEVICE inline float mul_rn(float a, float b) noexcept {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

WAYBILL_HOST_DEVICE inline float add_rn(float a, float b) noexcept {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}

WAYBILL_HOST_DEVICE inline float div_rn(float a, float b) noexcept {
#if defined(__CUDA_ARCH__)
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}

WAYBILL_HOST_DEVICE inline float sqrt_rn(float value) noexcept {
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(value);
#else
  return __builtin_sqrtf(value);
#endif
}

/// Drops the low `count` bits (1 to 31), rounding to nearest, ties to even. The carry may run into
/// the higher bits; in a float's encoding it then raises the exponent, which is the right result.
WAYBILL_HOST_DEVICE constexpr std::uint32_t shift_right_rne(std::uint32_t value,
                                                            unsigned count) noexcept {
  const std::uint32_t half_less_one = (std::uint32_t{1} << (count - 1)) - 1;
  const std::uint32_t last_kept_bit = (value >> count) & 1u;
  return (value + half_less_one + last_kept_bit) >> count;
}

/// Exact; a NaN keeps its bits.
WAYBILL_HOST_DEVICE constexpr float bfloat16_to_float(std::uint16_t bits) noexcept {
  return float_of(std::uint32_t{bits} << 16);
}

/// RNE. A NaN stays one: it becomes quiet, so that dropping its low bits cannot make an infinity.
WAYBILL_HOST_DEVICE constexpr std::uint16_t float_to_bfloat16(float value) noexcept {
  const std::uint32_t bits = bits_of(value);
  if (magnitude_bits(value) > kInfinityBits) {
    return static_cast<std::uint16_t>((bits >> 16) | 0x0040u);
  }
  return static_cast<std::uint16_t>(shift_right_rne(bits, 16));
}

/// Exact; a signalling NaN becomes quiet, as in the processors' own instructions.
WAYBILL_HOST_DEVICE constexpr float float16_to_float(std::uint16_t bits) noexcept {
  const std::uint32_t sign = (std::uint32_t{bits} & 0x8000u) << 16;
  const std::uint32_t exponent = (std::uint32_t{bits} >> 10) & 0x1fu;
  const std::uint32_t fraction = std::uint32_t{bits} & 0x3ffu;
  if (exponent == 0x1f) {
    const std::uint32_t quiet = fraction != 0 ? 0x0040'0000u : 0u;
    return float_of(sign | kInfinityBits | quiet | (fraction << 13));
  }
  if (exponent == 0) {
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return float_of(sign | bits_of(magnitude));
  }
  constexpr std::uint32_t kBiasDifference = 127 - 15;
  return float_of(sign | ((exponent + kBiasDifference) << 23) | (fraction << 13));
}

/// RNE, subnormal results included; from 65520 on infinity; a NaN stays one and becomes quiet.
WAYBILL_HOST_DEVICE constexpr std::uint16_t float_to_float16(float value) noexcept {
  constexpr std::uint32_t kTwoTo16 = 0x4780'0000u;         // rounds to infinity with all above
  constexpr std::uint32_t kSmallestNormal = 0x3880'0000u;  // 2^-14
  constexpr std::uint32_t kHalfOfSmallest = 0x3300'0000u;  // 2^-25: a tie, goes to zero
  constexpr std::uint32_t kRebias = std::uint32_t{127 - 15} << 23;

  const std::uint32_t magnitude = magnitude_bits(value);
  const std::uint32_t sign = (bits_of(value) & kSignBit) >> 16;
  std::uint32_t result = 0;
  if (magnitude > kInfinityBits) {
    result = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  } else if (magnitude >= kTwoTo16) {
    result = 0x7c00u;
  } else if (magnitude >= kSmallestNormal) {
    result = shift_right_rne(magnitude - kRebias, 13);
  } else if (magnitude > kHalfOfSmallest) {
    // The value is significand * 2^(exponent - 150); the unit of subnormal halves is 2^-24.
    const std::uint32_t exponent = magnitude >> 23;
    const std::uint32_t significand = (magnitude & 0x007f'ffffu) | 0x0080'0000u;
    result = shift_right_rne(significand, 126 - exponent);
  }
  return static_cast<std::uint16_t>(sign | result);
}

/// RNE to an integer, saturating at +-127. NaN gives 0.
WAYBILL_HOST_DEVICE inline std::int8_t float_to_int8(float value) noexcept {
  if (magnitude_bits(value) > kInfinityBits) return 0;
  if (value > 127.0f) return 127;
  if (value < -127.0f) return -127;
  // Near 1.5 * 2^23 floats are the integers: the addition rounds, the low bits are the result.
  return static_cast<std::int8_t>(bits_of(add_rn(value, 0x1.8p23f)) & 0xffu);
}

}  // namespace waybill::numerics
