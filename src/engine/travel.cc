#include "engine/travel.h"

#include <algorithm>

#include "engine/dispatch_publish.h"

namespace waybill::engine {
namespace {

void mark(std::vector<char>& marked, std::int64_t begin, std::int64_t end) {
  std::fill(marked.begin() + begin, marked.begin() + end, 1);
}

/// The rows of the entries of this expert.
void mark_expert(const contract::DispatchShape& shape,
                 const routing::SendCounts& counts,
                 const std::int32_t* entries,
                 std::int64_t expert,
                 std::vector<char>& marked) {
  const std::int64_t begin = counts.expert_offsets[static_cast<std::size_t>(expert)];
  const std::int64_t end = counts.expert_offsets[static_cast<std::size_t>(expert) + 1];
  if (shape.smooth) {
    mark(marked, begin, end);
    return;
  }
  for (std::int64_t i = begin; i < end; ++i) {
    marked[static_cast<std::size_t>(entries[i] / shape.k)] = 1;
  }
}

/// The rows of the active tokens, for a shared expert.
void mark_active(const contract::DispatchShape& shape,
                 const routing::SendCounts& counts,
                 const std::int32_t* active,
                 int target,
                 std::vector<char>& marked) {
  if (shape.smooth) {
    const std::int64_t first =
        counts.num_entries + shape.topology.shared_of(target) * counts.num_active;
    mark(marked, first, first + counts.num_active);
    return;
  }
  for (std::int64_t i = 0; i < counts.num_active; ++i) {
    marked[static_cast<std::size_t>(active[i])] = 1;
  }
}

}  // namespace

void add_marked_rows(const std::vector<char>& marked,
                     const std::byte* from,
                     std::int64_t at,
                     std::int64_t row_bytes,
                     std::vector<transport::Extent>& extents) {
  auto begin = std::find(marked.begin(), marked.end(), 1);
  while (begin != marked.end()) {
    const auto end = std::find(begin, marked.end(), 0);
    const std::int64_t first = begin - marked.begin();
    extents.push_back(
        {from + first * row_bytes, at + first * row_bytes, (end - begin) * row_bytes});
    begin = std::find(end, marked.end(), 1);
  }
}

void add_dispatch(DispatchPlan& plan,
                  const DispatchTravel& what,
                  std::vector<transport::Extent>& extents) {
  const auto& [shape, header, layout, half, on_host] = what;
  const contract::Topology& topology = shape.topology;
  const routing::SendCounts& counts = plan.counts;
  auto& marked = plan.travels;
  marked.assign(static_cast<std::size_t>(header.num_rows), 0);
  for (int target = 0; target < topology.num_ranks; ++target) {
    if (on_host[static_cast<std::size_t>(target)] == 0) {
      continue;
    }
    if (topology.is_shared(target)) {
      if (topology.sends_to_shared(topology.rank, target)) {
        mark_active(shape, counts, at<std::int32_t>(half, layout.active), target, marked);
      }
      continue;
    }
    const std::int64_t first = topology.first_expert(target);
    for (std::int64_t i = 0; i < topology.experts_per_rank(); ++i) {
      mark_expert(shape, counts, at<std::int32_t>(half, layout.entries), first + i, marked);
    }
  }
  extents.push_back({half, 0, layout.rows.offset});
  add_marked_rows(
      marked, half + layout.rows.offset, layout.rows.offset, shape.row_bytes(), extents);
}

}  // namespace waybill::engine
