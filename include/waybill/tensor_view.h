#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "waybill/dtype.h"

namespace waybill {

inline constexpr int kMaxDims = 3;

/// Sizes or strides of up to three dimensions, by value and without allocation.
class Dims {
 public:
  constexpr Dims() noexcept = default;
  constexpr Dims(std::initializer_list<std::int64_t> sizes) noexcept {
    for (std::int64_t size : sizes) {
      if (rank_ < kMaxDims) {
        sizes_[static_cast<std::size_t>(rank_++)] = size;
      }
    }
  }
  constexpr int rank() const noexcept { return rank_; }
  constexpr std::int64_t operator[](int i) const noexcept {
    return sizes_[static_cast<std::size_t>(i)];
  }
  /// Product of all sizes; 1 for no dimension.
  constexpr std::int64_t product() const noexcept {
    std::int64_t p = 1;
    for (int i = 0; i < rank_; ++i) {
      p *= (*this)[i];
    }
    return p;
  }
  friend constexpr bool operator==(const Dims&, const Dims&) noexcept = default;

 private:
  std::array<std::int64_t, kMaxDims> sizes_{};
  int rank_ = 0;
};

/// An input tensor: borrowed, never changed. Any strides (in elements) are allowed.
/// `data` may be null when the tensor has no elements.
struct TensorView {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  Dims shape;
  Dims strides;
  int total_dims = 0;  ///< Dimensions of the caller's tensor; more than kMaxDims is an error later.

  /// A contiguous (row-major) tensor.
  static constexpr TensorView contiguous(const void* data, DType dtype, Dims shape) noexcept {
    TensorView view{data, dtype, shape, {}, shape.rank()};
    switch (shape.rank()) {
      case 1:
        view.strides = {1};
        break;
      case 2:
        view.strides = {shape[1], 1};
        break;
      case 3:
        view.strides = {shape[1] * shape[2], shape[2], 1};
        break;
      default:
        break;
    }
    return view;
  }

  constexpr bool is_contiguous() const noexcept {
    std::int64_t expected = 1;
    for (int i = shape.rank() - 1; i >= 0; --i) {
      if (shape[i] != 1 && strides[i] != expected) {
        return false;
      }
      expected *= shape[i];
    }
    return true;
  }
};

}  // namespace waybill
