#pragma once

#include <utility>

#include "numerics/simd_blocks.h"

namespace waybill::numerics {

template <class Isa, DType dtype>
class SimdRow : SimdBlocks<Isa, dtype> {
  using Blocks = SimdBlocks<Isa, dtype>;
  using Blocks::add;
  using Blocks::div;
  using Blocks::div_zero_for_nan;
  using Blocks::for_each_block;
  using Blocks::kBlock;
  using Blocks::kBlockBytes;
  using Blocks::kChunk;
  using Blocks::load_bytes;
  using Blocks::load_floats;
  using Blocks::load_raw;
  using Blocks::load_row;
  using Blocks::load_wide;
  using Blocks::mul;
  using Blocks::replace_where_zero;
  using Blocks::store_bytes;
  using Blocks::store_floats;
  using Blocks::store_halves;
  using Blocks::store_low_bytes;
  using Blocks::store_normals;
  using Blocks::store_row;
  using Blocks::store_wide;
  using Blocks::zeros;
  using typename Blocks::Floats;
  using typename Blocks::Form;
  using typename Blocks::Int;
  using typename Blocks::Order;
  using typename Blocks::Storage;
  using typename Blocks::WideOrder;

 public:
  static void quantise(
      const void* x, const float* smooth, std::int64_t h, std::int8_t* q, float* scale) {
    if (smooth == nullptr) {
      // Rows are quantised in their order: the next one arrives while this one is computed. Beside
      // smooth scales the first cache has no room for it.
      const char* const next_row = static_cast<const char*>(x) + h * std::int64_t{sizeof(Storage)};
      const auto value = [=](std::int64_t i, std::int64_t count) {
        prefetch_lines<kBlockBytes>(next_row + i * std::int64_t{sizeof(Storage)});
        return load_row(x, i, count);
      };
      quantise_values(h, q, scale, max_magnitude(x, h), value);
      return;
    }
    const auto f = [=](std::int64_t i, std::int64_t count) {
      return mul(load_row(x, i, count), load_floats(smooth, i, count));
    };
    Int magnitude = Isa::set_int(0);
    for_each_block(h, [&](std::int64_t i, std::int64_t count) {
      magnitude = Isa::max_u32(magnitude, magnitude_of(f(i, count)));
    });
    quantise_values(h, q, scale, Isa::reduce_max_u32(magnitude), f);
  }

  static void weighted_sum(const Term* terms, std::int64_t num_terms, std::int64_t h, void* out) {
    const auto start = [](std::int64_t, std::int64_t) { return zeros(); };
    const auto finish = [=](std::int64_t i, std::int64_t count, Floats acc) {
      store_row(out, i, count, acc);
    };
    add_terms(terms, num_terms, h, start, finish);
  }

  static void accumulate(
      const Term* terms, std::int64_t num_terms, bool fresh, std::int64_t h, float* acc) {
    const auto start = [=](std::int64_t i, std::int64_t count) {
      return fresh ? zeros() : load_floats(acc, i, count);
    };
    const auto finish = [=](std::int64_t i, std::int64_t count, Floats sum) {
      store_floats(acc, i, count, sum);
    };
    add_terms(terms, num_terms, h, start, finish);
  }

  static void round(const float* f, std::int64_t h, void* out) {
    for_each_block(h, [=](std::int64_t i, std::int64_t count) {
      store_wide(out, i, count, load_wide(f, i, count));
    });
  }

  static float dot(const void* a, const void* b, std::int64_t h) {
    return sum_in_lanes<Order>(h, [=](std::int64_t i, std::int64_t count) {
      return mul(load_row(a, i, count), load_row(b, i, count));
    });
  }

  static float round_mean_square(const float* f, std::int64_t h, float inverse_h, void* out) {
    const auto factor = Isa::set_float(inverse_h);
    return sum_in_lanes<WideOrder>(h, [=](std::int64_t i, std::int64_t count) {
      const Floats value = load_wide(f, i, count);
      store_wide(out, i, count, value);
      return mul(mul(value, value), {factor, factor});
    });
  }

  static void normalise(const float* f, float rstd, const void* gamma, std::int64_t h, void* y) {
    const auto factor = Isa::set_float(rstd);
    for_each_block(h, [=](std::int64_t i, std::int64_t count) {
      const Floats product = mul(load_wide(f, i, count), {factor, factor});
      const Floats normalised = Form::round_wide(product);
      store_row(y, i, count, mul(normalised, load_row(gamma, i, count)));
    });
  }

  static void comm_quantise(const void* x, std::int64_t h, std::int8_t* q, void* scales) {
    std::int64_t begin = 0;
    for (; begin + kChunk <= h; begin += kChunk) comm_quantise_chunk(x, begin, kChunk, q, scales);
    if (begin < h) comm_quantise_chunk(x, begin, h - begin, q, scales);
  }

