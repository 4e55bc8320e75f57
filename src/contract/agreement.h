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
  kEpRankId,      ///< only between TP peers
  kDispatchCall,  ///< combine: of which dispatch the rows are; kUnmarked where it is not known
  kHistory,       ///< a hash over the operators of the epoch's earlier calls
  kCount,
};

/// Values of kForm. A rank that returns no rows may not know how the others' rows are found.
inline constexpr std::int64_t kFormTriples = 0;
inline constexpr std::int64_t kFormOccurrences = 1;
inline constexpr std::int64_t kFormUnknown = 2;

/// Value of kDispatchCall that goes with every other one: a list that the program built itself.
inline constexpr std::int64_t kUnmarked = 0;

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

/// What a comparison found.
struct Comparison {
  Status status;
  /// The ranks are at different places of their programs, so that no later call could be trusted
  /// however well its arguments fit: they call or called different operators, or combine the rows
  /// of different dispatches.
  bool out_of_step = false;
};

/// kMismatch that names the first argument in which the ranks differ, the ranks and all values.
/// Entry i of `by_rank` is of rank members[i], which has completed `completed[i]` calls. `ranks` of
/// the error: those whose value is not the one of more than half of the ranks; all ranks where no
/// value has such a majority. Every rank that compares the same headers reports the same.
Comparison compare(const Checker& check,
                   std::span<const Agreement> by_rank,
                   std::span<const int> members,
                   std::span<const std::uint32_t> completed);

/// The history of a rank once it has begun a call of `op`.
constexpr std::int64_t add_to_history(std::int64_t history, Operator op) noexcept {
  const auto value = static_cast<std::uint64_t>(history) + static_cast<std::uint64_t>(op) + 1;
  return static_cast<std::int64_t>((value ^ value >> 29) * 0x9e3779b97f4a7c15);
}

/// The same for the operators of this call and of the earlier ones alone, which also the header of
/// a refused call has: ranks that refuse calls at the same time do not look at each other.
Comparison compare_operators(const Checker& check,
                             std::span<const Agreement> by_rank,
                             std::span<const int> members,
                             std::span<const std::uint32_t> completed);

}  // namespace waybill::contract
