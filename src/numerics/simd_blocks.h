#pragma once

#include "numerics/simd_rows.h"

namespace waybill::numerics {

/// What every kernel is made of: blocks of a row, in registers and in memory.
template <class Isa, DType dtype>
class SimdBlocks {
 protected:
  using Form = Format<Isa, dtype>;
  using Order = typename Form::Order;
  using WideOrder = typename Form::WideOrder;
  using Storage = typename Form::Storage;
  using Int = typename Isa::Int;
  using Floats = FloatPair<Isa>;

  static constexpr std::int64_t kBlock = 2 * Isa::kLanes;
  static constexpr std::int64_t kChunk = kBlock * kCommGroup;  ///< one block of groups
  static constexpr std::int64_t kBlockBytes = kBlock * std::int64_t{sizeof(Storage)};

  /// body(first element, number of elements): kBlock of them, fewer the last time.
  template <class Body>
  [[gnu::always_inline]] static void for_each_block(std::int64_t h, Body body) {
    std::int64_t i = 0;
    for (; i + kBlock <= h; i += kBlock) body(i, kBlock);
    if (i < h) body(i, h - i);
  }

  static Floats zeros() { return {Isa::set_float(0.0f), Isa::set_float(0.0f)}; }
  static Floats add(Floats x, Floats y) { return {Isa::add(x.a, y.a), Isa::add(x.b, y.b)}; }
  static Floats mul(Floats x, Floats y) { return {Isa::mul(x.a, y.a), Isa::mul(x.b, y.b)}; }
  static Floats div(Floats x, Floats y) { return {Isa::div(x.a, y.a), Isa::div(x.b, y.b)}; }
  static Floats div_zero_for_nan(Floats x, Floats y) {
    return {Isa::zero_for_nan(Isa::div(x.a, y.a)), Isa::zero_for_nan(Isa::div(x.b, y.b))};
  }
  static Floats replace_where_zero(Floats key, Floats v, float other) {
    return {Isa::replace_where_zero(key.a, v.a, other), Isa::replace_where_zero(key.b, v.b, other)};
  }

  // Loads and stores of a block, which may be short: through a buffer, padded with zeros.

  template <class Element, auto kLoad>
  [[gnu::always_inline]] static auto load_padded(const void* row,
                                                 std::int64_t i,
                                                 std::int64_t count) {
    const char* p = static_cast<const char*>(row) + i * std::int64_t{sizeof(Element)};
    if (count == kBlock) return kLoad(p);
    alignas(64) char padded[kBlock * sizeof(Element)] = {};
    std::memcpy(padded, p, static_cast<std::size_t>(count) * sizeof(Element));
    return kLoad(padded);
  }

  template <class Element, auto kStore, class Value>
  [[gnu::always_inline]] static void store_padded(void* row,
                                                  std::int64_t i,
                                                  std::int64_t count,
                                                  Value v) {
    char* p = static_cast<char*>(row) + i * std::int64_t{sizeof(Element)};
    if (count == kBlock) return kStore(p, v);
    alignas(64) char padded[kBlock * sizeof(Element)];
    kStore(padded, v);
    std::memcpy(p, padded, static_cast<std::size_t>(count) * sizeof(Element));
  }

  [[gnu::always_inline]] static auto load_raw(const void* x, std::int64_t i, std::int64_t count) {
    return load_padded<Storage, Form::load>(x, i, count);
  }
  [[gnu::always_inline]] static Floats load_row(const void* x, std::int64_t i, std::int64_t count) {
    return load_padded<Storage, Form::load_floats>(x, i, count);
  }
  [[gnu::always_inline]] static Floats load_wide(const float* x,
                                                 std::int64_t i,
                                                 std::int64_t count) {
    return load_padded<float, WideOrder::load_floats>(x, i, count);
  }
  [[gnu::always_inline]] static Floats load_floats(const float* x,
                                                   std::int64_t i,
                                                   std::int64_t count) {
    return load_padded<float, Order::load_floats>(x, i, count);
  }
  [[gnu::always_inline]] static IntPair<Isa> load_bytes(const std::int8_t* q,
                                                        std::int64_t i,
                                                        std::int64_t count) {
    return load_padded<std::int8_t, WideOrder::load_bytes>(q, i, count);
  }
  [[gnu::always_inline]] static void store_row(void* x,
                                               std::int64_t i,
                                               std::int64_t count,
                                               Floats v) {
    store_padded<Storage, Form::store>(x, i, count, v);
  }
  [[gnu::always_inline]] static void store_wide(void* x,
                                                std::int64_t i,
                                                std::int64_t count,
                                                Floats v) {
    store_padded<Storage, Form::store_wide>(x, i, count, v);
  }
  [[gnu::always_inline]] static void store_normals(void* x,
                                                   std::int64_t i,
                                                   std::int64_t count,
                                                   Floats v) {
    store_padded<Storage, Form::store_normals>(x, i, count, v);
  }
  [[gnu::always_inline]] static void store_floats(float* x,
                                                  std::int64_t i,
                                                  std::int64_t count,
                                                  Floats v) {
    store_padded<float, Order::store_floats>(x, i, count, v);
  }
  [[gnu::always_inline]] static void store_bytes(std::int8_t* q,
                                                 std::int64_t i,
                                                 std::int64_t count,
                                                 IntPair<Isa> v) {
    store_padded<std::int8_t, Isa::store_words_as_bytes>(q, i, count, Order::to_words(v));
  }
  /// Only where every v is within +-127.
  [[gnu::always_inline]] static void store_low_bytes(std::int8_t* q,
                                                     std::int64_t i,
                                                     std::int64_t count,
                                                     IntPair<Isa> v) {
    store_padded<std::int8_t, Order::store_low_bytes>(q, i, count, v);
  }
  /// v rounded to halves and those to integers. Only where every integer is within +-127.
  [[gnu::always_inline]] static void store_halves(std::int8_t* q,
                                                  std::int64_t i,
                                                  std::int64_t count,
                                                  Floats v) {
    store_padded<std::int8_t, Order::store_halves_as_bytes>(q, i, count, v);
  }
};

}  // namespace waybill::numerics