  static void comm_dequantise(const std::int8_t* q, const void* scales, std::int64_t h, void* out) {
    std::int64_t begin = 0;
    for (; begin + kChunk <= h; begin += kChunk) {
      comm_dequantise_chunk(q, scales, begin, kChunk, out);
    }
    if (begin < h) comm_dequantise_chunk(q, scales, begin, h - begin, out);
  }

 private:
  /// finish(i, count, start(i, count) plus the terms) for each block.
  template <class Start, class Finish>
  [[gnu::always_inline]] static void add_terms(
      const Term* terms, std::int64_t num_terms, std::int64_t h, Start start, Finish finish) {
    std::int64_t i = 0;
    if (num_terms >= 8) {
      i = add_in_runs(std::make_index_sequence<8>{}, terms, num_terms, h, start, finish);
    } else if (num_terms >= 4) {
      i = add_in_runs(std::make_index_sequence<4>{}, terms, num_terms, h, start, finish);
    }
    // Accumulators of this many blocks fit the registers, of AVX2 too.
    constexpr std::int64_t kBlocks = 4;
    for (; i + kBlocks * kBlock <= h; i += kBlocks * kBlock) {
      add_to_blocks<kBlocks>(terms, num_terms, i, kBlock, start, finish);
    }
    for (; i + kBlock <= h; i += kBlock) {
      add_to_blocks<1>(terms, num_terms, i, kBlock, start, finish);
    }
    if (i < h) add_to_blocks<1>(terms, num_terms, i, h - i, start, finish);
  }

  /// For runs of blocks, whose number of elements is returned. The addresses and weights of the
  /// first terms, as many as kTerm has, stay in registers.
  template <std::size_t... kTerm, class Start, class Finish>
  [[gnu::always_inline]] static std::int64_t add_in_runs(std::index_sequence<kTerm...>,
                                                         const Term* terms,
                                                         std::int64_t num_terms,
                                                         std::int64_t h,
                                                         Start start,
                                                         Finish finish) {
    constexpr std::int64_t kBlocks = kBlockBytes < 32 ? 4 : 2;  // at least a line, fetched once
    // The processor's own prefetching ends with each page, and rows are few pages long.
    constexpr std::int64_t kAhead = 512;
    const char* const rows[] = {static_cast<const char*>(terms[kTerm].row)...};
    const typename Isa::Float weights[] = {Isa::set_float(terms[kTerm].weight)...};
    const Term* const rest = terms + sizeof...(kTerm);
    std::int64_t i = 0;
    for (; i + kBlocks * kBlock <= h; i += kBlocks * kBlock) {
      Floats acc[kBlocks];
      for (std::int64_t b = 0; b < kBlocks; ++b) acc[b] = start(i + b * kBlock, kBlock);
      const std::int64_t offset = i * std::int64_t{sizeof(Storage)} + kAhead;
      (prefetch_lines<kBlocks * kBlockBytes>(rows[kTerm] + offset), ...);
      (add_row<kBlocks>(acc, rows[kTerm], i, kBlock, weights[kTerm]), ...);
      for (const Term* term = rest; term != terms + num_terms; ++term) {
        add_row<kBlocks>(acc, term->row, i, kBlock, Isa::set_float(term->weight));
      }
      for (std::int64_t b = 0; b < kBlocks; ++b) finish(i + b * kBlock, kBlock, acc[b]);
    }
    return i;
  }

  template <std::int64_t kBlocks, class Start, class Finish>
  [[gnu::always_inline]] static void add_to_blocks(const Term* terms,
                                                   std::int64_t num_terms,
                                                   std::int64_t i,
                                                   std::int64_t count,
                                                   Start start,
                                                   Finish finish) {
    Floats acc[kBlocks];
    for (std::int64_t b = 0; b < kBlocks; ++b) acc[b] = start(i + b * kBlock, count);
    for (const Term* term = terms; term != terms + num_terms; ++term) {
      add_row<kBlocks>(acc, term->row, i, count, Isa::set_float(term->weight));
    }
    for (std::int64_t b = 0; b < kBlocks; ++b) finish(i + b * kBlock, count, acc[b]);
  }

  template <std::int64_t kBlocks>
  [[gnu::always_inline]] static void add_row(Floats* acc,
                                             const void* row,
                                             std::int64_t i,
                                             std::int64_t count,
                                             typename Isa::Float weight) {
    for (std::int64_t b = 0; b < kBlocks; ++b) {
      const Floats value = load_row(row, i + b * kBlock, count);
      acc[b].a = Isa::add(acc[b].a, Isa::mul(value.a, weight));
      acc[b].b = Isa::add(acc[b].b, Isa::mul(value.b, weight));
    }
  }

