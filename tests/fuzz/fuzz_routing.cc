// The routing of a small group against a model that sorts tuples, written from
// docs/contract/operators.md sections 3 to 5; and plans made from what cannot be: refused, or
// within their bounds.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <tuple>
#include <vector>

#include "contract/check.h"
#include "contract/topology.h"
#include "drawing.h"
#include "routing/pairs.h"
#include "routing/receive_plan.h"
#include "routing/return_plan.h"
#include "routing/send_plan.h"
#include "window/layout.h"

namespace waybill::fuzz {
namespace {

using contract::Checker;
using contract::Operator;
using contract::Topology;
using routing::ActivePairs;
using routing::Grid;
using window::ReturnEntry;

template <typename T>
std::int64_t ssize(const std::vector<T>& vector) {
  return static_cast<std::int64_t>(vector.size());
}

Topology draw_topology(Draw& draw) {
  Topology topology;
  topology.num_ranks = static_cast<int>(draw.in(1, 6));
  if (draw.flag()) {
    const auto shared = static_cast<int>(draw.in(1, 3));
    topology.num_shared_ranks =
        static_cast<int>(draw.in(0, (topology.num_ranks - 1) / shared)) * shared;
    topology.num_shared = topology.num_shared_ranks == 0 ? 0 : shared;
  }
  topology.num_experts = draw.in(0, 3) * (topology.num_ranks - topology.num_shared_ranks);
  // Under elastic_info special experts keep the ids that they had.
  topology.special_begin = topology.num_experts + (draw.seldom() ? draw.in(0, 3) : 0);
  topology.special_end = topology.special_begin + (draw.flag() ? draw.in(0, 3) : 0);
  return topology;
}

/// What a rank passes, and what the model says of it.
struct Source {
  std::int64_t bs = 0;
  std::int64_t k = 1;
  TensorView ids;
  std::optional<TensorView> mask;
  std::vector<std::int32_t> id_of;  ///< (BS, K)
  std::vector<bool> takes_part;     ///< (BS, K)
  routing::SendCounts counts;
  std::vector<std::int32_t> entries;
  std::vector<std::int32_t> active;

