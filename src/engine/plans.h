#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "routing/receive_plan.h"
#include "routing/send_plan.h"
#include "window/layout.h"

namespace waybill::engine {

/// What one dispatch has worked out about its rows. Owner: the Session, which keeps the memory from
/// call to call and lends it to one Dispatch at a time; with an open setup, until its teardown.
struct DispatchPlan {
  routing::SendCounts counts;        ///< rows that this rank sends
  std::vector<std::int32_t> cursor;  ///< scratch of the routing functions
  std::vector<char> travels;         ///< by row published: it is meant for the host at hand
  std::vector<window::DispatchLayout> layouts;  ///< by member: where its lists and rows lie
  std::vector<routing::SourceRouting> sources;  ///< by member
  std::vector<routing::Cell> cells;             ///< by (local expert, member): the rows received
};

/// Where what a member of a combine returns begins.
struct ReturnSource {
  const std::byte* rows;
  const std::byte* scales;     ///< with comm_quant_mode
  const std::int32_t* counts;  ///< where rows are found by occurrence
};

/// The same of one combine.
struct CombinePlan {
  routing::SendCounts counts;               ///< of the ids of this rank's tokens
  std::vector<std::int32_t> cursor;         ///< scratch of the routing functions
  std::vector<char> travels;                ///< by row returned: it is meant for the host at hand
  std::vector<std::int32_t> owner_offsets;  ///< rows that this rank returns, by their owner
  std::vector<window::CombineLayout> layouts;  ///< by member
  std::vector<ReturnSource> returns;           ///< by member
  std::vector<std::int64_t> received_rows;     ///< by member: rows read from it
  std::vector<const std::byte*> rows;          ///< by (token, slot): where the row lies
  std::vector<const std::byte*> scales;        ///< the same for the scales of comm_quant_mode
  std::vector<int> readers;                    ///< ranks to which this rank returns rows
};

}  // namespace waybill::engine
