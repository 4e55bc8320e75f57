#include "exchange/apart.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <set>

#include "waybill/group.h"

namespace waybill::bench {
namespace {

/// The same for all network namespaces of a machine, another one after it was started again.
std::string this_machine() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string text;
  std::getline(file, text);
  return text;
}

}  // namespace

int Apart::Places::num_hosts() const {
  return static_cast<int>(std::set<std::string>(hosts.begin(), hosts.end()).size());
}

bool Apart::Places::one_machine() const {
  return std::count(machines.begin(), machines.end(), machines.front()) ==
         static_cast<std::int64_t>(machines.size());
}

bool Apart::Places::is_first(int rank) const {
  const auto own = hosts.begin() + rank;
  return std::find(hosts.begin(), own, *own) == own;
}

int Apart::Places::place(int rank) const {
  const auto own = machines.begin() + rank;
  return static_cast<int>(std::count(machines.begin(), own, *own));
}

int Apart::Places::neighbours(int rank) const {
  return static_cast<int>(
      std::count(machines.begin(), machines.end(), machines[static_cast<std::size_t>(rank)]));
}

void Apart::find_places() {
  auto host = this_host();
  if (!host.ok()) {
    std::fprintf(stderr, "waybill-bench: %s\n", host.status().message().c_str());
    fail();
  }
  places_.hosts = all_gather(*host);
  places_.machines = all_gather(this_machine());
}

}  // namespace waybill::bench
