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
      return 8;
    case DType::kInt8:
    case DType::kBool:
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