  std::vector<std::int32_t> active_tokens() const {
    std::vector<std::int32_t> tokens;
    for (std::int64_t t = 0; t < bs; ++t) {
      const auto begin = takes_part.begin() + t * k;
      if (std::find(begin, begin + k, true) != begin + k) {
        tokens.push_back(static_cast<std::int32_t>(t));
      }
    }
    return tokens;
  }
};

Source draw_source(Draw& draw, const Topology& topology, std::int64_t k) {
  Source source;
  source.bs = draw.in(0, 5);
  source.k = k;
  const std::int64_t pairs = source.bs * k;
  const std::int64_t known = std::max(topology.num_experts, topology.special_end);
  for (std::int64_t i = 0; i < pairs; ++i) {
    const bool wrong = known == 0 || draw.seldom();
    source.id_of.push_back(
        static_cast<std::int32_t>(wrong ? draw.in(-2, known + 2) : draw.in(0, known - 1)));
  }
  source.ids = draw.tensor(DType::kInt32, {source.bs, k}, [&](std::int64_t i) {
    return source.id_of[static_cast<std::size_t>(i)];
  });
  source.takes_part.assign(static_cast<std::size_t>(pairs), true);
  const std::int64_t form = draw.in(0, 2);
  if (form > 0) {
    const std::int64_t width = form == 1 ? k : 1;  // pairs that an element of the mask speaks for
    source.mask = draw.tensor(
        DType::kBool, form == 1 ? Dims{source.bs} : Dims{source.bs, k}, [&](std::int64_t i) {
          const bool on = draw.flag();
          std::fill_n(source.takes_part.begin() + i * width, width, on);
          return on ? 1 : 0;
        });
  }
  for (std::size_t i = 0; i < source.id_of.size(); ++i) {
    source.takes_part[i] = source.takes_part[i] && source.id_of[i] != -1;
  }
  return source;
}

/// The rank's own part; false when it is refused.
bool check_send(const Topology& topology, Source& source) {
  const Checker check(Operator::kDispatchV2,
                      {.rank = topology.rank, .world_size = topology.num_ranks});
  const ActivePairs pairs(source.mask, source.ids);
  const Status status = routing::count(check, topology, pairs, source.counts);
  std::vector<std::pair<std::int32_t, std::int32_t>> want;  // (expert, t*K+k)
  std::vector<std::int32_t> occurrences;
  bool legal = true;
  for (std::int64_t i = 0; i < source.bs * source.k; ++i) {
    const std::int32_t id = source.id_of[static_cast<std::size_t>(i)];
    const bool routed = id >= 0 && id < topology.num_experts;
    const bool special = id >= topology.special_begin && id < topology.special_end;
    const bool on = source.takes_part[static_cast<std::size_t>(i)];
    legal = legal && (!on || routed || special);
    occurrences.push_back(0);
    if (on && routed) {
      occurrences.back() = static_cast<std::int32_t>(
          std::count_if(want.begin(), want.end(), [id](auto pair) { return pair.first == id; }));
      want.emplace_back(id, static_cast<std::int32_t>(i));
    }
  }
  if (!legal) {
    expect_error(status, StatusCode::kInvalidArgument);
    return false;
  }
  expect(status.ok(), status.message());
  std::sort(want.begin(), want.end());
  expect(source.counts.num_entries == ssize(want), "a row for each pair sent");
  source.active = source.active_tokens();
  expect(source.counts.num_active == ssize(source.active), "the active tokens");

  source.entries.resize(want.size());
  std::vector<std::int32_t> cursor;
  routing::sort_by_expert(source.counts, pairs, cursor, std::span(source.entries));
  for (std::size_t i = 0; i < want.size(); ++i) {
    expect(source.entries[i] == want[i].second, "entries in the order of experts");
  }
  std::vector<std::int32_t> got(occurrences.size());
  routing::count_occurrences(source.counts, pairs, cursor, got.data());
  expect(got == occurrences, "the occurrences of the model");
  std::vector<std::int32_t> active(source.active.size());
  routing::list_active(pairs, std::span(active));
  expect(active == source.active, "the active tokens in order");
  for (int r = 0; r < topology.num_ranks; ++r) {
    const auto rows = std::count_if(
        want.begin(), want.end(), [&](auto pair) { return topology.owner_of(pair.first) == r; });
    expect(source.counts.rows_to[static_cast<std::size_t>(r)] == rows, "the rows to each rank");
  }
  return true;
}

/// (local expert, source, position in the source's list) of every row that a rank receives.
using Row = std::tuple<std::int64_t, int, std::int64_t>;

std::vector<Row> model_rows(const Topology& topology, const std::vector<Source>& sources) {
  std::vector<Row> rows;
  for (int r = 0; r < topology.num_ranks; ++r) {
    const Source& source = sources[static_cast<std::size_t>(r)];
    if (topology.rank < topology.num_shared_ranks) {
      const int each = topology.num_shared_ranks / topology.num_shared;
      for (std::int64_t i = 0; r % each == topology.rank % each && i < ssize(source.active); ++i) {
        rows.emplace_back(0, r, i);
      }
      continue;
    }
    for (std::int64_t i = 0; i < ssize(source.entries); ++i) {
      const std::int64_t id =
          source.id_of[static_cast<std::size_t>(source.entries[static_cast<std::size_t>(i)])];
      if (topology.owner_of(id) == topology.rank) {
        rows.emplace_back(id % topology.experts_per_rank(), r, i);
      }
    }
  }
  std::sort(rows.begin(), rows.end());
  return rows;
}

void check_receive(Topology topology, const std::vector<Source>& sources, Draw& draw) {
  topology.rank = static_cast<int>(draw.in(0, topology.num_ranks - 1));
  std::vector<routing::SourceRouting> given;
  std::vector<std::vector<std::int32_t>> offsets;
  for (const Source& source : sources) {
    offsets.push_back(source.counts.expert_offsets);
    given.push_back({offsets.back().data(), source.counts.num_entries, source.counts.num_active});
  }
  std::vector<routing::Cell> cells;
  expect(routing::plan_receive(topology, given, cells), "a plan of what was counted");
  std::vector<Row> rows;
  const int num_ranks = topology.num_ranks;
  for (std::size_t c = 0; c < cells.size(); ++c) {
    expect(cells[c].first_row == ssize(rows), "cells one behind the other");
    for (std::int64_t i = 0; i < cells[c].num_rows; ++i) {
      rows.emplace_back(
          static_cast<std::int64_t>(c) / num_ranks, cells[c].source, cells[c].first_entry + i);
    }
  }
  expect(rows == model_rows(topology, sources), "the rows of the model");
  expect(routing::num_rows(cells) == ssize(rows), "their number");

  // What a peer may publish instead.
  for (std::int64_t left = draw.in(0, 4); left > 0; --left) {
    auto& changed = offsets[draw.index(offsets.size())];
    changed[draw.index(changed.size())] = static_cast<std::int32_t>(draw.any());
  }
  if (!routing::plan_receive(topology, given, cells)) {
    return;
  }
  for (const routing::Cell& cell : cells) {
    const auto& source = given[static_cast<std::size_t>(cell.source)];
    const std::int64_t most =
        topology.is_shared(topology.rank) ? source.num_active : source.num_entries;
    expect(cell.first_entry >= 0 && cell.num_rows >= 0 &&
               cell.first_entry + cell.num_rows <= most && cell.first_row >= 0,
           "cells within what the source published");
  }
}

void check_return(Draw& draw) {
  const routing::ReturnLimits limits{static_cast<int>(draw.in(1, 5)), draw.in(0, 6), draw.in(1, 4)};
  const std::int64_t num_rows = draw.in(0, 12);
  const std::int64_t most[] = {limits.num_ranks, limits.max_bs, limits.slots};
  std::vector<std::int32_t> fields;
  bool legal = true;
  const TensorView view = draw.tensor(DType::kInt32, {3 * num_rows}, [&](std::int64_t i) {
    const std::int64_t limit = most[i % 3];
    const std::int64_t value =
        limit == 0 || draw.seldom() ? draw.in(-1, limit) : draw.in(0, limit - 1);
    legal = legal && value >= 0 && value < limit;
    fields.push_back(static_cast<std::int32_t>(value));
    return value;
  });
  const routing::TripleView triples{
      static_cast<const std::int32_t*>(view.data), view.strides[0], num_rows};
  const Checker check(Operator::kCombineV2, {});
  std::vector<std::int32_t> offsets;
  const Status status = routing::count_returns(check, triples, limits, offsets);
  if (!legal) {
    expect_error(status, StatusCode::kInvalidArgument);
    return;
  }
  expect(status.ok(), status.message());
  std::vector<std::int32_t> cursor;
  std::vector<ReturnEntry> entries(static_cast<std::size_t>(num_rows));
  routing::sort_by_owner(triples, offsets, cursor, std::span(entries));
  std::size_t next = 0;
  for (int owner = 0; owner < limits.num_ranks; ++owner) {
    expect(offsets[static_cast<std::size_t>(owner)] == static_cast<std::int64_t>(next),
           "where each owner's rows begin");
    for (std::int64_t row = 0; row < num_rows; ++row) {
      const std::int32_t* triple = fields.data() + 3 * row;
      if (triple[0] == owner) {
        const ReturnEntry& entry = entries[next++];
        expect(entry.row == row && entry.token == triple[1] && entry.slot == triple[2],
               "rows by owner, then in order");
      }
    }
  }
}

void run(Draw& draw) {
  Topology topology = draw_topology(draw);
  const std::int64_t k = draw.in(1, 4);
  std::vector<Source> sources;
  bool all_sent = true;
  for (int r = 0; r < topology.num_ranks; ++r) {
    topology.rank = r;
    sources.push_back(draw_source(draw, topology, k));
    all_sent = check_send(topology, sources.back()) && all_sent;
  }
  if (all_sent) {
    check_receive(topology, sources, draw);
  }
  check_return(draw);
}

}  // namespace
}  // namespace waybill::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  waybill::fuzz::Draw draw(data, size);
  waybill::fuzz::run(draw);
  return 0;
}
