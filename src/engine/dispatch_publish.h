#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "contract/dispatch_contract.h"
#include "engine/session.h"
#include "routing/pairs.h"
#include "window/control.h"
#include "window/layout.h"

namespace waybill::engine {

/// Rows in the half of a rank with this header: a token each, or with smooth scales one for each
/// (token, expert), entries first, then for each shared expert the active tokens.
std::int64_t rows_published(const contract::DispatchShape& shape, const window::CallHeader& header);

/// Where everything lies in the half of a rank with this header.
window::DispatchLayout dispatch_layout(const contract::DispatchShape& shape,
                                       const window::CallHeader& header);

/// Start of a section as elements.
template <typename T, typename Byte>
auto at(Byte* half, const window::Section& section) {
  using Element = std::conditional_t<std::is_const_v<Byte>, const T, T>;
  return reinterpret_cast<Element*>(half + section.offset);
}

/// What a dispatch publishes, and where: `half` is this rank's, free and large enough.
struct DispatchPublish {
  const DispatchArgs& args;
  const contract::DispatchShape& shape;
  const routing::ActivePairs& pairs;
  const window::CallHeader& header;
  std::byte* half;
};

/// Writes routing and rows of this rank into its half. `plan` has the counts of the ids.
void publish_dispatch(Session& session, DispatchPlan& plan, const DispatchPublish& what);

}  // namespace waybill::engine
