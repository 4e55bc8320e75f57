#include "engine/helper_cores.h"

#include <algorithm>
#include <cstddef>

namespace waybill::engine {
namespace {

/// Ranks whose calling thread may run on this process's cores, and this one's place among them.
struct Sharers {
  int ranks = 0;
  int place = 0;
  CoreSet bound{};  ///< cores that are a calling thread's only one
};

Sharers find_sharers(const HelperFacts& facts) {
  Sharers sharers;
  for (std::size_t rank = 0; rank < facts.callers.size(); ++rank) {
    const CoreSet& cores = facts.callers[rank];
    if (rank != facts.own && !intersect(cores, facts.process)) {
      continue;
    }
    sharers.place += rank < facts.own ? 1 : 0;
    ++sharers.ranks;
    if (count(cores) == 1) {
      sharers.bound = unite(sharers.bound, cores);
    }
  }
  return sharers;
}

}  // namespace

HelperCores place_helpers(const HelperFacts& facts) {
  const Sharers sharers = find_sharers(facts);
  const int ranks = static_cast<int>(facts.callers.size());
  CoreSet callers{};
  for (const CoreSet& cores : facts.callers) {
    callers = unite(callers, cores);
  }
  const int own_cores = count(facts.process);
  const int of_callers = std::max(count(callers), 1);
  HelperCores placed;
  placed.cores = std::max(count(unite(callers, facts.process)), 1);
  // Of calling threads that a launcher pinned to parts of the machine, and of a process whose
  // calling thread alone is bound.
  const int fair = std::max(of_callers / ranks, own_cores / sharers.ranks);
  placed.threads = facts.threads > 0 ? facts.threads : std::clamp(fair, 1, std::max(own_cores, 1));

  const int helpers = placed.threads - 1;
  const bool fits = own_cores >= sharers.ranks * placed.threads;
  std::vector<int> list = facts.asked;
  int first = 0;
  if (list.empty()) {
    const CoreSet rest = without(facts.process, sharers.bound);
    const bool is_bound = count(sharers.bound) > 0 && count(rest) > 0;
    list = list_of(is_bound ? rest : facts.process);
    // Calling threads that move about leave their share's first core free.
    first = fits && !is_bound ? sharers.place * placed.threads + 1 : sharers.place * helpers;
  }
  for (int i = 0; i < helpers && !list.empty(); ++i) {
    placed.cores_of_helpers.push_back(list[static_cast<std::size_t>(first + i) % list.size()]);
  }
  const bool own_core_each = facts.asked.empty() || static_cast<int>(facts.asked.size()) >= helpers;
  placed.has_cores = of_callers >= ranks && fits && own_core_each;
  return placed;
}

}  // namespace waybill::engine
