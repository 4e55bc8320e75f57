#pragma once

// gcc 12's own header passes what it calls an undefined vector and then warns of it.
#pragma GCC diagnostic push
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <cstdint>

namespace waybill::numerics {

/// Primitives on 256 bits that AVX-512 shares. Isa keeps the instances of two sets apart.
template <class Isa>
struct X86 {
  /// Largest magnitude, as bits, of 8 floats.
  static std::uint32_t max_of_group(const void* p) {
    const __m256i bits = _mm256_loadu_si256(static_cast<const __m256i*>(p));
    const __m256i all = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fff'ffff));
    __m128i m = _mm_max_epu32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
    return static_cast<std::uint32_t>(_mm_cvtsi128_si32(m));
  }

 private:
  X86() = default;
  friend Isa;
};

}  // namespace waybill::numerics
