#include "transport/hosts.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>

namespace waybill::transport {

std::string this_host() {
  std::array<char, 128> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) {
    name[0] = '\0';
  }
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  struct stat space{};
  const bool known = stat("/proc/self/ns/net", &space) == 0;
  return std::string(name.data()) + "-" + boot.substr(0, 8) + "-" +
         std::to_string(known ? space.st_ino : 0) + "-" + std::to_string(geteuid());
}

std::vector<int> number_hosts(const std::vector<std::string>& names) {
  std::vector<std::string> found;
  std::vector<int> numbers;
  numbers.reserve(names.size());
  for (const std::string& name : names) {
    const auto at = std::find(found.begin(), found.end(), name);
    numbers.push_back(static_cast<int>(at - found.begin()));
    if (at == found.end()) {
      found.push_back(name);
    }
  }
  return numbers;
}

int agent_of(const std::vector<int>& members,
             const std::vector<int>& hosts,
             int source,
             int host) noexcept {
  const auto host_of = [&](int rank) { return hosts[static_cast<std::size_t>(rank)]; };
  int before = 0;  // members of the source's host that come before it
  int on_host = 0;
  for (const int rank : members) {
    before += host_of(rank) == host_of(source) && rank < source ? 1 : 0;
    on_host += host_of(rank) == host ? 1 : 0;
  }
  if (on_host == 0) {
    return -1;
  }
  int next = before % on_host;
  for (const int rank : members) {
    if (host_of(rank) == host && next-- == 0) {
      return rank;
    }
  }
  return -1;
}

}  // namespace waybill::transport
