#pragma once

#include <vector>

#include "base/cores.h"

namespace waybill::engine {

/// What decides where the threads of one rank run.
struct HelperFacts {
  std::vector<CoreSet> callers;  ///< of the calling thread of each rank of this host, by rank
  std::size_t own = 0;           ///< which of them is this rank's
  CoreSet process{};             ///< on which this process may run as a whole
  int threads = 0;               ///< that were asked for; 0: a fair share
  std::vector<int> asked;        ///< cores that were asked for; empty: those of the process
};

struct HelperCores {
  int threads = 1;                    ///< the calling one included
  bool has_cores = false;             ///< each of the host's threads has a core to itself
  int cores = 1;                      ///< on which this host's ranks run, all together
  std::vector<int> cores_of_helpers;  ///< of each thread but the calling one
};

/// Ranks share the cores that they may run on, and keep out of each other's way: helpers leave
/// cores to which calling threads are bound, and as far as there are enough each has its own.
HelperCores place_helpers(const HelperFacts& facts);

}  // namespace waybill::engine
