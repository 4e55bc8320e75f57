#pragma once

#include <cstdint>
#include <optional>

#include "routing/pairs.h"
#include "waybill/dtype.h"

// The arithmetic of docs/contract/operators.md section 10 on arguments that have been checked.
namespace waybill::routing {

/// How an instance is chosen.
struct Balance {
  std::int64_t mode = 0;
  std::int64_t rank = 0;        ///< mode 0
  std::int64_t world_size = 1;  ///< mode 0
};

/// A mask of tokens; none: all are active.
class ActiveTokens {
 public:
  explicit ActiveTokens(const std::optional<TensorView>& mask) noexcept
      : all_(!mask), mask_(mask ? Grid<std::uint8_t>(*mask) : Grid<std::uint8_t>()) {}
  bool operator()(std::int64_t token) const noexcept { return all_ || mask_(token, 0) != 0; }

 private:
  bool all_;
  Grid<std::uint8_t> mask_;
};

/// The instance of every (t, k), contiguous (BS, K); -1 and the ids of tokens that are not active
/// as they are. Id is std::int32_t or std::int64_t.
template <typename Id>
void choose_instances(const Grid<Id>& ids,
                      const ActiveTokens& active,
                      const Grid<std::int32_t>& table,
                      const Balance& balance,
                      std::int64_t bs,
                      std::int64_t k,
                      Id* instances);

/// Scales with the thresholds they have to reach.
struct Pruning {
  TensorView scales;      ///< (BS, K) of any dtype that rows may have
  Grid<float> threshold;  ///< (1, K)
};

/// Which (t, k) are worth sending, contiguous (BS, K) bool: none whose id is -1, and its scale does
/// not count.
template <typename Id>
void keep_pairs(const std::optional<Pruning>& pruning,
                const Grid<Id>& ids,
                const ActiveTokens& active,
                std::int64_t bs,
                std::int64_t k,
                std::uint8_t* keep);

}  // namespace waybill::routing
