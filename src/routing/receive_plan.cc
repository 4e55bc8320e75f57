#include "routing/receive_plan.h"

#include "base/published.h"

namespace waybill::routing {

bool plan_receive(const contract::Topology& topology,
                  std::span<const SourceRouting> sources,
                  std::vector<Cell>& cells) {
  cells.clear();
  const bool shared = topology.is_shared(topology.rank);
  std::int64_t row = 0;
  for (std::int64_t l = 0; l < topology.local_experts(topology.rank); ++l) {
    for (int r = 0; r < topology.num_ranks; ++r) {
      const SourceRouting& source = sources[static_cast<std::size_t>(r)];
      Cell cell{r, 0, row, 0};
      if (shared) {
        cell.num_rows = topology.sends_to_shared(r, topology.rank) ? source.num_active : 0;
      } else {
        const std::int64_t expert = topology.first_expert(topology.rank) + l;
        cell.first_entry = read_once(source.expert_offsets[expert]);
        cell.num_rows = read_once(source.expert_offsets[expert + 1]) - cell.first_entry;
        if (cell.first_entry < 0 || cell.num_rows < 0 ||
            cell.first_entry + cell.num_rows > source.num_entries) {
          return false;
        }
      }
      row += cell.num_rows;
      cells.push_back(cell);
    }
  }
  return true;
}

}  // namespace waybill::routing
