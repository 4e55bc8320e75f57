#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "contract/operators.h"
#include "waybill/env.h"
#include "waybill/status.h"
#include "waybill/tensor_view.h"

namespace waybill::contract {

/// What the contract knows of a call's groups: the rank that checks, E, and the same of the TP
/// group where one was given.
struct GroupFacts {
  int rank = 0;
  int world_size = 1;
  int tp_rank = 0;
  int tp_world_size = 0;  ///< 0 without a TP group
  Strict strict = Strict::kNone;
  std::int64_t hccl_buffsize_mb = 200;
};

/// "(2, 3) bfloat16"
std::string describe(const TensorView& view);
/// "(2, 3)"
std::string describe(const Dims& dims);

/// Makes the errors of one call: operator, argument, what was expected, what came, and the rank.
class Checker {
 public:
  Checker(Operator op, const GroupFacts& group) noexcept : op_(op), group_(group) {}

  Operator op() const noexcept { return op_; }
  const GroupFacts& group() const noexcept { return group_; }

  Status fail(std::string_view argument, std::string_view expected, std::string_view got) const;
  Status fail(std::string_view argument, std::string_view expected, std::int64_t got) const;
  Status not_yet(std::string_view argument, std::string_view got) const;

  /// `view` has exactly this shape and dtype. `letters` explains the shape: "(BS, K)".
  Status expect(std::string_view argument,
                const TensorView& view,
                const Dims& shape,
                std::string_view letters,
                DType dtype) const;
  /// (BS,) or (BS, K) bool, where given.
  Status expect_mask(const std::optional<TensorView>& mask, std::int64_t bs, std::int64_t k) const;
  /// `view` has two dimensions and a dtype that rows may have; `letters` as in expect().
  Status expect_rows(std::string_view argument,
                     const TensorView& view,
                     std::string_view letters) const;
  /// A contiguous int32 vector with at least `least` elements.
  Status expect_int_vector(std::string_view argument,
                           const TensorView& view,
                           std::int64_t least,
                           std::string_view why) const;
  Status absent(std::string_view argument, const std::optional<TensorView>& view) const;

 private:
  Operator op_;
  GroupFacts group_;
};

}  // namespace waybill::contract

/// Returns the error of `expression` from the calling function.
#define WAYBILL_RETURN_IF_ERROR(expression)                                      \
  do {                                                                           \
    if (::waybill::Status waybill_status = (expression); !waybill_status.ok()) { \
      return waybill_status;                                                     \
    }                                                                            \
  } while (false)
