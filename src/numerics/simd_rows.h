#pragma once

#include <cstring>
#include <type_traits>

#include "numerics/kernel_sets.h"

// The vector form of the kernels, written once over a class Isa of primitives (kernels_avx2.cc,
// simd_avx512.h and kernels_neon.cc define one each; simd_avx512.h says what each does). Two rules
// keep instructions of one set out of code that every machine runs: Isa has internal linkage, hence
// all that is instantiated with it; and nothing here calls an inline function that does not depend
// on Isa.
namespace waybill::numerics {

/// Two vectors that hold the floats of one block of 2 * Isa::kLanes elements, in an order that
/// depends on the dtype (Sequential, Interleaved).
template <class Isa>
struct FloatPair {
  typename Isa::Float a, b;
};

template <class Isa>
struct IntPair {
  typename Isa::Int a, b;
};

/// a: first half of the block, b: second half. Rows are not aligned, hence the void pointers.
template <class Isa>
struct Sequential {
  using Int = typename Isa::Int;

  static FloatPair<Isa> load_floats(const void* p) {
    return {Isa::load_floats(p), Isa::load_floats(second_half<float>(p))};
  }
  static void store_floats(void* p, FloatPair<Isa> v) {
    Isa::store_floats(p, v.a);
    Isa::store_floats(static_cast<char*>(p) + Isa::kLanes * sizeof(float), v.b);
  }
  static Int to_words(IntPair<Isa> v) { return Isa::pack_words(v.a, v.b); }
  static void store_low_bytes(void* p, IntPair<Isa> v) { Isa::store_low_bytes(p, v); }
  static void store_halves_as_bytes(void* p, FloatPair<Isa> v) { Isa::store_halves_as_bytes(p, v); }
  static IntPair<Isa> load_bytes(const void* p) {
    return {Isa::load_signed_bytes(p), Isa::load_signed_bytes(second_half<std::int8_t>(p))};
  }
  template <class Element>
  static const void* second_half(const void* p) {
    return static_cast<const char*>(p) + Isa::kLanes * sizeof(Element);
  }
  static FloatPair<Isa> spread_groups(const float* p) {
    return {Isa::template spread<8>(p), Isa::template spread<8>(p + Isa::kLanes / 8)};
  }
  static FloatPair<Isa> to_sequence(FloatPair<Isa> v) { return v; }
};

/// a: even elements, b: odd elements. Two elements of 16 bits share a lane, so that widening a
/// bfloat16 is one shift or one mask, without moves across lanes.
template <class Isa>
struct Interleaved {
  using Int = typename Isa::Int;

  static FloatPair<Isa> load_floats(const void* p) {
    return Isa::deinterleave(Sequential<Isa>::load_floats(p));
  }
  static void store_floats(void* p, FloatPair<Isa> v) {
    Sequential<Isa>::store_floats(p, Isa::interleave(v));
  }
  static Int to_words(IntPair<Isa> v) {
    return Isa::blend_words(v.a, Isa::template shift_left<16>(v.b));
  }
  static void store_low_bytes(void* p, IntPair<Isa> v) { Isa::store_low_bytes_interleaved(p, v); }
  static void store_halves_as_bytes(void* p, FloatPair<Isa> v) {
    Isa::store_halves_as_bytes_interleaved(p, v);
  }
  static IntPair<Isa> load_bytes(const void* p) {
    const Int words = Isa::load_signed_words(p);
    const Int even_on_top = Isa::template shift_left<24>(words);
    return {Isa::template shift_right_signed<24>(even_on_top),
            Isa::template shift_right_signed<8>(words)};
  }
  static FloatPair<Isa> spread_groups(const float* p) {
    const auto spread = Isa::template spread<4>(p);
    return {spread, spread};
  }
  static FloatPair<Isa> to_sequence(FloatPair<Isa> v) { return Isa::interleave(v); }
};

/// Memory form of a block of each dtype. Order: that of the floats of a row. WideOrder: that of
/// floats which come from elsewhere and are to be rounded. store_normals: store_wide where
/// has_subnormal() is false. Magnitudes are in the dtype's own encoding, without the sign: their
/// order is that of magnitude_bits, and fewer bits are handled than after widening.
template <class Isa, DType>
struct Format;

template <class Isa>
struct Format16 {
  using Storage = std::uint16_t;
  using Raw = typename Isa::Int;

