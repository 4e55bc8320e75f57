// Where the rows of this rank's tokens lie.

#include <algorithm>
#include <string>

#include "base/published.h"
#include "engine/combine.h"

namespace waybill::engine {

using window::CallHeader;
using window::CombineLayout;
using window::ReturnEntry;

Status Combine::locate() {
  const auto places = static_cast<std::size_t>(shape_.bs * shape_.slots());
  plan_.rows.assign(places, nullptr);
  plan_.scales.assign(shape_.quantised ? places : 0, nullptr);
  plan_.received_rows.assign(static_cast<std::size_t>(num_ranks()), 0);
  plan_.returns.clear();
  form_ = contract::kFormTriples;
  auto& layouts = plan_.layouts;
  layouts.clear();
  for (int r = 0; r < num_ranks(); ++r) {
    const CallHeader& header = call_.header_of(r);
    if (!has_sane_numbers(header, r)) {
      return corrupt(r);
    }
    layouts.push_back(layout_of(header, r));
    if (!call_.ends_at(r, layouts.back().end)) {
      return corrupt(r);
    }
    if (header.agreement[contract::Agreed::kForm] == contract::kFormOccurrences) {
      form_ = contract::kFormOccurrences;
    }
    note_source(r);
  }
  if (form_ == contract::kFormOccurrences) {
    if (shape_.form == contract::kFormUnknown) {
      WAYBILL_RETURN_IF_ERROR(
          call_.checker().expect_int_vector(contract::index_argument(call_.op()),
                                            args_.assist_info_for_combine,
                                            shape_.bs * shape_.k,
                                            "BS*K"));
    }
    return locate_by_occurrence();
  }
  for (int r = 0; r < num_ranks(); ++r) {
    fetch_ahead(entries_of(r) + read_once(owner_offsets_of(r)[shape_.topology.rank]), 1);
  }
  for (int r = 0; r < num_ranks(); ++r) {
    WAYBILL_RETURN_IF_ERROR(locate_listed(r));
  }
  return check_complete();
}

Status Combine::corrupt(int r) const {
  return call_.cannot_be("rank " + std::to_string(call_.rank_of(r)));
}

const std::int32_t* Combine::owner_offsets_of(int r) const {
  const window::Section& section = layout_of(r).owner_offsets;
  return reinterpret_cast<const std::int32_t*>(call_.half_of(r) + section.offset);
}

const ReturnEntry* Combine::entries_of(int r) const {
  return reinterpret_cast<const ReturnEntry*>(call_.half_of(r) + layout_of(r).entries.offset);
}

/// Those from which a layout can be computed.
bool Combine::has_sane_numbers(const CallHeader& header, int r) const {
  const std::int64_t bytes = call_.half_bytes_of(r);
  const std::int64_t most = header.in_pool != 0 ? call_.peer_of(r).window_bytes : bytes;
  return header.num_entries >= 0 && header.num_entries <= most / row_bytes() &&
         header.num_rows == header.num_entries &&
         (header.in_pool == 0 ||
          (!shape_.quantised &&
           call_.lies_in_pool(r, header.pool_offset, header.num_rows * row_bytes())));
}

bool Combine::expects(std::int64_t token, std::int64_t slot) const {
  return slot < shape_.k ? shape_.topology.is_routed(pairs_.id(token, slot)) : pairs_.token(token);
}

/// Where the rows of member r begin.
void Combine::note_source(int r) {
  const CallHeader& header = call_.header_of(r);
  const CombineLayout& layout = layout_of(r);
  const std::byte* half = call_.half_of(r);
  fetch_ahead(owner_offsets_of(r) + shape_.topology.rank, 8);
  const std::byte* rows =
      header.in_pool != 0 ? call_.peer_of(r).pool + header.pool_offset : half + layout.rows.offset;
  plan_.returns.push_back({rows,
                           half + layout.scales.offset,
                           reinterpret_cast<const std::int32_t*>(half + layout.counts.offset)});
}

/// Notes that row `row` of member r belongs to (token, slot).
void Combine::place(int r, std::int64_t row, std::int64_t token, std::int64_t slot) {
  const ReturnSource& source = plan_.returns[static_cast<std::size_t>(r)];
  const auto index = static_cast<std::size_t>(token * shape_.slots() + slot);
  plan_.rows[index] = source.rows + row * row_bytes();
  if (shape_.quantised) {
    plan_.scales[index] = source.scales + row * scales_bytes();
  }
}

/// From the list of places that member r published.
Status Combine::locate_listed(int r) {
  const CallHeader& header = call_.header_of(r);
  if (header.agreement[contract::Agreed::kForm] != contract::kFormTriples) {
    return {};  // a rank that returns nothing
  }
  const std::int32_t* offsets = owner_offsets_of(r);
  const std::int64_t begin = read_once(offsets[shape_.topology.rank]);
  const std::int64_t end = read_once(offsets[shape_.topology.rank + 1]);
  if (begin < 0 || begin > end || end > header.num_entries) {
    return corrupt(r);
  }
  plan_.received_rows[static_cast<std::size_t>(r)] = end - begin;
  const ReturnEntry* entries = entries_of(r);
  for (std::int64_t i = begin; i < end; ++i) {
    const ReturnEntry entry = {
        read_once(entries[i].row), read_once(entries[i].token), read_once(entries[i].slot)};
    if (entry.row < 0 || entry.row >= header.num_rows || entry.token < 0 || entry.slot < 0 ||
        entry.slot >= shape_.slots()) {
      return corrupt(r);
    }
    if (entry.token >= shape_.bs || !expects(entry.token, entry.slot)) {
      continue;
    }
    if (plan_.rows[static_cast<std::size_t>(entry.token * shape_.slots() + entry.slot)] !=
        nullptr) {
      return call_.checker().fail(contract::index_argument(call_.op()),
                                  "one row for token " + std::to_string(entry.token) + ", slot " +
                                      std::to_string(entry.slot),
                                  "a second one, from rank " + std::to_string(call_.rank_of(r)));
    }
    place(r, entry.row, entry.token, entry.slot);
  }
  return {};
}

Status Combine::check_complete() {
  for (std::int64_t t = 0; t < shape_.bs; ++t) {
    for (std::int64_t slot = 0; slot < shape_.slots(); ++slot) {
      if (plan_.rows[static_cast<std::size_t>(t * shape_.slots() + slot)] == nullptr &&
          expects(t, slot)) {
        return call_.checker().fail(
            contract::index_argument(call_.op()),
            "a row for token " + std::to_string(t) + ", slot " + std::to_string(slot),
            "none from any rank");
      }
    }
  }
  return {};
}

/// From expand_idx and the counts that every rank published.
Status Combine::locate_by_occurrence() {
  const routing::Grid<std::int32_t> occurrences(args_.assist_info_for_combine);
  std::int64_t active = 0;
  for (std::int64_t t = 0; t < shape_.bs; ++t) {
    for (std::int64_t slot = 0; slot < shape_.slots(); ++slot) {
      if (expects(t, slot)) {
        const std::int64_t position =
            slot < shape_.k ? occurrences(t * shape_.k + slot, 0) : active;
        WAYBILL_RETURN_IF_ERROR(locate_occurrence(t, slot, position));
      }
    }
    active += pairs_.token(t) ? 1 : 0;
  }
  return {};
}

/// The row is number `position` of those that this rank sent to the expert of the slot.
Status Combine::locate_occurrence(std::int64_t token, std::int64_t slot, std::int64_t position) {
  const contract::Topology& topology = shape_.topology;
  int r = 0;
  std::int64_t local = 0;
  if (slot < shape_.k) {
    const std::int32_t expert = pairs_.id(token, slot);
    r = topology.owner_of(expert);
    local = expert % topology.experts_per_rank();
  } else {
    r = topology.shared_target(topology.rank, static_cast<int>(slot - shape_.k));
  }
  const CallHeader& header = call_.header_of(r);
  const std::int32_t* counts = plan_.returns[static_cast<std::size_t>(r)].counts;
  const std::int64_t cell = local * num_ranks() + topology.rank;
  const std::int64_t begin = cell == 0 ? 0 : read_once(counts[cell - 1]);
  const std::int64_t end = read_once(counts[cell]);
  const std::int64_t row = begin + position;
  if (position < 0 || row >= end) {
    return call_.checker().fail(
        contract::index_argument(call_.op()),
        "a row for token " + std::to_string(token) + ", slot " + std::to_string(slot),
        "number " + std::to_string(position) + " of the " + std::to_string(end - begin) +
            " rows that rank " + std::to_string(call_.rank_of(r)) + " returns");
  }
  if (begin < 0 || row >= header.num_rows) {
    return corrupt(r);
  }
  place(r, row, token, slot);
  ++plan_.received_rows[static_cast<std::size_t>(r)];
  return {};
}

}  // namespace waybill::engine
