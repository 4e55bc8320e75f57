#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "waybill/group.h"
#include "waybill/status.h"

namespace waybill {

/// Where a rank is, seen from outside.
struct RankState {
  int rank = 0;
  pid_t pid = 0;   ///< 0: no process has this rank's page
  std::string op;  ///< the operator it is in; empty between calls
  Phase phase = Phase::kIdle;
  std::int64_t epoch = 0;
  std::int64_t call = 0;       ///< number of the call it makes, or last made
  double seconds = 0;          ///< how long it has been in the phase
  std::vector<int> waits_for;  ///< ranks whose word it waits for, as far as the words say
  bool needs_reset = false;    ///< a call failed; the next one needs a reset
  bool rejoining = false;      ///< a process that came back and waits for a reset
  int memory_node = -1;        ///< NUMA node of its control page: where it ran when it connected
};

/// A group of this host, seen from outside.
struct GroupState {
  std::string name;
  std::string id;       ///< UniqueId's text
  std::string version;  ///< of the library; where it is not this one, `ranks` is empty
  int world_size = 0;
  std::vector<RankState> ranks;  ///< (E,) in order
};

/// The groups of all processes that this one may look into: those of the same user, for root all.
/// Reads their control pages only; they need not run, nor answer. Local.
std::vector<GroupState> inspect_groups();

}  // namespace waybill
