#pragma once

#include <chrono>
#include <vector>

#include "engine/session.h"
#include "window/words.h"

namespace waybill::engine {

enum class WaitEnd {
  kArrived,
  kTimeout,  ///< `ranks` are alive and did not come
  kLost,     ///< the processes of `ranks` have ended
  kMovedOn,  ///< `ranks` are in a newer epoch: this rank was left behind
  kReset,    ///< `ranks` have called reset
  kInterrupted,
};

struct WaitResult {
  WaitEnd end = WaitEnd::kArrived;
  std::vector<int> ranks;
  std::chrono::microseconds waited{0};
  std::vector<int> slept_for;  ///< ranks whose word was missing when this rank went to sleep; only
                               ///< where waits are logged
};

/// What to wait for: `word` of every rank in `ranks` in the epoch of `target` and at its call
/// number or later.
struct WaitSpec {
  /// Null: for what ranks of other hosts published to arrive in the half of the target's call.
  const window::Word window::ControlPage::* word;
  window::Stamp target;
  const std::vector<int>& ranks;
  std::chrono::milliseconds timeout;
  bool ended_is_arrived = false;                   ///< a dead rank reads nothing any more
  std::vector<std::int64_t>* waited_us = nullptr;  ///< (E,) gets the time waited for each rank
};

/// Blocks: spins, yields, then sleeps on the first missing rank's word, looking after processes,
/// the interrupt check and the deadline at least twice a second.
WaitResult wait_for(Session& session, const WaitSpec& spec);

/// True when `seen` is in the epoch of `target` and not before it.
inline bool has_reached(window::Stamp seen, window::Stamp target) noexcept {
  return window::epoch_of(seen) == window::epoch_of(target) &&
         static_cast<std::int32_t>(window::call_of(seen) - window::call_of(target)) >= 0;
}

}  // namespace waybill::engine