  static Raw no_magnitude() { return Isa::set_int(0); }
  static Raw load(const void* p) { return Isa::load(p); }
  static Raw magnitude(Raw x) { return Isa::bit_and(x, Isa::set_int(0x7fff'7fff)); }
  static Raw max_magnitude(Raw acc, Raw x) { return Isa::max_u16(acc, magnitude(x)); }

  /// p: 8 blocks, that is one block of groups. The result: their largest magnitudes, in order.
  static Raw magnitudes_of_groups(const void* p) {
    // A group fills a lane of 128 bits. Three times two vectors are folded into one, words of the
    // one beside words of the other, until word b of lane l is the maximum of lane l of block b.
    const Int even_blocks = fold_32(fold_64(p, 0, 2), fold_64(p, 4, 6));
    const Int odd_blocks = fold_32(fold_64(p, 1, 3), fold_64(p, 5, 7));
    const Int low = Isa::blend_words(even_blocks, Isa::template shift_left<16>(odd_blocks));
    const Int high = Isa::blend_words(Isa::template shift_right<16>(even_blocks), odd_blocks);
    return Isa::transpose_lanes(Isa::max_u16(low, high));
  }

 private:
  using Int = typename Isa::Int;

  static Int fold_64(const void* p, int block_a, int block_b) {
    constexpr std::int64_t kBlockBytes = sizeof(Int);
    const Int a = magnitude(load(static_cast<const char*>(p) + block_a * kBlockBytes));
    const Int b = magnitude(load(static_cast<const char*>(p) + block_b * kBlockBytes));
    return Isa::max_u16(Isa::unpack_low_64(a, b), Isa::unpack_high_64(a, b));
  }
  static Int fold_32(Int a, Int b) {
    return Isa::max_u16(Isa::pick_even_32(a, b), Isa::pick_odd_32(a, b));
  }
};

template <class Isa>
struct Format<Isa, DType::kBFloat16> : Format16<Isa> {
  using Order = Interleaved<Isa>;
  using WideOrder = std::conditional_t<Isa::kHasBfloats, Sequential<Isa>, Interleaved<Isa>>;
  using Int = typename Isa::Int;

  static FloatPair<Isa> widen(Int raw) {
    const Int even = Isa::template shift_left<16>(raw);
    const Int odd = Isa::bit_and(raw, Isa::set_int(static_cast<std::int32_t>(0xffff'0000u)));
    return {Isa::as_floats(even), Isa::as_floats(odd)};
  }
  static FloatPair<Isa> load_floats(const void* p) { return widen(Isa::load(p)); }
  static void store(void* p, FloatPair<Isa> v) { Isa::store(p, narrow(v)); }
  static void store_wide(void* p, FloatPair<Isa> v) { Isa::store(p, narrow_wide(v)); }
  static bool has_subnormal(FloatPair<Isa> v) {
    if constexpr (Isa::kHasBfloats) {
      return Isa::any_subnormal(v);
    } else {
      return true;
    }
  }
  static void store_normals(void* p, FloatPair<Isa> v) {
    if constexpr (Isa::kHasBfloats) {
      Isa::store(p, Isa::narrow_normals(v));
    } else {
      store_wide(p, v);
    }
  }
  /// To values that the dtype has, from WideOrder to Order.
  static FloatPair<Isa> round_wide(FloatPair<Isa> v) { return widen(narrow_wide(v)); }

 private:
  static Int narrow(FloatPair<Isa> v) {
    const IntPair<Isa> rounded = Isa::round_to_upper_halves(v);
    return Isa::blend_words(Isa::template shift_right<16>(rounded.a), rounded.b);
  }
  static Int narrow_wide(FloatPair<Isa> v) {
    if constexpr (Isa::kHasBfloats) {
      if (!Isa::any_subnormal(v)) return Isa::narrow_normals(v);
      return narrow(Isa::deinterleave(v));
    } else {
      return narrow(v);
    }
  }
};

template <class Isa>
struct Format<Isa, DType::kFloat16> : Format16<Isa> {
  using Order = Sequential<Isa>;
  using WideOrder = Order;

  static FloatPair<Isa> widen(typename Isa::Int raw) { return Isa::widen_halves(raw); }
  static FloatPair<Isa> load_floats(const void* p) {
    return {Isa::load_halves(p), Isa::load_halves(Order::template second_half<std::uint16_t>(p))};
  }
  static void store(void* p, FloatPair<Isa> v) { Isa::store(p, Isa::narrow_to_halves(v)); }
  static void store_wide(void* p, FloatPair<Isa> v) { store(p, v); }
  static void store_normals(void* p, FloatPair<Isa> v) { store(p, v); }
  static bool has_subnormal(FloatPair<Isa>) { return false; }
  static FloatPair<Isa> round_wide(FloatPair<Isa> v) {
    return {Isa::round_to_half(v.a), Isa::round_to_half(v.b)};
  }
};

template <class Isa>
struct Format<Isa, DType::kFloat32> {
  using Storage = std::uint32_t;
  using Raw = FloatPair<Isa>;
  using Order = Sequential<Isa>;
  using WideOrder = Order;

  static Raw no_magnitude() { return {Isa::set_float(0.0f), Isa::set_float(0.0f)}; }
  static Raw load(const void* p) { return Order::load_floats(p); }
  static Raw max_magnitude(Raw acc, Raw x) {
    return {Isa::as_floats(Isa::max_u32(Isa::as_ints(acc.a), Isa::magnitude(x.a))),
            Isa::as_floats(Isa::max_u32(Isa::as_ints(acc.b), Isa::magnitude(x.b)))};
  }
  static Raw magnitudes_of_groups(const void* p) {
    alignas(64) Storage magnitudes[2 * Isa::kLanes];
    const auto* group = static_cast<const char*>(p);
    for (Storage& magnitude : magnitudes) {
      magnitude = Isa::max_of_group(group);
      group += kCommGroup * sizeof(Storage);
    }
    return load(magnitudes);
  }
  static FloatPair<Isa> widen(Raw raw) { return raw; }
  static FloatPair<Isa> load_floats(const void* p) { return load(p); }
  static void store(void* p, FloatPair<Isa> v) { Order::store_floats(p, v); }
  static void store_wide(void* p, FloatPair<Isa> v) { store(p, v); }
  static void store_normals(void* p, FloatPair<Isa> v) { store(p, v); }
  static bool has_subnormal(FloatPair<Isa>) { return false; }
  static FloatPair<Isa> round_wide(FloatPair<Isa> v) { return v; }
};

}  // namespace waybill::numerics
