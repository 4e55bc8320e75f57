#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
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
  kLeft,     ///< `ranks` failed in a call that others may have completed: they make no further one
  kInterrupted,
};

struct WaitResult {
  WaitEnd end = WaitEnd::kArrived;
  std::vector<int> ranks;
  std::chrono::microseconds waited{0};
  std::vector<int> slept_for;  ///< ranks whose word was missing when this rank went to sleep; only
                               ///< where waits are logged
};

/// A wait for `word` of every rank in `ranks` to be in the epoch of `target` and at its call number
/// or later.
struct WordWait {
  const window::Word window::ControlPage::* word;
  window::Stamp target;
  const std::vector<int>& ranks;
  std::chrono::milliseconds timeout;
  bool ended_is_arrived = false;                   ///< a dead rank reads nothing any more
  std::vector<std::int64_t>* waited_us = nullptr;  ///< (E,) gets the time waited for each rank
};

/// A wait for what the ranks of other hosts published in the call `target` to be there: those of
/// Shipment::arriving(). It ends, too, where nothing more will come of a rank: the caller looks.
struct ArrivalWait {
  window::Stamp target;
  std::chrono::milliseconds timeout;
};

/// Blocks: spins, yields, then sleeps on the first missing rank's word, looking after processes,
/// the interrupt check and the deadline at least twice a second.
WaitResult wait_for(Session& session, const WordWait& what);
WaitResult wait_for(Session& session, const ArrivalWait& what);

/// Blocks until nothing of what was sent of a half is needed any more, moving messages meanwhile.
/// Ends with kArrived, kTimeout (without ranks) or kInterrupted.
WaitResult wait_until_sent(Session& session, std::size_t half, std::chrono::milliseconds timeout);

/// True when `seen` is in the epoch of `target` and not before it.
inline bool has_reached(window::Stamp seen, window::Stamp target) noexcept {
  return window::epoch_of(seen) == window::epoch_of(target) &&
         static_cast<std::int32_t>(window::call_of(seen) - window::call_of(target)) >= 0;
}

/// True when the owner of a page whose word `left` is `left` makes no call `target`, nor a later
/// one of its epoch.
inline bool has_left_before(window::Stamp left, window::Stamp target) noexcept {
  return window::call_of(left) != 0 && has_reached(target, left);
}

}  // namespace waybill::engine
