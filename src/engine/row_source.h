#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "waybill/dtype.h"
#include "waybill/tensor_view.h"

namespace waybill::engine {

/// The rows of an input (its last dimension is a row), whatever its strides.
class RowSource {
 public:
  explicit RowSource(const TensorView& view) noexcept : view_(view), element_(size_of(view.dtype)) {
    last_ = view.shape.rank() - 1;
    h_ = view.shape[last_];
    packed_ = h_ <= 1 || view.strides[last_] == 1;
  }

  std::int64_t row_bytes() const noexcept { return h_ * element_; }
  /// What get() needs: nothing when every row is contiguous, since then it never copies.
  std::size_t scratch_bytes() const noexcept {
    return packed_ ? 0 : static_cast<std::size_t>(row_bytes());
  }

  /// Row t, contiguous; gathered into `scratch` (scratch_bytes() long) where it is not.
  const std::byte* get(std::int64_t t, std::byte* scratch) const noexcept {
    const std::byte* row = static_cast<const std::byte*>(view_.data) + offset(t) * element_;
    if (packed_) {
      return row;
    }
    const std::int64_t step = view_.strides[last_] * element_;
    for (std::int64_t i = 0; i < h_; ++i) {
      std::memcpy(scratch + i * element_, row + i * step, static_cast<std::size_t>(element_));
    }
    return scratch;
  }

 private:
  std::int64_t offset(std::int64_t t) const noexcept {
    if (last_ <= 1) {
      return last_ == 0 ? 0 : t * view_.strides[0];
    }
    return t / view_.shape[1] * view_.strides[0] + t % view_.shape[1] * view_.strides[1];
  }

  TensorView view_;
  std::int64_t element_;
  int last_ = 1;
  std::int64_t h_ = 0;
  bool packed_ = true;
};

}  // namespace waybill::engine
