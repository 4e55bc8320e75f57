#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "contract/check.h"
#include "waybill/status.h"
#include "waybill/tensor_view.h"

// The limits of the vendor's products (docs/strict.md), for code that has to run
// there too. Which product: GroupFacts::strict; with Strict::kNone every check passes. All of them
// come after the contract's own checks and rely on these.
namespace waybill::contract {

/// An element of a vector or matrix of any strides.
template <typename T>
const T& element(const TensorView& view, std::int64_t row, std::int64_t column) noexcept {
  return static_cast<const T*>(
      view.data)[row * view.strides[0] + (view.shape.rank() > 1 ? column * view.strides[1] : 0)];
}

/// A call of dispatch, combine or their relatives, as numbers. What an operator does not have
/// keeps its default.
struct StrictFacts {
  std::int64_t e = 0;
  std::int64_t bs = 0;
  std::int64_t max_bs = 0;  ///< GBS/E
  std::int64_t h = 0;
  std::int64_t k = 0;
  std::int64_t m = 0;
  std::int64_t l = 0;  ///< M/(E-SR)
  std::int64_t s = 0;  ///< 0 when sr is
  std::int64_t sr = 0;
  std::int64_t tp = 0;
  std::int64_t num_zero = 0;      ///< Z
  std::int64_t num_copy = 0;      ///< C
  std::int64_t num_constant = 0;  ///< N
  bool has_mask = false;
  bool has_elastic = false;
  bool has_shared_expert_x = false;
  bool has_expert_scales = false;  ///< read for dispatch and dispatch_v2 only
  std::int64_t comm_type = 0;
  std::string_view comm_alg = {};
};

/// Every line of the table that needs no values of tensors. The barrier has no limits.
Status check_strict(const Checker& check, const StrictFacts& facts);

/// `argument` (BS,) bool: trues before falses. Another form of mask passes.
Status check_strict_mask(const Checker& check,
                         std::string_view argument,
                         const std::optional<TensorView>& mask);

/// What an error about an id adds to the range: how a caller leaves a choice out. `mask` is the
/// operator's argument for it, empty where it has none. a2 has no masks, and no strict mode has -1.
std::string ways_to_leave_out(std::string_view mask, Strict strict);

/// For an id that is -1 at (token, k) and takes part: the products do not know it.
Status check_strict_routed(const Checker& check, std::int64_t token, std::int64_t k);

/// expert_ids (BS, K) int32: those of a token, where `mask` is true, are not -1 and differ from
/// each other. For operators that read the ids.
Status check_strict_ids(const Checker& check,
                        const TensorView& ids,
                        const std::optional<TensorView>& mask);

/// A call of update_expert or eplb_update_expert, as numbers.
struct StrictUpdateFacts {
  std::int64_t bs = 0;
  std::int64_t k = 0;
  std::int64_t rows = 0;                        ///< of the table
  std::int64_t columns = 0;                     ///< F
  std::optional<std::int64_t> world_size = {};  ///< absent where balance_mode 1 left it out
  std::int64_t instances = 0;                   ///< sum of the counts
  bool has_scales = false;
  bool has_mask = false;
};

/// The line "update_expert" of the table, and those on BS, K and M.
Status check_strict_update_expert(const Checker& check, const StrictUpdateFacts& facts);

}  // namespace waybill::contract
