#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "contract/check.h"
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
  kCount,
};

/// Their values on one rank.
struct Agreement {
  std::array<std::int64_t, static_cast<std::size_t>(Agreed::kCount)> values{};

  std::int64_t& operator[](Agreed field) noexcept {
    return values[static_cast<std::size_t>(field)];
  }
  std::int64_t operator[](Agreed field) const noexcept {
    return values[static_cast<std::size_t>(field)];
  }
};

/// kMismatch that names the first argument in which the ranks differ, the ranks and all values.
/// `ranks` of the error: those whose value is not the one of more than half of the ranks; all ranks
/// where no value has such a majority. Every rank that compares the same headers reports the same.
Status compare(const Checker& check, std::span<const Agreement> by_rank);

}  // namespace waybill::contract
