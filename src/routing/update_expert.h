#pragma once

#include <cstdint>
#include <optional>

#include "routing/pairs.h"
#include "waybill/dtype.h"

// The arithmetic of ops.md section 10 on arguments that have been checked.
namespace waybill::routing {

/// How an instance is chosen.
struct Balance {
  std::int64_t mode = 0;
  std::int64_t rank = 0;        ///< mode 0
  std::int64_t world_size = 1;  ///< mode 0
};

/// The instance of every (t, k), contiguous (BS, K). Id is std::int32_t or std::int64_t.
template <typename Id>
void choose_instances(const Grid<Id>& ids,
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

/// Which (t, k) are worth sending, contiguous (BS, K) bool. `active` as for one column of pairs.
void keep_pairs(const std::optional<Pruning>& pruning,
                const ActivePairs& active,
                std::int64_t bs,
                std::int64_t k,
                std::uint8_t* keep);

}  // namespace waybill::routing
