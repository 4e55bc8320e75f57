#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "contract/operators.h"
#include "waybill/group.h"
#include "window/control.h"

namespace waybill::engine {

/// Where a rank is, read from its control page while it runs.
struct Whereabouts {
  Phase phase = Phase::kIdle;
  contract::Operator op = contract::Operator::kNone;
  std::uint32_t epoch = 0;
  std::uint32_t call = 0;             ///< that it makes, or last made
  std::chrono::nanoseconds since{0};  ///< how long it has been in the phase
  int waits_for = -1;                 ///< a missing rank, of a wait that sleeps
  int num_missing = 0;                ///< of that wait
  bool needs_reset = false;
};

Whereabouts whereabouts_of(const window::ControlPage& page);

/// "rank 2: idle for 3.2 s after call 1; rank 3: ..."
std::string describe_whereabouts(const std::vector<int>& ranks,
                                 const std::vector<const window::ControlPage*>& pages);

}  // namespace waybill::engine
