#include "base/cores.h"

#include <dirent.h>
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstdlib>
#include <memory>
#include <system_error>
#include <thread>

namespace waybill {
namespace {

constexpr int kMostCores = static_cast<int>(64 * std::tuple_size_v<CoreSet>);
static_assert(kMostCores <= CPU_SETSIZE);

void insert(CoreSet& cores, int core) noexcept {
  if (core >= 0 && core < kMostCores) {
    cores[static_cast<std::size_t>(core) / 64] |= std::uint64_t{1} << core % 64;
  }
}

/// Empty where the thread is gone.
CoreSet cores_of(pid_t thread) noexcept {
  CoreSet cores{};
  cpu_set_t set;
  if (sched_getaffinity(thread, sizeof(set), &set) == 0) {
    for (int core = 0; core < kMostCores; ++core) {
      if (CPU_ISSET(core, &set)) {
        insert(cores, core);
      }
    }
  }
  return cores;
}

CoreSet cores_of_all_threads() {
  CoreSet all{};
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir("/proc/self/task"), closedir);
  while (folder != nullptr) {
    const dirent* const entry = readdir(folder.get());
    if (entry == nullptr) {
      break;
    }
    if (const int thread = std::atoi(entry->d_name); thread > 0) {
      all = unite(all, cores_of(thread));
    }
  }
  return all;
}

/// What the control group permits: a thread asks for every core and looks at what it got.
CoreSet permitted_cores() {
  CoreSet permitted{};
  try {
    std::thread([&] {
      cpu_set_t all;
      CPU_ZERO(&all);
      for (int core = 0; core < kMostCores; ++core) {
        CPU_SET(core, &all);
      }
      sched_setaffinity(0, sizeof(all), &all);
      permitted = cores_of(0);
    }).join();
  } catch (const std::system_error&) {
    permitted = cores_of(0);  // no thread to be had
  }
  return permitted;
}

/// A function of the OpenMP library that the program uses; null where it uses none.
template <typename Function>
Function* openmp(const char* name) noexcept {
  return reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name));
}

/// Of the OpenMP library, which counts before it binds.
int counted_before_binding() noexcept {
  auto* const binds = openmp<int()>("omp_get_proc_bind");
  auto* const counts = openmp<int()>("omp_get_num_procs");
  return binds != nullptr && counts != nullptr && binds() != 0 ? counts() : 0;
}

CoreSet places_of_openmp() {
  CoreSet cores{};
  auto* const places = openmp<int()>("omp_get_num_places");
  auto* const sizes = openmp<int(int)>("omp_get_place_num_procs");
  auto* const lists = openmp<void(int, int*)>("omp_get_place_proc_ids");
  if (places == nullptr || sizes == nullptr || lists == nullptr) {
    return cores;
  }
  for (int place = 0; place < places(); ++place) {
    std::vector<int> list(static_cast<std::size_t>(std::max(sizes(place), 0)), -1);
    lists(place, list.data());
    cores = unite(cores, core_set_of(list));
  }
  return cores;
}

}  // namespace

int count(const CoreSet& cores) noexcept {
  int all = 0;
  for (const std::uint64_t bits : cores) {
    all += std::popcount(bits);
  }
  return all;
}

bool contains(const CoreSet& cores, int core) noexcept {
  return core >= 0 && core < kMostCores &&
         (cores[static_cast<std::size_t>(core) / 64] >> core % 64 & 1) != 0;
}

bool intersect(const CoreSet& one, const CoreSet& other) noexcept {
  return without(one, other) != one;
}

CoreSet unite(const CoreSet& one, const CoreSet& other) noexcept {
  CoreSet both = one;
  for (std::size_t i = 0; i < both.size(); ++i) {
    both[i] |= other[i];
  }
  return both;
}

CoreSet without(const CoreSet& cores, const CoreSet& left_out) noexcept {
  CoreSet rest = cores;
  for (std::size_t i = 0; i < rest.size(); ++i) {
    rest[i] &= ~left_out[i];
  }
  return rest;
}

