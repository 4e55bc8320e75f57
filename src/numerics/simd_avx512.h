#pragma once

#include "numerics/simd_rows.h"
#include "numerics/simd_x86.h"

// Included by each file that is compiled for AVX-512, with or without further sets: internal
// linkage keeps what they make of it apart.
namespace waybill::numerics {
namespace {

/// Primitives on 512 bits: AVX-512 F, BW, DQ, VL; for bfloat16 and halves their own sets where it
/// is compiled for them.
struct Avx512 : X86<Avx512> {
  using Float = __m512;
  using Int = __m512i;
  using Floats = FloatPair<Avx512>;

  static constexpr std::int64_t kLanes = 16;

  static Int load(const void* p) { return _mm512_loadu_si512(p); }
  static void store(void* p, Int v) { _mm512_storeu_si512(p, v); }
  static Float load_floats(const void* p) { return as_floats(load(p)); }
  static void store_floats(void* p, Float v) { store(p, as_ints(v)); }
  static Float set_float(float v) { return _mm512_set1_ps(v); }
  static Int set_int(std::int32_t v) { return _mm512_set1_epi32(v); }
  static Float as_floats(Int v) { return _mm512_castsi512_ps(v); }
  static Int as_ints(Float v) { return _mm512_castps_si512(v); }

  static Float add(Float x, Float y) { return _mm512_add_ps(x, y); }
  static Float mul(Float x, Float y) { return _mm512_mul_ps(x, y); }
  static Float div(Float x, Float y) { return _mm512_div_ps(x, y); }
  static Int bit_and(Int x, Int y) { return _mm512_and_si512(x, y); }
  static Int max_u16(Int x, Int y) { return _mm512_max_epu16(x, y); }
  static Int max_u32(Int x, Int y) { return _mm512_max_epu32(x, y); }
  static std::uint32_t reduce_max_u32(Int v) { return _mm512_reduce_max_epu32(v); }
  static Int magnitude(Float v) { return bit_and(as_ints(v), set_int(0x7fff'ffff)); }

  template <unsigned kCount>
  static Int shift_left(Int v) {
    return _mm512_slli_epi32(v, kCount);
  }
  template <unsigned kCount>
  static Int shift_right(Int v) {
    return _mm512_srli_epi32(v, kCount);
  }
  template <unsigned kCount>
  static Int shift_right_signed(Int v) {
    return _mm512_srai_epi32(v, kCount);
  }

  /// Low word of each lane from `low`, high word from `high`.
  static Int blend_words(Int low, Int high) {
    return _mm512_mask_blend_epi16(0xaaaa'aaaau, low, high);
  }

  /// In each lane of 128 bits: the low (high) 64 bits of a, then of b.
  static Int unpack_low_64(Int a, Int b) { return _mm512_unpacklo_epi64(a, b); }
  static Int unpack_high_64(Int a, Int b) { return _mm512_unpackhi_epi64(a, b); }
  /// In each lane of 128 bits: the even (odd) floats of a, then of b.
  static Int pick_even_32(Int a, Int b) {
    return as_ints(_mm512_shuffle_ps(as_floats(a), as_floats(b), 0x88));
  }
  static Int pick_odd_32(Int a, Int b) {
    return as_ints(_mm512_shuffle_ps(as_floats(a), as_floats(b), 0xdd));
  }
  /// Word w of lane l (of 128 bits) becomes word (number of lanes) * w + l.
  static Int transpose_lanes(Int v) {
    alignas(64) static constexpr std::uint16_t kOrder[32] = {
        0, 8,  16, 24, 1, 9,  17, 25, 2, 10, 18, 26, 3, 11, 19, 27,
        4, 12, 20, 28, 5, 13, 21, 29, 6, 14, 22, 30, 7, 15, 23, 31};
    return _mm512_permutexvar_epi16(load(kOrder), v);
  }

  /// Even floats of the sequence a, b; odd floats of it.
  static Floats deinterleave(Floats v) {
    const Int even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const Int odd = _mm512_add_epi32(even, set_int(1));
    return {_mm512_permutex2var_ps(v.a, even, v.b), _mm512_permutex2var_ps(v.a, odd, v.b)};
  }
  static Floats interleave(Floats v) {
    const Int low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const Int high = _mm512_add_epi32(low, set_int(8));
    return {_mm512_permutex2var_ps(v.a, low, v.b), _mm512_permutex2var_ps(v.a, high, v.b)};
  }

  /// p[0] kRepeat times, then p[1], ...: kLanes / kRepeat floats are read.
  template <int kRepeat>
  static Float spread(const float* p) {
    static_assert(kRepeat == 4 || kRepeat == 8);
    if constexpr (kRepeat == 4) {
      const Int index = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
      return _mm512_permutexvar_ps(index, _mm512_castps128_ps512(_mm_loadu_ps(p)));
    } else {
      return _mm512_mask_mov_ps(set_float(p[0]), 0xff00, set_float(p[1]));
    }
  }

  /// kLanes halves.
  static Float load_halves(const void* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  }
  static Floats widen_halves(Int halves) {
    return {_mm512_cvtph_ps(_mm512_castsi512_si256(halves)),
            _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1))};
  }
  static Int narrow_to_halves(Floats v) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(to_halves(v.a)), to_halves(v.b), 1);
  }
  static Float round_to_half(Float v) { return _mm512_cvtph_ps(to_halves(v)); }

