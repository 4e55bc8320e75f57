#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace waybill::window {

/// On which NUMA nodes some pages lie.
struct Placement {
  std::vector<std::int64_t> pages;  ///< by node, as far as the highest one that has any
  /// Pages that this process has not mapped, or that nobody can look at.
  std::int64_t absent = 0;

  void add(const Placement& other);
};

/// More pages than these are not asked for at once.
inline constexpr std::int64_t kMostPages = 1024;

/// Where the pages with these addresses lie. Only asks: nothing is moved, and no page is made.
Placement placement_of(std::span<const std::byte* const> addresses);

/// The node of the core that this thread runs on; 0 where nobody can say.
int own_node() noexcept;

}  // namespace waybill::window
