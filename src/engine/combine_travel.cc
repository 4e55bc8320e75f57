// What of this rank's rows members on another host need.

#include <algorithm>

#include "engine/combine.h"
#include "engine/travel.h"

namespace waybill::engine {

using window::CallHeader;
using window::CombineLayout;
using window::ReturnEntry;

/// The layout that travels has copied rows also where they lie in the pool.
std::int64_t Combine::describe(const std::byte* half,
                               const CombineLayout& layout,
                               const std::vector<char>& on_host,
                               CallHeader& header,
                               transport::Parcel& parcel) {
  header.in_pool = 0;
  header.pool_offset = 0;
  const CombineLayout mirrored = layout_of(header, shape_.topology.rank);
  auto& marked = plan_.travels;
  marked.assign(static_cast<std::size_t>(header.num_rows), 0);
  const auto add = [&](const window::Section& from, const window::Section& to) {
    parcel.extents.push_back({half + from.offset, to.offset, to.bytes});
  };
  add(layout.owner_offsets, mirrored.owner_offsets);
  if (shape_.form == contract::kFormTriples) {
    const auto* entries = reinterpret_cast<const ReturnEntry*>(half + layout.entries.offset);
    mark_listed(entries, on_host);
    // Each owner reads its own entries only.
    constexpr auto kEntry = static_cast<std::int64_t>(sizeof(ReturnEntry));
    for (std::size_t r = 0; r < on_host.size(); ++r) {
      const std::int64_t first = kEntry * plan_.owner_offsets[r];
      const std::int64_t last = kEntry * plan_.owner_offsets[r + 1];
      if (on_host[r] != 0) {
        parcel.extents.push_back(
            {half + layout.entries.offset + first, mirrored.entries.offset + first, last - first});
      }
    }
  } else {
    add(layout.counts, mirrored.counts);
    mark_counted(reinterpret_cast<const std::int32_t*>(half + layout.counts.offset), on_host);
  }
  if (scales_bytes() > 0) {
    add_marked_rows(marked,
                    half + layout.scales.offset,
                    mirrored.scales.offset,
                    scales_bytes(),
                    parcel.extents);
  }
  const std::byte* rows =
      in_place_ ? static_cast<const std::byte*>(args_.expand_x.data) : half + layout.rows.offset;
  add_marked_rows(marked, rows, mirrored.rows.offset, row_bytes(), parcel.extents);
  return mirrored.end;
}

void Combine::mark_listed(const ReturnEntry* entries, const std::vector<char>& on_host) {
  const auto& offsets = plan_.owner_offsets;
  for (std::size_t r = 0; r < on_host.size(); ++r) {
    for (std::int64_t i = offsets[r]; on_host[r] != 0 && i < offsets[r + 1]; ++i) {
      plan_.travels[static_cast<std::size_t>(entries[i].row)] = 1;
    }
  }
}

/// Rows lie by (local expert, owner).
void Combine::mark_counted(const std::int32_t* counts, const std::vector<char>& on_host) {
  std::int64_t begin = 0;
  for (std::int64_t i = 0; i < num_ranks() * shape_.local_experts(); ++i) {
    const std::int64_t end = counts[i];
    if (on_host[static_cast<std::size_t>(i % num_ranks())] != 0) {
      std::fill(plan_.travels.begin() + begin, plan_.travels.begin() + end, 1);
    }
    begin = end;
  }
}

}  // namespace waybill::engine
