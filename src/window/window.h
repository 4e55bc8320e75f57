#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "waybill/status.h"
#include "window/board.h"
#include "window/control.h"
#include "window/memory_budget.h"
#include "window/pool.h"
#include "window/region.h"

namespace waybill::window {

inline constexpr std::int64_t kControlBytes =
    (static_cast<std::int64_t>(sizeof(ControlPage)) + kGranule - 1) / kGranule * kGranule;

/// Names of memory files. By that of a control page tools find groups (waybill/inspect.h).
inline constexpr const char* kControlFile = "waybill-control";
inline constexpr const char* kHalfFile = "waybill-half";

struct WindowOptions {
  Identity identity;
  bool newcomer = false;  ///< of a process that comes back
  bool checked = false;   ///< the pool's buffers have canaries and are poisoned when freed
};

/// All memory of one rank that peers can read: control page, two halves, pool.
/// Owner: the rank's Session. Freed when the session and, for the pool, the last buffer is gone.
struct Window {
  Region control_region;
  const ControlPage* control = nullptr;  ///< in control_region
  Board board;                           ///< writes it
  std::array<Region, 2> halves;
  Pool pool;

  /// `bytes` of address space for each half and for the pool. The words begin at (epoch 1, call 0),
  /// for a newcomer before every epoch.
  static Result<std::unique_ptr<Window>> create(std::int64_t bytes,
                                                MemoryBudget& budget,
                                                const WindowOptions& options = {});
};

}  // namespace waybill::window
