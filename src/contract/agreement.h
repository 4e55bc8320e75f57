#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "contract/check.h"
#include "contract/elastic.h"
#include "contract/operators.h"
#include "waybill/status.h"

namespace waybill::contract {

/// Arguments that have to be equal on all ranks of a call, in the order in which a difference is
/// reported. They travel in headers: append only.
enum class Agreed : std::uint32_t {
  kOperator,
  kEpWorldSize,
  kDtype,
  kHidden,
  kTopK,
  kMoeExpertNum,
  kSharedExpertNum,
  kSharedExpertRankNum,
  kTpWorldSize,
  kQuantMode,
  kYDtype,
  kScalesGiven,
  kCommQuantMode,
  kZeroExpertNum,
  kCopyExpertNum,
  kConstExpertNum,
  kGlobalBs,
  kElastic,         ///< -1 None, 0 flag not set, 1 flag set
  kElasticRanks,    ///< newE
  kElasticShared,   ///< newSR
  kElasticExperts,  ///< newM
  kElasticTables,   ///< a hash
  kForm,
  kEpRankId,  ///< only between TP peers
  kCount,
};

/// Values of kForm. A rank that returns no rows may not know how the others' rows are found.
inline constexpr std::int64_t kFormTriples = 0;
inline constexpr std::int64_t kFormOccurrences = 1;
inline constexpr std::int64_t kFormUnknown = 2;

/// Their values on one rank.
struct Agreement {
  std::array<std::int64_t, static_cast<std::size_t>(Agreed::kCount)> values{};

  std::int64_t& operator[](Agreed field) noexcept {
    return values[static_cast<std::size_t>(field)];
  }
  std::int64_t operator[](Agreed field) const noexcept {
    return values[static_cast<std::size_t>(field)];
  }
  bool operator==(const Agreement&) const noexcept = default;
};

void set_elastic(Agreement& values, const Elastic& elastic);

/// kMismatch that names the first argument in which the ranks differ, the ranks and all values.
/// Entry i of `by_rank` is of rank members[i]. `ranks` of the error: those whose value is not the
/// one of more than half of the ranks; all ranks where no value has such a majority. Every rank
/// that compares the same headers reports the same.
Status compare(const Checker& check,
               std::span<const Agreement> by_rank,
               std::span<const int> members);

}  // namespace waybill::contract