CoreSet core_set_of(const std::vector<int>& cores) noexcept {
  CoreSet set{};
  for (const int core : cores) {
    insert(set, core);
  }
  return set;
}

std::vector<int> list_of(const CoreSet& cores) {
  std::vector<int> list;
  for (int core = 0; core < kMostCores; ++core) {
    if (contains(cores, core)) {
      list.push_back(core);
    }
  }
  return list;
}

std::string to_text(const CoreSet& cores) {
  std::string text;
  for (int first = 0; first < kMostCores; ++first) {
    if (!contains(cores, first)) {
      continue;
    }
    int last = first;
    while (contains(cores, last + 1)) {
      ++last;
    }
    text += (text.empty() ? "" : ",") + std::to_string(first);
    text += last > first ? "-" + std::to_string(last) : "";
    first = last;
  }
  return text.empty() ? "none" : text;
}

std::optional<std::vector<int>> parse_cores(std::string_view list) {
  std::vector<int> cores;
  CoreSet seen{};
  const char* at = list.data();
  const char* const end = at + list.size();
  const auto number = [&](int& value) {
    const auto [stop, failure] = std::from_chars(at, end, value);
    const bool good = failure == std::errc() && *at != '-' && value < kMostCores;
    at = stop;
    return good;
  };
  while (true) {
    int first = 0;
    if (at == end || !number(first)) {
      return std::nullopt;
    }
    int last = first;
    if (at != end && *at == '-') {
      ++at;
      if (at == end || !number(last)) {
        return std::nullopt;
      }
    }
    for (int core = first; core <= last; ++core) {
      if (contains(seen, core)) {
        return std::nullopt;
      }
      insert(seen, core);
      cores.push_back(core);
    }
    if (last < first || (at != end && *at != ',')) {
      return std::nullopt;
    }
    if (at == end) {
      return cores;
    }
    ++at;
  }
}

CoreSet cores_of_thread() noexcept { return cores_of(0); }

ProcessCores decide_cores(const CoreFacts& facts) noexcept {
  // A thread with a choice of cores is as free as its process; one without may have been bound by
  // itself, and then others have the rest.
  CoreSet known = unite(facts.main, facts.caller);
  if (count(facts.main) <= 1 && count(facts.caller) <= 1) {
    known = unite(known, facts.threads);
  }
  if (facts.before_binding <= count(known)) {
    return {known, known};
  }
  // A set of as many cores as OpenMP counted, with those that are known, is the one it counted.
  const auto is_it = [&](const CoreSet& cores) {
    return count(cores) == facts.before_binding && count(without(known, cores)) == 0 &&
           count(without(cores, facts.permitted)) == 0;
  };
  const CoreSet reached = unite(known, facts.threads);
  for (const CoreSet& cores :
       {reached, unite(reached, facts.places), facts.permitted, facts.parent}) {
    if (is_it(cores)) {
      return {cores, cores};
    }
  }
  return {unite(reached, facts.places), unite(unite(reached, facts.places), facts.permitted)};
}

ProcessCores process_cores() {
  CoreFacts facts;
  facts.main = cores_of(getpid());
  facts.caller = cores_of_thread();
  facts.threads = cores_of_all_threads();
  facts.before_binding = counted_before_binding();
  if (facts.before_binding > 0) {
    facts.places = places_of_openmp();
    facts.permitted = permitted_cores();
    facts.parent = cores_of(getppid());
  }
  ProcessCores found = decide_cores(facts);
  if (count(found.cores) == 0) {
    // More cores than a set holds, or nobody may ask.
    for (int core = 0; core < static_cast<int>(std::thread::hardware_concurrency()); ++core) {
      insert(found.cores, core);
    }
    insert(found.cores, 0);
    found.allowed = found.cores;
  }
  return found;
}

void begin_thread(const char* name, const CoreSet& cores) noexcept {
  pthread_setname_np(pthread_self(), name);
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int core = 0; core < kMostCores; ++core) {
    if (contains(cores, core)) {
      CPU_SET(core, &set);
    }
  }
  if (CPU_COUNT(&set) > 0) {
    sched_setaffinity(0, sizeof(set), &set);
  }
}

}  // namespace waybill
