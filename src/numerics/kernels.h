#pragma once

#include <cstddef>
#include <cstdint>

#include "waybill/dtype.h"
#include "waybill/env.h"

namespace waybill::numerics {

/// Elements that share one scale on the quantised way back (comm_quant_mode 2).
inline constexpr std::int64_t kCommGroup = 8;

constexpr std::int64_t num_comm_groups(std::int64_t h) noexcept {
  return (h + kCommGroup - 1) / kCommGroup;
}

/// One summand of a token: acc = acc + float(row) * weight. Rows with weight 1 (shared experts) go
/// the same way: a product with 1.0f is exact.
struct Term {
  const void* row;  ///< (H,) in the dtype of the sum
  float weight;
};

/// Kind of store a bulk copy uses: ordinary, or non-temporal (past the caches).
enum class StoreKind : std::uint8_t { kOrdinary, kStreaming };

/// The kernels of one instruction set. All sets give the same bits for the same input; a NaN that
/// arithmetic makes may differ in its payload. Rows are contiguous; no pointer needs alignment;
/// reads and writes stay within the named extents. No function allocates or throws.
struct Kernels {
  SimdLevel level;

  /// quant_mode 2: h elements of x (dtype bfloat16, float16, float32) to int8.
  /// f = float(x), times smooth[i] where smooth is not null; amax = max|f|; d = 127.0f/amax;
  /// q = RNE(f*d); *scale = 1.0f/d. amax = 0 or d infinite: q = 0, *scale = 0. A row with NaN or
  /// infinity: q within [-127,127], *scale NaN or infinite.
  void (*quantise_row)(const void* x,
                       DType dtype,
                       const float* smooth,
                       std::int64_t h,
                       std::int8_t* q,
                       float* scale);

  /// out[i] = RNE_dtype(acc), acc = 0 then acc + float(term.row[i]) * term.weight in the order of
  /// the terms; separate multiply and add in float32. num_terms may be 0.
  void (*weighted_sum)(
      const Term* terms, std::int64_t num_terms, DType dtype, std::int64_t h, void* out);

  /// The same sum, neither started nor rounded: acc[i] = fresh ? 0 : acc[i], then
  /// acc[i] + float(term.row[i]) * term.weight in the order of the terms. num_terms may be 0. No
  /// row overlaps acc. An acc that is fresh is not read.
  void (*accumulate)(const Term* terms,
                     std::int64_t num_terms,
                     DType dtype,
                     bool fresh,
                     std::int64_t h,
                     float* acc);

  /// out[i] = RNE_dtype(f[i]).
  void (*round_row)(const float* f, DType dtype, std::int64_t h, void* out);

  /// Sum over i of float(a[i]) * float(b[i]), each product rounded, in the order of kSumLanes
  /// (scalar.h).
  float (*dot)(const void* a, const void* b, DType dtype, std::int64_t h);

  /// round_row, and the sum over i of (f[i] * f[i]) * inverse_h in the order of dot. inverse_h is
  /// finite. One after the other would cost more: the order leaves the sum one long chain of
  /// additions, and rounding fits beside it.
  float (*round_row_mean_square)(
      const float* f, DType dtype, std::int64_t h, float inverse_h, void* out);

  /// y[i] = RNE_dtype(float(RNE_dtype(f[i] * rstd)) * float(gamma[i])); gamma and y in the dtype.
  void (*normalise_row)(
      const float* f, float rstd, const void* gamma, DType dtype, std::int64_t h, void* y);

  /// comm_quant_mode 2, sender: per group of 8 (the last one as if padded with zeros)
  /// s = amax * (1/127 as float32); q = RNE_int8(RNE_half(float(x)/s)), saturating at +-127;
  /// scales[group] = RNE_dtype(s). Zero group (s = 0): q = 0, scale = 0 (also where s underflows to
  /// zero). Group with NaN or infinity: q within [-127,127], no crash.
  void (*comm_quantise_row)(
      const void* x, DType dtype, std::int64_t h, std::int8_t* q, void* scales);

  /// comm_quant_mode 2, receiver: out[i] = RNE_dtype(float(q[i]) * float(scales[i/8])).
  void (*comm_dequantise_row)(
      const std::int8_t* q, const void* scales, DType dtype, std::int64_t h, void* out);

  /// Copies bytes. After streaming stores call stream_fence() before anybody is told.
  void (*copy)(void* destination, const void* source, std::size_t bytes, StoreKind kind);
};

/// Orders earlier streaming stores of this thread before its later stores.
void stream_fence() noexcept;

/// True when this machine can run the set.
bool is_supported(SimdLevel level) noexcept;

/// The set of one level. Only when is_supported(level).
const Kernels& kernels(SimdLevel level) noexcept;

/// The best set this machine can run.
const Kernels& best_kernels() noexcept;

}  // namespace waybill::numerics
