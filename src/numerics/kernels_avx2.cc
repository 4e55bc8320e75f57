#if defined(__x86_64__)

#include "numerics/simd_copy.h"
#include "numerics/simd_kernels.h"
#include "numerics/simd_x86.h"

namespace waybill::numerics {
namespace {

/// Primitives on 256 bits: AVX2 and F16C. Each does what the one of this name in
/// simd_avx512.h is said to do.
struct Avx2 : X86<Avx2> {
  using Float = __m256;
  using Int = __m256i;
  using Floats = FloatPair<Avx2>;

  static constexpr std::int64_t kLanes = 8;

  static Int load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static void store(void* p, Int v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
  static Float load_floats(const void* p) { return as_floats(load(p)); }
  static void store_floats(void* p, Float v) { store(p, as_ints(v)); }
  static Float set_float(float v) { return _mm256_set1_ps(v); }
  static Int set_int(std::int32_t v) { return _mm256_set1_epi32(v); }
  static Float as_floats(Int v) { return _mm256_castsi256_ps(v); }
  static Int as_ints(Float v) { return _mm256_castps_si256(v); }

  static Float add(Float x, Float y) { return _mm256_add_ps(x, y); }
  static Float mul(Float x, Float y) { return _mm256_mul_ps(x, y); }
  static Float div(Float x, Float y) { return _mm256_div_ps(x, y); }
  static Int bit_and(Int x, Int y) { return _mm256_and_si256(x, y); }
  static Int max_u16(Int x, Int y) { return _mm256_max_epu16(x, y); }
  static Int max_u32(Int x, Int y) { return _mm256_max_epu32(x, y); }
  static std::uint32_t reduce_max_u32(Int v) {
    __m128i m = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
    return static_cast<std::uint32_t>(_mm_cvtsi128_si32(m));
  }
  static Int magnitude(Float v) { return bit_and(as_ints(v), set_int(0x7fff'ffff)); }

  template <int kCount>
  static Int shift_left(Int v) {
    return _mm256_slli_epi32(v, kCount);
  }
  template <int kCount>
  static Int shift_right(Int v) {
    return _mm256_srli_epi32(v, kCount);
  }
  template <int kCount>
  static Int shift_right_signed(Int v) {
    return _mm256_srai_epi32(v, kCount);
  }

  static Int blend_words(Int low, Int high) { return _mm256_blend_epi16(low, high, 0xaa); }

  static Int unpack_low_64(Int a, Int b) { return _mm256_unpacklo_epi64(a, b); }
  static Int unpack_high_64(Int a, Int b) { return _mm256_unpackhi_epi64(a, b); }
  static Int pick_even_32(Int a, Int b) {
    return as_ints(_mm256_shuffle_ps(as_floats(a), as_floats(b), 0x88));
  }
  static Int pick_odd_32(Int a, Int b) {
    return as_ints(_mm256_shuffle_ps(as_floats(a), as_floats(b), 0xdd));
  }
  static Int transpose_lanes(Int v) {
    const __m128i a = _mm256_castsi256_si128(v);
    const __m128i b = _mm256_extracti128_si256(v, 1);
    return _mm256_set_m128i(_mm_unpackhi_epi16(a, b), _mm_unpacklo_epi16(a, b));
  }

  static Floats deinterleave(Floats v) {
    return {middle_swapped(_mm256_shuffle_ps(v.a, v.b, 0x88)),
            middle_swapped(_mm256_shuffle_ps(v.a, v.b, 0xdd))};
  }
  static Floats interleave(Floats v) {
    const Float low = _mm256_unpacklo_ps(v.a, v.b);
    const Float high = _mm256_unpackhi_ps(v.a, v.b);
    return {_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31)};
  }

  template <int kRepeat>
  static Float spread(const float* p) {
    static_assert(kRepeat == 4 || kRepeat == 8);
    if constexpr (kRepeat == 4) {
      return _mm256_set_m128(_mm_set1_ps(p[1]), _mm_set1_ps(p[0]));
    } else {
      return set_float(p[0]);
    }
  }

  static Float load_halves(const void* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  }
  static Floats widen_halves(Int halves) {
    return {_mm256_cvtph_ps(_mm256_castsi256_si128(halves)),
            _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1))};
  }
  static Int narrow_to_halves(Floats v) { return _mm256_set_m128i(to_halves(v.b), to_halves(v.a)); }
  static Float round_to_half(Float v) { return _mm256_cvtph_ps(to_halves(v)); }

  static IntPair<Avx2> round_to_upper_halves(Floats v) {
    if (_mm256_movemask_ps(_mm256_cmp_ps(v.a, v.b, _CMP_UNORD_Q)) != 0) [[unlikely]] {
      return {keep_nan(v.a, round_number(v.a)), keep_nan(v.b, round_number(v.b))};
    }
    return {round_number(v.a), round_number(v.b)};
  }
  static constexpr bool kHasBfloats = false;
  static constexpr bool kHasHalves = false;

  static Float to_floats(Int v) { return _mm256_cvtepi32_ps(v); }
  static Int to_ints(Float v) { return _mm256_cvtps_epi32(v); }
  static Float zero_for_nan(Float v) { return _mm256_and_ps(v, _mm256_cmp_ps(v, v, _CMP_ORD_Q)); }
  static Float replace_where_zero(Float key, Float v, float other) {
    return _mm256_blendv_ps(v, set_float(other), _mm256_cmp_ps(key, set_float(0.0f), _CMP_EQ_OQ));
  }
  static bool all_zero_or_within(float low, float high, Float v) {
    const Float is_zero = _mm256_cmp_ps(v, set_float(0.0f), _CMP_EQ_OQ);
    const Float above = _mm256_cmp_ps(v, set_float(low), _CMP_GE_OQ);
    const Float within = _mm256_and_ps(above, _mm256_cmp_ps(v, set_float(high), _CMP_LT_OQ));
    return _mm256_movemask_ps(_mm256_or_ps(is_zero, within)) == 0xff;
  }

  static Int pack_words(Int low, Int high) {
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
  }
  static void store_words_as_bytes(void* p, Int words) {
    const __m128i bytes =
        _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(static_cast<__m128i*>(p), _mm_max_epi8(bytes, _mm_set1_epi8(-127)));
  }
  static void store_low_bytes(void* p, IntPair<Avx2> v) {
    store_words_as_bytes(p, pack_words(v.a, v.b));
  }
  static void store_low_bytes_interleaved(void* p, IntPair<Avx2> v) {
    store_words_as_bytes(p, blend_words(v.a, shift_left<16>(v.b)));
  }
  static Int load_signed_bytes(const void* p) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p)));
  }
  static Int load_signed_words(const void* p) {
    return _mm256_cvtepi16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  }

  static void stream_line(void* to, const void* from) {
    auto* line = static_cast<__m256i*>(to);
    const auto* source = static_cast<const __m256i*>(from);
    _mm256_stream_si256(line, _mm256_loadu_si256(source));
    _mm256_stream_si256(line + 1, _mm256_loadu_si256(source + 1));
  }

 private:
  static Int round_number(Float v) {
    const Int bits = as_ints(v);
    const Int last_kept_bit = bit_and(_mm256_srli_epi32(bits, 16), set_int(1));
    return _mm256_add_epi32(bits, _mm256_add_epi32(last_kept_bit, set_int(0x7fff)));
  }
  static Int keep_nan(Float v, Int rounded) {
    const Float quiet = as_floats(_mm256_or_si256(as_ints(v), set_int(0x0040'0000)));
    const Float is_nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
    return as_ints(_mm256_blendv_ps(as_floats(rounded), quiet, is_nan));
  }
  static Float middle_swapped(Float v) {
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), 0xd8));
  }
  static __m128i to_halves(Float v) {
    return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
};

struct Avx2Rows {
  template <DType dtype>
  using Row = SimdRow<Avx2, dtype>;
};

}  // namespace

constinit const Kernels kAvx2Kernels =
    KernelTable<Avx2Rows>::make(SimdLevel::kAvx2, simd_copy<Avx2>);

}  // namespace waybill::numerics

#endif
