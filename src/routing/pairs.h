#pragma once

#include <cstdint>
#include <optional>

#include "contract/topology.h"
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

/// Which (t,k) take part, by x_active_mask and the ids: docs/contract/operators.md section 3. Ids
/// at masked places are not read.
class ActivePairs {
 public:
  ActivePairs(const std::optional<TensorView>& mask,
              const Grid<std::int32_t>& ids,
              std::int64_t k) noexcept
      : k_(k),
        form_(!mask                     ? Form::kAll
              : mask->shape.rank() == 1 ? Form::kTokens
                                        : Form::kPairs),
        ids_(ids) {
    if (mask) {
      mask_ = Grid<std::uint8_t>(*mask);
    }
  }

  bool has_mask() const noexcept { return form_ != Form::kAll; }
  bool pair(std::int64_t token, std::int64_t k) const noexcept {
    return unmasked(token, k) && ids_(token, k) != contract::kNotRouted;
  }
  /// True when any pair of the token takes part: then it goes to the shared experts, too.
  bool token(std::int64_t token) const noexcept {
    for (std::int64_t k = 0; k < k_; ++k) {
      if (pair(token, k)) {
        return true;
      }
    }
    return false;
  }

 private:
  enum class Form { kAll, kTokens, kPairs };

  bool unmasked(std::int64_t token, std::int64_t k) const noexcept {
    return form_ == Form::kAll || mask_(token, form_ == Form::kPairs ? k : 0) != 0;
  }

  std::int64_t k_;
  Form form_;
  Grid<std::int32_t> ids_;
  Grid<std::uint8_t> mask_;
};

}  // namespace waybill::routing