  template <std::int64_t kBytes>
  [[gnu::always_inline]] static void prefetch_lines(const char* p) {
    for (std::int64_t line = 0; line < kBytes; line += 64) __builtin_prefetch(p + line);
  }

  /// The sum of values(i, count), which hold blocks in BlockOrder, over h in the order of
  /// kSumLanes. Past h the values are zeros, which change no lane: a lane is never -0.
  template <class BlockOrder, class Values>
  [[gnu::always_inline]] static float sum_in_lanes(std::int64_t h, Values values) {
    static_assert(kSumLanes % kBlock == 0 || Isa::kLanes == kSumLanes);
    alignas(64) float lanes[kSumLanes];
    if constexpr (kBlock == kSumLanes) {
      Floats sums = zeros();
      for_each_block(
          h, [&](std::int64_t i, std::int64_t count) { sums = add(sums, values(i, count)); });
      BlockOrder::store_floats(lanes, sums);
    } else if constexpr (kBlock < kSumLanes) {
      constexpr std::int64_t kBlocks = kSumLanes / kBlock;
      Floats sums[kBlocks];
      for (Floats& sum : sums) sum = zeros();
      std::int64_t i = 0;
      for (; i + kSumLanes <= h; i += kSumLanes) {
        for (std::int64_t b = 0; b < kBlocks; ++b) {
          sums[b] = add(sums[b], values(i + b * kBlock, kBlock));
        }
      }
      for (std::int64_t b = 0; i < h; i += kBlock, ++b) {
        sums[b] = add(sums[b], values(i, h - i < kBlock ? h - i : kBlock));
      }
      for (std::int64_t b = 0; b < kBlocks; ++b) {
        BlockOrder::store_floats(lanes + b * kBlock, sums[b]);
      }
    } else {
      auto sums = Isa::set_float(0.0f);
      for_each_block(h, [&](std::int64_t i, std::int64_t count) {
        const Floats block = BlockOrder::to_sequence(values(i, count));
        sums = Isa::add(Isa::add(sums, block.a), block.b);
      });
      Isa::store_floats(lanes, sums);
    }
    return sum_of_lanes_out_of_line(lanes);
  }

  /// f(i, count): the floats of a block, `count` of them and zeros.
  template <class Values>
  [[gnu::always_inline]] static void quantise_values(
      std::int64_t h, std::int8_t* q, float* scale, std::uint32_t amax_bits, Values f) {
    const RowScale row_scale = row_scale_out_of_line(amax_bits);
    std::memcpy(scale, &row_scale.scale, sizeof(float));
    if (row_scale.multiplier == 0.0f) {
      if (h > 0) std::memset(q, 0, static_cast<std::size_t>(h));
      return;
    }
    const auto multiplier = Isa::set_float(row_scale.multiplier);
    for_each_block(h, [=](std::int64_t i, std::int64_t count) {
      const Floats scaled = mul(f(i, count), {multiplier, multiplier});
      store_low_bytes(q, i, count, {Isa::to_ints(scaled.a), Isa::to_ints(scaled.b)});
    });
  }

  /// Whether, for groups with these scales, the two roundings that follow make value * (127/amax)
  /// as good as value / scale, which costs several times as much. They do for each pair of
  /// significands of 8 or of 11 bits (the tests try all), as long as no scale is near a subnormal.
  static bool multiplication_divides(Floats scale) {
    constexpr float kLeast = 0x1p-125f;
    constexpr float kInfinity = __builtin_huge_valf();
    return sizeof(Storage) == 2 && Isa::all_zero_or_within(kLeast, kInfinity, scale.a) &&
           Isa::all_zero_or_within(kLeast, kInfinity, scale.b);
  }

  [[gnu::always_inline]] static void comm_quantise_chunk(
      const void* x, std::int64_t begin, std::int64_t count, std::int8_t* q, void* scales) {
    const Floats amax = Form::widen(magnitudes_of_groups(x, begin, count));
    const auto factor = Isa::set_float(kCommFactor);
    const Floats scale = mul(amax, {factor, factor});
    store_row(scales, begin / kCommGroup, num_groups_in(count), scale);

    const auto value = [=](std::int64_t i, std::int64_t block_count) {
      return load_row(x, begin + i, block_count);
    };
    if (multiplication_divides(scale)) {
      const auto c = Isa::set_float(127.0f);
      const Floats multiplier = replace_where_zero(scale, div({c, c}, amax), 0.0f);
      comm_quantise_groups<store_rounded_within_range, mul>(count, q + begin, multiplier, value);
    } else {
      constexpr float kInfinity = __builtin_huge_valf();  // what is divided by it gives 0
      const Floats divisor = replace_where_zero(scale, scale, kInfinity);
      comm_quantise_groups<store_rounded, div_zero_for_nan>(count, q + begin, divisor, value);
    }
  }

