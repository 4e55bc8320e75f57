#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "contract/check.h"
#include "waybill/status.h"

namespace waybill::routing {

/// The triples of assist_info_for_combine, element i at data[i*stride].
struct TripleView {
  const std::int32_t* data;
  std::int64_t stride;
  std::int64_t num_rows;

  std::int32_t at(std::int64_t row, int field) const noexcept {
    return data[(3 * row + field) * stride];
  }
};

/// Bounds of what a triple may say.
struct ReturnLimits {
  int num_ranks;        ///< E
  std::int64_t max_bs;  ///< maxBS
  std::int64_t slots;   ///< K + S
};

/// First pass: checks every triple and counts rows by owner. owner_offsets: (E+1,).
Status count_returns(const contract::Checker& check,
                     const TripleView& triples,
                     const ReturnLimits& limits,
                     std::vector<std::int32_t>& owner_offsets);

/// Second pass: triples ordered by owner and, within one, by row. `cursor` is scratch;
/// `Entry` is an aggregate of (row, token, slot).
template <typename Entry>
void sort_by_owner(const TripleView& triples,
                   const std::vector<std::int32_t>& owner_offsets,
                   std::vector<std::int32_t>& cursor,
                   std::span<Entry> entries) {
  cursor.assign(owner_offsets.begin(), owner_offsets.end());
  for (std::int64_t row = 0; row < triples.num_rows; ++row) {
    std::int32_t& place = cursor[static_cast<std::size_t>(triples.at(row, 0))];
    entries[static_cast<std::size_t>(place++)] = {
        static_cast<std::int32_t>(row), triples.at(row, 1), triples.at(row, 2)};
  }
}

}  // namespace waybill::routing