  /// bfloat16 in the upper half of each lane, anything in the lower. By integers, where
  /// instructions for bfloat16 take subnormals for zero.
  static IntPair<Avx512> round_to_upper_halves(Floats v) {
    if (_mm512_cmp_ps_mask(v.a, v.b, _CMP_UNORD_Q) != 0) [[unlikely]] {
      return {keep_nan(v.a, round_number(v.a)), keep_nan(v.b, round_number(v.b))};
    }
    return {round_number(v.a), round_number(v.b)};
  }

#if defined(__AVX512BF16__)
  static constexpr bool kHasBfloats = true;

  static bool any_subnormal(Floats v) {
    constexpr int kSubnormal = 0x20;
    return _kortestz_mask16_u8(_mm512_fpclass_ps_mask(v.a, kSubnormal),
                               _mm512_fpclass_ps_mask(v.b, kSubnormal)) == 0;
  }
  /// The sequence v.a, v.b as bfloat16. Only where none is subnormal.
  static Int narrow_normals(Floats v) {
    return __builtin_bit_cast(Int, _mm512_cvtne2ps_pbh(v.b, v.a));
  }
#else
  static constexpr bool kHasBfloats = false;
#endif

  static Float to_floats(Int v) { return _mm512_cvtepi32_ps(v); }
  static Int to_ints(Float v) { return _mm512_cvtps_epi32(v); }
  static Float zero_for_nan(Float v) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(v, v, _CMP_ORD_Q), v);
  }
  /// v, but `other` where `key` is zero.
  static Float replace_where_zero(Float key, Float v, float other) {
    const __mmask16 is_zero = _mm512_cmp_ps_mask(key, set_float(0.0f), _CMP_EQ_OQ);
    return _mm512_mask_mov_ps(v, is_zero, set_float(other));
  }
  /// Whether each v is 0 or low <= v < high.
  static bool all_zero_or_within(float low, float high, Float v) {
    const __mmask16 is_zero = _mm512_cmp_ps_mask(v, set_float(0.0f), _CMP_EQ_OQ);
    const __mmask16 above = _mm512_cmp_ps_mask(v, set_float(low), _CMP_GE_OQ);
    const __mmask16 within = _mm512_mask_cmp_ps_mask(above, v, set_float(high), _CMP_LT_OQ);
    return _kortestc_mask16_u8(is_zero, within) != 0;
  }

  /// 2 * kLanes words of 16 bits from the lanes of low, then of high, saturating.
  static Int pack_words(Int low, Int high) {
    const Int order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    return _mm512_permutexvar_epi64(order, _mm512_packs_epi32(low, high));
  }
  /// Saturating at +-127.
  static void store_words_as_bytes(void* p, Int words) {
    const __m256i bytes = _mm256_max_epi8(_mm512_cvtsepi16_epi8(words), _mm256_set1_epi8(-127));
    _mm256_storeu_si256(static_cast<__m256i*>(p), bytes);
  }
  /// The low byte of each lane: of a, then of b; of a and b by turns.
  static void store_low_bytes(void* p, IntPair<Avx512> v) {
    auto* bytes = static_cast<__m128i*>(p);
    _mm_storeu_si128(bytes, _mm512_cvtepi32_epi8(v.a));
    _mm_storeu_si128(bytes + 1, _mm512_cvtepi32_epi8(v.b));
  }
  static void store_low_bytes_interleaved(void* p, IntPair<Avx512> v) {
    const Int pairs =
        _mm512_ternarylogic_epi32(set_int(0xff), v.a, shift_left<8>(v.b), kSecondWhereFirst);
    _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(pairs));
  }
#if defined(__AVX512FP16__)
  static constexpr bool kHasHalves = true;

  /// Halves, then integers, in the order of store_low_bytes. Only where these are within +-127.
  static void store_halves_as_bytes(void* p, Floats v) {
    const Int words = _mm512_cvtph_epi16(_mm512_castsi512_ph(narrow_to_halves(v)));
    _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi16_epi8(words));
  }
  static void store_halves_as_bytes_interleaved(void* p, Floats v) {
    const __m256i even = _mm256_cvtph_epi16(_mm256_castsi256_ph(to_halves(v.a)));
    const __m256i odd = _mm256_cvtph_epi16(_mm256_castsi256_ph(to_halves(v.b)));
    const __m256i bytes = _mm256_ternarylogic_epi32(
        _mm256_set1_epi16(0xff), even, _mm256_slli_epi16(odd, 8), kSecondWhereFirst);
    _mm256_storeu_si256(static_cast<__m256i*>(p), bytes);
  }
#else
  static constexpr bool kHasHalves = false;
#endif

  /// kLanes bytes, or words of 16 bits, one a lane.
  static Int load_signed_bytes(const void* p) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  }
  static Int load_signed_words(const void* p) {
    return _mm512_cvtepi16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  }

  /// 64 bytes past the caches; `to` is aligned.
  static void stream_line(void* to, const void* from) {
    _mm512_stream_si512(static_cast<__m512i*>(to), load(from));
  }

 private:
  /// For a ternary operation: the first operand chooses.
  static constexpr int kSecondWhereFirst = 0xca;

  /// Of what is no NaN. The bit that is kept last decides a tie.
  static Int round_number(Float v) {
    const Int bits = as_ints(v);
    const __mmask16 is_odd = _mm512_test_epi32_mask(bits, set_int(0x0001'0000));
    const Int down = _mm512_add_epi32(bits, set_int(0x7fff));
    return _mm512_mask_add_epi32(down, is_odd, bits, set_int(0x8000));
  }
  static Int keep_nan(Float v, Int rounded) {
    const __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_mask_or_epi32(rounded, is_nan, as_ints(v), set_int(0x0040'0000));
  }
  static __m256i to_halves(Float v) {
    return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
};

}  // namespace
}  // namespace waybill::numerics
