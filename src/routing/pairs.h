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

/// The ids of a rank's tokens, and which (t,k) take part, by x_active_mask and the ids:
/// docs/contract/operators.md section 3. Ids at masked places are not read. Borrows both.
class ActivePairs {
 public:
  ActivePairs() noexcept = default;
  /// `ids` (BS, K) int32, `mask` (BS,) or (BS, K) bool.
  ActivePairs(const std::optional<TensorView>& mask, const TensorView& ids) noexcept
      : bs_(ids.shape[0]),
        k_(ids.shape[1]),
        form_(!mask                     ? Form::kAll
              : mask->shape.rank() == 1 ? Form::kTokens
                                        : Form::kPairs),
        ids_(ids) {
    if (mask) {
      mask_ = Grid<std::uint8_t>(*mask);
    }
  }

  std::int64_t bs() const noexcept { return bs_; }
  std::int64_t k() const noexcept { return k_; }
  bool has_mask() const noexcept { return form_ != Form::kAll; }
  /// The expert of a pair; kNotRouted where it does not take part.
  std::int32_t id(std::int64_t token, std::int64_t k) const noexcept {
    return form_ == Form::kAll || mask_(token, form_ == Form::kPairs ? k : 0) != 0
               ? ids_(token, k)
               : contract::kNotRouted;
  }
  /// True when any pair of the token takes part: then it goes to the shared experts, too.
  bool token(std::int64_t token) const noexcept {
    for (std::int64_t k = 0; k < k_; ++k) {
      if (id(token, k) != contract::kNotRouted) {
        return true;
      }
    }
    return false;
  }

 private:
  enum class Form { kAll, kTokens, kPairs };

  std::int64_t bs_ = 0;
  std::int64_t k_ = 0;
  Form form_ = Form::kAll;
  Grid<std::int32_t> ids_;
  Grid<std::uint8_t> mask_;
};

}  // namespace waybill::routing
