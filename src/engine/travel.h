#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "contract/dispatch_contract.h"
#include "engine/plans.h"
#include "transport/other_hosts.h"
#include "window/control.h"
#include "window/layout.h"

namespace waybill::engine {

/// What of a half the members on one other host need (docs/protocol.md, "Several hosts"). Rows are
/// marked first and then become extents, neighbours together.

/// Extents of the marked ones of rows that lie one behind the other from `from` on, and belong to
/// `at` on in the mirror.
void add_marked_rows(const std::vector<char>& marked,
                     const std::byte* from,
                     std::int64_t at,
                     std::int64_t row_bytes,
                     std::vector<transport::Extent>& extents);

/// What a dispatch published, and for whom: `half` is this rank's, `on_host` has an entry a member.
struct DispatchTravel {
  const contract::DispatchShape& shape;
  const window::CallHeader& header;
  const window::DispatchLayout& layout;
  const std::byte* half;
  const std::vector<char>& on_host;
};

/// Adds the routing, and each row that some member on the host gets, once. `plan` has the counts of
/// the ids.
void add_dispatch(DispatchPlan& plan,
                  const DispatchTravel& what,
                  std::vector<transport::Extent>& extents);

}  // namespace waybill::engine
