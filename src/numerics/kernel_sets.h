#pragma once

#include "numerics/kernels.h"
#include "numerics/scalar.h"

namespace waybill::numerics {

/// Always there, for every machine.
extern const Kernels kScalarKernels;

/// Only where the library is built for x86-64. Their functions: only where the machine has the set.
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;

/// row_scale_of, out of line. The files of one instruction set call this: an inline function that
/// they instantiate could be the copy that the linker keeps for machines without that set.
RowScale row_scale_out_of_line(std::uint32_t amax_bits) noexcept;

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

  static void comm_quantise_row(
      const void* x, DType dtype, std::int64_t h, std::int8_t* q, void* scales) {
    with_dtype(dtype, [&](auto row) { row.comm_quantise(x, h, q, scales); });
  }

  static void comm_dequantise_row(
      const std::int8_t* q, const void* scales, DType dtype, std::int64_t h, void* out) {
    with_dtype(dtype, [&](auto row) { row.comm_dequantise(q, scales, h, out); });
  }

  static constexpr Kernels make(SimdLevel level, decltype(Kernels::copy) copy) {
    return {level, quantise_row, weighted_sum, comm_quantise_row, comm_dequantise_row, copy};
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
