#pragma once

#include <cstdint>

#include "numerics/convert.h"
#include "waybill/dtype.h"

namespace waybill::numerics {

/// How an element of each dtype that rows can have is held in memory and what it means.
template <DType>
struct Element;

template <>
struct Element<DType::kBFloat16> {
  using Bits = std::uint16_t;
  WAYBILL_HOST_DEVICE static float to_float(Bits bits) { return bfloat16_to_float(bits); }
  WAYBILL_HOST_DEVICE static Bits from_float(float value) { return float_to_bfloat16(value); }
};

template <>
struct Element<DType::kFloat16> {
  using Bits = std::uint16_t;
  WAYBILL_HOST_DEVICE static float to_float(Bits bits) { return float16_to_float(bits); }
  WAYBILL_HOST_DEVICE static Bits from_float(float value) { return float_to_float16(value); }
};

template <>
struct Element<DType::kFloat32> {
  using Bits = float;
  WAYBILL_HOST_DEVICE static float to_float(Bits bits) { return bits; }
  WAYBILL_HOST_DEVICE static Bits from_float(float value) { return value; }
};

/// The nearest value that the dtype has, as a float.
template <DType dtype>
WAYBILL_HOST_DEVICE float round_to(float value) noexcept {
  return Element<dtype>::to_float(Element<dtype>::from_float(value));
}

}  // namespace waybill::numerics
