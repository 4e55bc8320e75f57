#include "numerics/model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace waybill::numerics::model {
namespace {

struct Format {
  int fraction_bits;
  int exponent_bits;

  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  int top_exponent() const { return (1 << exponent_bits) - 1; }
};

Format format_of(DType dtype) {
  switch (dtype) {
    case DType::kBFloat16:
      return {7, 8};
    case DType::kFloat16:
      return {10, 5};
    default:
      return {23, 8};
  }
}

struct Fields {
  bool negative;
  int exponent;
  std::uint32_t fraction;
};

Fields fields_of(Format format, std::uint32_t bits) {
  const std::uint32_t fraction_mask = (1u << format.fraction_bits) - 1;
  return {((bits >> (format.fraction_bits + format.exponent_bits)) & 1u) != 0,
          static_cast<int>(bits >> format.fraction_bits) & format.top_exponent(),
          bits & fraction_mask};
}

float to_float(double value) { return static_cast<float>(value); }

double largest_magnitude(const std::vector<float>& values) {
  double amax = 0;
  for (const float value : values) {
    if (std::isnan(value)) return std::numeric_limits<double>::quiet_NaN();
    amax = std::max(amax, std::fabs(double{value}));
  }
  return amax;
}

/// Node j of the `width` nodes of one level of the tree of lanes.
float node_of(const std::vector<float>& terms, std::size_t j, std::size_t width) {
  if (width < 16) return add(node_of(terms, j, 2 * width), node_of(terms, j + width, 2 * width));
  float lane = 0;
  for (std::size_t i = j; i < terms.size(); i += 16) lane = add(lane, terms[i]);
  return lane;
}

}  // namespace

std::uint32_t bits_at(DType dtype, const void* row, std::int64_t i) {
  std::uint32_t bits = 0;
  const auto size = static_cast<std::size_t>(size_of(dtype));
  std::memcpy(&bits, static_cast<const char*>(row) + i * size_of(dtype), size);
  return bits;
}

bool is_nan(DType dtype, std::uint32_t bits) { return std::isnan(decode(dtype, bits)); }

double decode(DType dtype, std::uint32_t bits) {
  const Format format = format_of(dtype);
  const Fields fields = fields_of(format, bits);
  double magnitude = fields.fraction;
  if (fields.exponent == format.top_exponent()) {
    magnitude = fields.fraction == 0 ? std::numeric_limits<double>::infinity()
                                     : std::numeric_limits<double>::quiet_NaN();
  } else {
    if (fields.exponent > 0) magnitude += std::ldexp(1.0, format.fraction_bits);
    const int exponent = std::max(fields.exponent, 1) - format.bias() - format.fraction_bits;
    magnitude = std::ldexp(magnitude, exponent);
  }
  return fields.negative ? -magnitude : magnitude;
}

std::uint32_t encode(DType dtype, double value) {
  const Format format = format_of(dtype);
  const std::uint32_t infinity = static_cast<std::uint32_t>(format.top_exponent())
                                 << format.fraction_bits;
  const std::uint32_t sign = 1u << (format.fraction_bits + format.exponent_bits);
  const std::uint32_t sign_bit = std::signbit(value) ? sign : 0;
  if (std::isnan(value)) return sign_bit | infinity | (1u << (format.fraction_bits - 1));
  if (std::isinf(value)) return sign_bit | infinity;
  if (value == 0) return sign_bit;

  const int smallest_normal = 1 - format.bias();
  const int exponent = std::max(std::ilogb(value), smallest_normal);
  const double unit = std::ldexp(1.0, exponent - format.fraction_bits);
  const double rounded = std::nearbyint(std::fabs(value) / unit) * unit;
  if (rounded >= std::ldexp(1.0, format.bias() + 1)) return sign_bit | infinity;
  if (rounded == 0) return sign_bit;

  const int rounded_exponent = std::max(std::ilogb(rounded), smallest_normal);
  const double rounded_unit = std::ldexp(1.0, rounded_exponent - format.fraction_bits);
  const auto significand = static_cast<std::uint32_t>(rounded / rounded_unit);
  const auto biased = static_cast<std::uint32_t>(rounded_exponent + format.bias());
  // A normal number's leading 1 adds one to the exponent field, a subnormal has none to add.
  return sign_bit | (((biased - 1) << format.fraction_bits) + significand);
}

std::int8_t to_int8(double value) {
  if (std::isnan(value)) return 0;
  return static_cast<std::int8_t>(std::clamp(std::nearbyint(value), -127.0, 127.0));
}

QuantisedRow quantise_row(const std::vector<float>& f) {
  QuantisedRow result{std::vector<std::int8_t>(f.size(), 0), 0.0f};
  const double amax = largest_magnitude(f);
  if (std::isnan(amax) || std::isinf(amax)) {
    result.scale = to_float(amax);
    return result;
  }
  const float d = amax == 0 ? 0.0f : to_float(127.0 / amax);
  if (amax == 0 || std::isinf(d)) return result;
  result.scale = to_float(1.0 / double{d});
  for (std::size_t i = 0; i < f.size(); ++i) result.q[i] = to_int8(double{mul(f[i], d)});
  return result;
}

CommGroup comm_quantise_group(const std::vector<float>& x) {
  CommGroup result{std::vector<std::int8_t>(x.size(), 0), 0.0f};
  const double amax = largest_magnitude(x);
  result.scale = mul(to_float(amax), to_float(1.0 / 127.0));
  if (!(result.scale > 0) || std::isinf(result.scale)) return result;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::uint32_t half = encode(DType::kFloat16, double{div(x[i], result.scale)});
    result.q[i] = to_int8(decode(DType::kFloat16, half));
  }
  return result;
}

float add(float a, float b) { return to_float(double{a} + double{b}); }
float mul(float a, float b) { return to_float(double{a} * double{b}); }
float div(float a, float b) { return to_float(double{a} / double{b}); }
float sqrt(float value) { return to_float(std::sqrt(double{value})); }

float sum_over_h(const std::vector<float>& terms) { return node_of(terms, 0, 1); }

}  // namespace waybill::numerics::model
