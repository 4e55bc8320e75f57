#pragma once

#include <cstdint>
#include <optional>

#include "waybill/tensor_view.h"

namespace waybill::routing {

/// A borrowed matrix of any strides. A vector is a matrix with one column.
template <typename T>
class Grid {
 public:
  Grid() noexcept = default;
  explicit Grid(const TensorView& view) noexcept
      : data_(static_cast<const T*>(view.data)),
        row_stride_(view.strides[0]),
        column_stride_(view.shape.rank() > 1 ? view.strides[1] : 0) {}

  const T& operator()(std::int64_t row, std::int64_t column) const noexcept {
    return data_[row * row_stride_ + column * column_stride_];
  }

 private:
  const T* data_ = nullptr;
  std::int64_t row_stride_ = 0;
  std::int64_t column_stride_ = 0;
};

/// Which (t,k) take part: x_active_mask of ops.md section 3.
class ActivePairs {
 public:
  ActivePairs(const std::optional<TensorView>& mask, std::int64_t k) noexcept
      : k_(k),
        form_(!mask                     ? Form::kAll
              : mask->shape.rank() == 1 ? Form::kTokens
                                        : Form::kPairs) {
    if (mask) {
      mask_ = Grid<std::uint8_t>(*mask);
    }
  }

  bool all() const noexcept { return form_ == Form::kAll; }
  bool pair(std::int64_t token, std::int64_t k) const noexcept {
    return form_ == Form::kAll || mask_(token, form_ == Form::kPairs ? k : 0) != 0;
  }
  /// True when any pair of the token takes part: then it goes to the shared experts, too.
  bool token(std::int64_t token) const noexcept {
    if (form_ != Form::kPairs) {
      return pair(token, 0);
    }
    for (std::int64_t k = 0; k < k_; ++k) {
      if (mask_(token, k) != 0) {
        return true;
      }
    }
    return false;
  }

 private:
  enum class Form { kAll, kTokens, kPairs };
  std::int64_t k_;
  Form form_;
  Grid<std::uint8_t> mask_;
};

}  // namespace waybill::routing
