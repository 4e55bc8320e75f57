#pragma once

#include <cstdint>
#include <vector>

#include "waybill/dtype.h"

/// The arithmetic of the contract once more, in doubles and with the C library's rounding, slow and
/// sharing nothing with src/numerics. The result of one operation on floats, computed in double and
/// then rounded to float, is the correctly rounded one: a double has more than twice the bits.
namespace waybill::numerics::model {

/// Element i of a row, as its bits.
std::uint32_t bits_at(DType dtype, const void* row, std::int64_t i);

bool is_nan(DType dtype, std::uint32_t bits);

/// Exact value of an element.
double decode(DType dtype, std::uint32_t bits);

/// Nearest element, ties to even. Any quiet NaN for NaN.
std::uint32_t encode(DType dtype, double value);

/// RNE to an integer within +-127; NaN gives 0.
std::int8_t to_int8(double value);

struct QuantisedRow {
  std::vector<std::int8_t> q;
  float scale;
};

/// f: the floats of the row, smooth scales applied.
QuantisedRow quantise_row(const std::vector<float>& f);

struct CommGroup {
  std::vector<std::int8_t> q;
  float scale;  ///< before it is rounded to the row's dtype
};

/// One group of at most 8 floats.
CommGroup comm_quantise_group(const std::vector<float>& x);

float add(float a, float b);
float mul(float a, float b);
float div(float a, float b);
float sqrt(float value);

/// Of all terms, in the project's order: 16 lanes, then a tree of pairs.
float sum_over_h(const std::vector<float>& terms);

}  // namespace waybill::numerics::model
