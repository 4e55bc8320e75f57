#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "contract/topology.h"

namespace waybill::routing {

/// What one source published of its routing, as far as this rank needs it.
struct SourceRouting {
  const std::int32_t* expert_offsets = nullptr;  ///< (M+1,)
  std::int64_t num_entries = 0;
  std::int64_t num_active = 0;
};

/// The rows one source sends to one local expert: a run of its entries (on a shared rank: of its
/// active tokens) and the run of rows they become.
struct Cell {
  std::int32_t source = 0;
  std::int64_t first_entry = 0;
  std::int64_t first_row = 0;
  std::int64_t num_rows = 0;
};

/// All cells of this rank in row order: by (local expert, source). (localE * E,)
/// False when a source's offsets cannot be: negative, falling or past its entries.
bool plan_receive(const contract::Topology& topology,
                  std::span<const SourceRouting> sources,
                  std::vector<Cell>& cells);

/// Rows of all cells.
inline std::int64_t num_rows(const std::vector<Cell>& cells) noexcept {
  return cells.empty() ? 0 : cells.back().first_row + cells.back().num_rows;
}

}  // namespace waybill::routing