  [[gnu::always_inline]] static void comm_dequantise_chunk(
      const std::int8_t* q, const void* scales, std::int64_t begin, std::int64_t count, void* out) {
    const Floats scale = load_row(scales, begin / kCommGroup, num_groups_in(count));
    // An integer times what is no subnormal is none either.
    if (Form::has_subnormal(scale)) [[unlikely]] {
      comm_dequantise_groups<store_wide>(q, scale, begin, count, out);
    } else {
      comm_dequantise_groups<store_normals>(q, scale, begin, count, out);
    }
  }

  static std::int64_t num_groups_in(std::int64_t count) {
    return (count + kCommGroup - 1) / kCommGroup;
  }

  /// q = RNE_int8(RNE_half(kCombine(value, operand of the group))).
  template <auto kStore, auto kCombine, class Values>
  [[gnu::always_inline]] static void comm_quantise_groups(std::int64_t h,
                                                          std::int8_t* q,
                                                          Floats operands,
                                                          Values value) {
    alignas(64) float spread[kBlock];
    Order::store_floats(spread, operands);
    keep_in_memory(spread);
    for_each_block(h, [=, &spread](std::int64_t i, std::int64_t count) {
      const Floats operand = Order::spread_groups(spread + i / kCommGroup);
      const Floats quotient = kCombine(value(i, count), operand);
      kStore(q, i, count, quotient);
    });
  }

  /// Spreading is a load that broadcasts; from registers compilers make several moves of it.
  [[gnu::always_inline]] static void keep_in_memory(float (&floats)[kBlock]) {
    asm("" : "+m"(floats));
  }

  template <auto kStore>
  [[gnu::always_inline]] static void comm_dequantise_groups(
      const std::int8_t* q, Floats scale, std::int64_t begin, std::int64_t h, void* out) {
    alignas(64) float factors[kBlock];
    Order::store_floats(factors, scale);
    keep_in_memory(factors);
    for_each_block(h, [=, &factors](std::int64_t i, std::int64_t count) {
      const IntPair<Isa> ints = load_bytes(q, begin + i, count);
      const Floats value = {Isa::to_floats(ints.a), Isa::to_floats(ints.b)};
      const Floats factor = WideOrder::spread_groups(factors + i / kCommGroup);
      kStore(out, begin + i, count, mul(value, factor));
    });
  }

  /// In the encoding of the dtype as far as it goes: cheaper than widening every element.
  static std::uint32_t max_magnitude(const void* x, std::int64_t h) {
    auto magnitude = Form::no_magnitude();
    for_each_block(h, [&](std::int64_t i, std::int64_t count) {
      magnitude = Form::max_magnitude(magnitude, load_raw(x, i, count));
    });
    return Isa::reduce_max_u32(magnitude_of(Form::widen(magnitude)));
  }

  static Int magnitude_of(Floats v) {
    return Isa::max_u32(Isa::magnitude(v.a), Isa::magnitude(v.b));
  }

  static typename Form::Raw magnitudes_of_groups(const void* x,
                                                 std::int64_t i,
                                                 std::int64_t count) {
    const char* p = static_cast<const char*>(x) + i * std::int64_t{sizeof(Storage)};
    if (count == kChunk) return Form::magnitudes_of_groups(p);
    alignas(64) char padded[kBlockBytes * kCommGroup] = {};
    std::memcpy(padded, p, static_cast<std::size_t>(count) * sizeof(Storage));
    return Form::magnitudes_of_groups(padded);
  }

  /// RNE_int8(RNE_half(quotient)).
  static void store_rounded(std::int8_t* q, std::int64_t i, std::int64_t count, Floats quotient) {
    store_bytes(q, i, count, {comm_round(quotient.a), comm_round(quotient.b)});
  }
  /// The same where every result is within +-127.
  static void store_rounded_within_range(std::int8_t* q,
                                         std::int64_t i,
                                         std::int64_t count,
                                         Floats quotient) {
    if constexpr (Isa::kHasHalves) {
      store_halves(q, i, count, quotient);
    } else {
      store_low_bytes(q, i, count, {comm_round(quotient.a), comm_round(quotient.b)});
    }
  }

  static Int comm_round(typename Isa::Float quotient) {
    return Isa::to_ints(Isa::round_to_half(quotient));
  }
};

}  // namespace waybill::numerics
