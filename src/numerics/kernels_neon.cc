#if defined(__aarch64__)

#include <arm_neon.h>

#include "numerics/simd_copy.h"
#include "numerics/simd_kernels.h"

namespace waybill::numerics {
namespace {

/// Primitives on 128 bits: Advanced SIMD, which every machine of this architecture has. Each does
/// what the one of this name in simd_avx512.h is said to do.
struct Neon {
  using Float = float32x4_t;
  using Int = int32x4_t;
  using Floats = FloatPair<Neon>;

  static constexpr std::int64_t kLanes = 4;

  static Int load(const void* p) {
    return vreinterpretq_s32_u8(vld1q_u8(static_cast<const std::uint8_t*>(p)));
  }
  static void store(void* p, Int v) {
    vst1q_u8(static_cast<std::uint8_t*>(p), vreinterpretq_u8_s32(v));
  }
  static Float load_floats(const void* p) { return as_floats(load(p)); }
  static void store_floats(void* p, Float v) { store(p, as_ints(v)); }
  static Float set_float(float v) { return vdupq_n_f32(v); }
  static Int set_int(std::int32_t v) { return vdupq_n_s32(v); }
  static Float as_floats(Int v) { return vreinterpretq_f32_s32(v); }
  static Int as_ints(Float v) { return vreinterpretq_s32_f32(v); }

