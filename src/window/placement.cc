#include "window/placement.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

namespace waybill::window {

void Placement::add(const Placement& other) {
  pages.resize(std::max(pages.size(), other.pages.size()));
  for (std::size_t node = 0; node < other.pages.size(); ++node) {
    pages[node] += other.pages[node];
  }
  absent += other.absent;
}

Placement placement_of(std::span<const std::byte* const> addresses) {
  Placement placement;
  std::vector<int> nodes(addresses.size(), -1);
  // Without a list of target nodes it answers and moves nothing.
  const long failed =
      syscall(SYS_move_pages, 0, addresses.size(), addresses.data(), nullptr, nodes.data(), 0);
  for (const int node : nodes) {
    if (failed != 0 || node < 0) {
      ++placement.absent;
      continue;
    }
    const auto index = static_cast<std::size_t>(node);
    placement.pages.resize(std::max(placement.pages.size(), index + 1));
    ++placement.pages[index];
  }
  return placement;
}

int own_node() noexcept {
  unsigned core = 0;
  unsigned node = 0;
  return syscall(SYS_getcpu, &core, &node, nullptr) == 0 ? static_cast<int>(node) : 0;
}

}  // namespace waybill::window
