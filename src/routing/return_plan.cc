#include "routing/return_plan.h"

#include <cstddef>
#include <string>

namespace waybill::routing {

Status count_returns(const contract::Checker& check,
                     const TripleView& triples,
                     const ReturnLimits& limits,
                     std::vector<std::int32_t>& owner_offsets) {
  owner_offsets.assign(static_cast<std::size_t>(limits.num_ranks) + 1, 0);
  for (std::int64_t row = 0; row < triples.num_rows; ++row) {
    const std::int32_t source = triples.at(row, 0);
    const std::int32_t token = triples.at(row, 1);
    const std::int32_t slot = triples.at(row, 2);
    if (source < 0 || source >= limits.num_ranks || token < 0 || token >= limits.max_bs ||
        slot < 0 || slot >= limits.slots) {
      return check.fail(contract::index_argument(check.op()),
                        "triples (source rank < " + std::to_string(limits.num_ranks) +
                            ", token < " + std::to_string(limits.max_bs) + ", slot < " +
                            std::to_string(limits.slots) + ")",
                        "(" + std::to_string(source) + ", " + std::to_string(token) + ", " +
                            std::to_string(slot) + ") at row " + std::to_string(row));
    }
    ++owner_offsets[static_cast<std::size_t>(source) + 1];
  }
  for (std::size_t r = 1; r < owner_offsets.size(); ++r) {
    owner_offsets[r] += owner_offsets[r - 1];
  }
  return {};
}

}  // namespace waybill::routing
