#pragma once

#include <cstdint>

namespace waybill {

/// Element types of tensors that cross the API. bfloat16 and float16 are held as their 16 bits.
enum class DType : std::uint8_t {
  kBFloat16 = 0,
  kFloat16 = 1,
  kFloat32 = 2,
  kInt8 = 3,
  kInt32 = 4,
  kInt64 = 5,
  kBool = 6,
  kOther = 7,  ///< anything else a caller may hold; no operator accepts it
  // Accepted by no operator; they have names so that errors can say what came.
  kFloat64 = 8,
  kInt16 = 9,
  kUInt8 = 10,
  kFloat8E4M3Fn = 11,
  kFloat8E5M2 = 12,
  kComplex64 = 13,
};

/// Bytes of one element.
constexpr std::int64_t size_of(DType dtype) noexcept {
  switch (dtype) {
    case DType::kBFloat16:
    case DType::kFloat16:
      return 2;
    case DType::kFloat32:
    case DType::kInt32:
      return 4;
    case DType::kInt64:
    case DType::kFloat64:
    case DType::kComplex64:
      return 8;
    case DType::kInt16:
      return 2;
    case DType::kInt8:
    case DType::kBool:
    case DType::kUInt8:
    case DType::kFloat8E4M3Fn:
    case DType::kFloat8E5M2:
      return 1;
    case DType::kOther:
      return 0;
  }
  return 0;
}

/// Name as PyTorch prints it without the module: "bfloat16", "float16", "float32", "int8", ...
constexpr const char* name_of(DType dtype) noexcept {
  switch (dtype) {
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kFloat16:
      return "float16";
    case DType::kFloat32:
      return "float32";
    case DType::kInt8:
      return "int8";
    case DType::kInt32:
      return "int32";
    case DType::kInt64:
      return "int64";
    case DType::kBool:
      return "bool";
    case DType::kFloat64:
      return "float64";
    case DType::kInt16:
      return "int16";
    case DType::kUInt8:
      return "uint8";
    case DType::kFloat8E4M3Fn:
      return "float8_e4m3fn";
    case DType::kFloat8E5M2:
      return "float8_e5m2";
    case DType::kComplex64:
      return "complex64";
    case DType::kOther:
      return "another dtype";
  }
  return "?";
}

/// True for the dtypes that rows (x, expand_x) may have.
constexpr bool is_row_dtype(DType dtype) noexcept {
  return dtype == DType::kBFloat16 || dtype == DType::kFloat16 || dtype == DType::kFloat32;
}

}  // namespace waybill