  static Float add(Float x, Float y) { return vaddq_f32(x, y); }
  static Float mul(Float x, Float y) { return vmulq_f32(x, y); }
  static Float div(Float x, Float y) { return vdivq_f32(x, y); }
  static Int bit_and(Int x, Int y) { return vandq_s32(x, y); }
  static Int max_u16(Int x, Int y) {
    return vreinterpretq_s32_u16(vmaxq_u16(vreinterpretq_u16_s32(x), vreinterpretq_u16_s32(y)));
  }
  static Int max_u32(Int x, Int y) { return as_signed(vmaxq_u32(as_unsigned(x), as_unsigned(y))); }
  static std::uint32_t reduce_max_u32(Int v) { return vmaxvq_u32(as_unsigned(v)); }
  static Int magnitude(Float v) { return bit_and(as_ints(v), set_int(0x7fff'ffff)); }
  static std::uint32_t max_of_group(const void* p) {
    const Int low = magnitude(load_floats(p));
    return reduce_max_u32(max_u32(low, magnitude(load_floats(static_cast<const char*>(p) + 16))));
  }

  template <int kCount>
  static Int shift_left(Int v) {
    return vshlq_n_s32(v, kCount);
  }
  template <int kCount>
  static Int shift_right(Int v) {
    return as_signed(vshrq_n_u32(as_unsigned(v), kCount));
  }
  template <int kCount>
  static Int shift_right_signed(Int v) {
    return vshrq_n_s32(v, kCount);
  }

  static Int blend_words(Int low, Int high) {
    return vbslq_s32(vdupq_n_u32(0xffff'0000), high, low);
  }

  static Int unpack_low_64(Int a, Int b) {
    return vreinterpretq_s32_s64(vzip1q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
  }
  static Int unpack_high_64(Int a, Int b) {
    return vreinterpretq_s32_s64(vzip2q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
  }
  static Int pick_even_32(Int a, Int b) { return vuzp1q_s32(a, b); }
  static Int pick_odd_32(Int a, Int b) { return vuzp2q_s32(a, b); }
  /// A vector is one lane of 128 bits.
  static Int transpose_lanes(Int v) { return v; }

  static Floats deinterleave(Floats v) { return {vuzp1q_f32(v.a, v.b), vuzp2q_f32(v.a, v.b)}; }
  static Floats interleave(Floats v) { return {vzip1q_f32(v.a, v.b), vzip2q_f32(v.a, v.b)}; }

  template <int kRepeat>
  static Float spread(const float* p) {
    static_assert(kRepeat == 4 || kRepeat == 8);
    return set_float(p[0]);
  }

  static Float load_halves(const void* p) {
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(static_cast<const std::uint8_t*>(p))));
  }
  static Floats widen_halves(Int halves) {
    const float16x8_t all = vreinterpretq_f16_s32(halves);
    return {vcvt_f32_f16(vget_low_f16(all)), vcvt_high_f32_f16(all)};
  }
  static Int narrow_to_halves(Floats v) {
    return vreinterpretq_s32_f16(vcvt_high_f16_f32(vcvt_f16_f32(v.a), v.b));
  }
  static Float round_to_half(Float v) { return vcvt_f32_f16(vcvt_f16_f32(v)); }

  static IntPair<Neon> round_to_upper_halves(Floats v) {
    return {round_to_upper_half(v.a), round_to_upper_half(v.b)};
  }
  static constexpr bool kHasBfloats = false;
  static constexpr bool kHasHalves = false;

  static Float to_floats(Int v) { return vcvtq_f32_s32(v); }
  static Int to_ints(Float v) { return vcvtnq_s32_f32(v); }
  static Float zero_for_nan(Float v) {
    return as_floats(bit_and(as_ints(v), as_signed(vceqq_f32(v, v))));
  }
  static Float replace_where_zero(Float key, Float v, float other) {
    return vbslq_f32(vceqzq_f32(key), set_float(other), v);
  }
  static bool all_zero_or_within(float low, float high, Float v) {
    const uint32x4_t within =
        vandq_u32(vcgeq_f32(v, set_float(low)), vcltq_f32(v, set_float(high)));
    return vminvq_u32(vorrq_u32(vceqzq_f32(v), within)) != 0;
  }

  static Int pack_words(Int low, Int high) {
    return vreinterpretq_s32_s16(vqmovn_high_s32(vqmovn_s32(low), high));
  }
  static void store_words_as_bytes(void* p, Int words) {
    const int8x8_t bytes = vqmovn_s16(as_words(words));
    vst1_s8(static_cast<std::int8_t*>(p), vmax_s8(bytes, vdup_n_s8(-127)));
  }
  static void store_low_bytes(void* p, IntPair<Neon> v) {
    store_low_bytes_of_words(p, vuzp1q_s16(as_words(v.a), as_words(v.b)));
  }
  static void store_low_bytes_interleaved(void* p, IntPair<Neon> v) {
    store_low_bytes_of_words(p, vtrn1q_s16(as_words(v.a), as_words(v.b)));
  }
  static Int load_signed_bytes(const void* p) {
    std::uint32_t bytes = 0;
    std::memcpy(&bytes, p, sizeof(bytes));
    const int16x8_t words = vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(bytes)));
    return vmovl_s16(vget_low_s16(words));
  }
  static Int load_signed_words(const void* p) {
    return vmovl_s16(vreinterpret_s16_u8(vld1_u8(static_cast<const std::uint8_t*>(p))));
  }

  /// Pairs of registers, with the hint that the line will not be read soon.
  static void stream_line(void* to, const void* from) {
    auto* line = static_cast<char*>(to);
    const auto* source = static_cast<const char*>(from);
    stream_pair(line, load(source), load(source + 16));
    stream_pair(line + 32, load(source + 32), load(source + 48));
  }

 private:
  static Int round_to_upper_half(Float v) {
    const Int bits = as_ints(v);
    const Int last_kept_bit = bit_and(shift_right<16>(bits), set_int(1));
    const Int rounded = vaddq_s32(bits, vaddq_s32(last_kept_bit, set_int(0x7fff)));
    const Int quiet = vorrq_s32(bits, set_int(0x0040'0000));
    return vbslq_s32(vceqq_f32(v, v), rounded, quiet);
  }
  static void store_low_bytes_of_words(void* p, int16x8_t words) {
    vst1_s8(static_cast<std::int8_t*>(p), vmovn_s16(words));
  }
  static int16x8_t as_words(Int v) { return vreinterpretq_s16_s32(v); }
  static uint32x4_t as_unsigned(Int v) { return vreinterpretq_u32_s32(v); }
  static Int as_signed(uint32x4_t v) { return vreinterpretq_s32_u32(v); }
  static void stream_pair(void* to, Int low, Int high) {
    asm volatile("stnp %q1, %q2, [%0]" : : "r"(to), "w"(low), "w"(high) : "memory");
  }
};

struct NeonRows {
  template <DType dtype>
  using Row = SimdRow<Neon, dtype>;
};

}  // namespace

constinit const Kernels kNeonKernels =
    KernelTable<NeonRows>::make(SimdLevel::kNeon, simd_copy<Neon>);

}  // namespace waybill::numerics

#endif
