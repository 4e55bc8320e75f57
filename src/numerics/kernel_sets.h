#pragma once

#include <span>

#include "numerics/kernels.h"
#include "numerics/scalar.h"

namespace waybill::numerics {

/// Always there, for every machine.
extern const Kernels kScalarKernels;

/// Only where the library is built for x86-64. Their functions: only where the machine has the set.
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
/// The same level: with AVX512_BF16; with that and AVX512_FP16.
extern const Kernels kAvx512Bf16Kernels;
extern const Kernels kAvx512Fp16Kernels;

/// Only where the library is built for AArch64.
extern const Kernels kNeonKernels;

/// One of the sets there are.
struct KernelSet {
  const char* name;
  const Kernels& kernels;
  bool supported;  ///< by this machine
};

/// All of them, each later one better than those before.
std::span<const KernelSet> kernel_sets() noexcept;

/// row_scale_of and sum_of_lanes, out of line. The files of one instruction set call these: an
/// inline function that they instantiate could be the copy that the linker keeps for machines
/// without that set.
RowScale row_scale_out_of_line(std::uint32_t amax_bits) noexcept;
float sum_of_lanes_out_of_line(float* lanes) noexcept;

/// Turns Rows::Row<dtype>, one class a dtype, into functions that take the dtype when they run; for
/// a dtype that rows cannot have they do nothing. Rows must have internal linkage: then all that is
/// instantiated with it has, too.
template <class Rows>
struct KernelTable {
  static void quantise_row(const void* x,
                           DType dtype,
                           const float* smooth,
                           std::int64_t h,
                           std::int8_t* q,
                           float* scale) {
    with_dtype(dtype, [&](auto row) { row.quantise(x, smooth, h, q, scale); });
  }

  static void weighted_sum(
      const Term* terms, std::int64_t num_terms, DType dtype, std::int64_t h, void* out) {
    with_dtype(dtype, [&](auto row) { row.weighted_sum(terms, num_terms, h, out); });
  }

  static void accumulate(const Term* terms,
                         std::int64_t num_terms,
                         DType dtype,
                         bool fresh,
                         std::int64_t h,
                         float* acc) {
    with_dtype(dtype, [&](auto row) { row.accumulate(terms, num_terms, fresh, h, acc); });
  }

  static void round_row(const float* f, DType dtype, std::int64_t h, void* out) {
    with_dtype(dtype, [&](auto row) { row.round(f, h, out); });
  }

  static float dot(const void* a, const void* b, DType dtype, std::int64_t h) {
    float sum = 0.0f;
    with_dtype(dtype, [&](auto row) { sum = row.dot(a, b, h); });
    return sum;
  }

  static float round_row_mean_square(
      const float* f, DType dtype, std::int64_t h, float inverse_h, void* out) {
    float sum = 0.0f;
    with_dtype(dtype, [&](auto row) { sum = row.round_mean_square(f, h, inverse_h, out); });
    return sum;
  }

  static void normalise_row(
      const float* f, float rstd, const void* gamma, DType dtype, std::int64_t h, void* y) {
    with_dtype(dtype, [&](auto row) { row.normalise(f, rstd, gamma, h, y); });
  }

  static void comm_quantise_row(
      const void* x, DType dtype, std::int64_t h, std::int8_t* q, void* scales) {
    with_dtype(dtype, [&](auto row) { row.comm_quantise(x, h, q, scales); });
  }

  static void comm_dequantise_row(
      const std::int8_t* q, const void* scales, DType dtype, std::int64_t h, void* out) {
    with_dtype(dtype, [&](auto row) { row.comm_dequantise(q, scales, h, out); });
  }

  static constexpr Kernels make(SimdLevel level, decltype(Kernels::copy) copy) {
    return {.level = level,
            .quantise_row = quantise_row,
            .weighted_sum = weighted_sum,
            .accumulate = accumulate,
            .round_row = round_row,
            .dot = dot,
            .round_row_mean_square = round_row_mean_square,
            .normalise_row = normalise_row,
            .comm_quantise_row = comm_quantise_row,
            .comm_dequantise_row = comm_dequantise_row,
            .copy = copy};
  }

 private:
  template <class Function>
  static void with_dtype(DType dtype, Function function) {
    if (dtype == DType::kBFloat16) {
      function(typename Rows::template Row<DType::kBFloat16>{});
    } else if (dtype == DType::kFloat16) {
      function(typename Rows::template Row<DType::kFloat16>{});
    } else if (dtype == DType::kFloat32) {
      function(typename Rows::template Row<DType::kFloat32>{});
    }
  }
};

}  // namespace waybill::numerics
