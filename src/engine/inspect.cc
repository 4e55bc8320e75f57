#include "waybill/inspect.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <map>
#include <optional>
#include <tuple>
#include <utility>

#include "base/process_start.h"
#include "engine/wait.h"
#include "engine/whereabouts.h"
#include "window/placement.h"
#include "window/region.h"
#include "window/window.h"

namespace waybill {
namespace {

namespace fs = std::filesystem;
using engine::Whereabouts;
using window::ControlPage;

/// A control page of some process, mapped.
struct Page {
  pid_t pid;
  window::PeerMapping mapping;

  const ControlPage& control() const {
    return *reinterpret_cast<const ControlPage*>(mapping.data());
  }
};

/// What the entry of a process's descriptor table opens, when it is a control page.
std::optional<Page> open_page(pid_t pid, const fs::path& entry) {
  std::error_code failure;
  const std::string target = fs::read_symlink(entry, failure).string();
  if (failure || target.find(std::string("/memfd:") + window::kControlFile) != 0) {
    return std::nullopt;
  }
  auto mapping =
      window::PeerMapping::map(open(entry.c_str(), O_RDONLY | O_CLOEXEC), window::kControlBytes);
  if (!mapping.ok() || reinterpret_cast<const ControlPage*>(mapping->data())->identity.magic !=
                           window::Identity().magic) {
    return std::nullopt;
  }
  return Page{pid, std::move(*mapping)};
}

std::vector<Page> find_pages() {
  std::vector<Page> pages;
  std::error_code failure;
  for (const auto& process : fs::directory_iterator("/proc", failure)) {
    const std::string name = process.path().filename().string();
    pid_t pid = 0;
    const auto [end, wrong] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (wrong != std::errc() || end != name.data() + name.size()) {
      continue;
    }
    // Of another user, or ended meanwhile: the iterator is empty.
    std::error_code unreadable;
    for (fs::directory_iterator at(process.path() / "fd", unreadable), none;
         !unreadable && at != none;
         at.increment(unreadable)) {
      if (auto page = open_page(pid, at->path())) {
        pages.push_back(std::move(*page));
      }
    }
  }
  return pages;
}

RankState state_of(const Page& page) {
  const ControlPage& control = page.control();
  const Whereabouts where = engine::whereabouts_of(control);
  RankState state;
  state.rank = control.identity.rank;
  state.pid = page.pid;
  state.op = where.op == contract::Operator::kNone ? "" : contract::name_of(where.op);
  state.phase = where.phase;
  state.epoch = where.epoch;
  state.call = where.call;
  state.seconds = std::chrono::duration<double>(where.since).count();
  state.needs_reset = where.needs_reset;
  state.rejoining = control.newcomer.load() != 0;
  const std::array<const std::byte*, 1> first_page{page.mapping.data()};
  const auto nodes = window::placement_of(first_page).pages;
  state.memory_node = static_cast<int>(nodes.size()) - 1;
  if (where.waits_for >= 0) {
    state.waits_for.push_back(where.waits_for);
  }
  return state;
}

/// Of a rank that waits for several: those whose words, as seen from here, are behind its call.
void find_missing(GroupState& group, const std::vector<const ControlPage*>& pages) {
  for (RankState& rank : group.ranks) {
    const ControlPage* own = pages[static_cast<std::size_t>(rank.rank)];
    const Whereabouts where = own == nullptr ? Whereabouts() : engine::whereabouts_of(*own);
    if (where.num_missing < 2) {
      continue;
    }
    const bool signals = where.phase == Phase::kWaitSignals;
    const std::uint32_t due = where.phase == Phase::kWaitHalf ? where.call - 2 : where.call;
    for (const RankState& other : group.ranks) {
      const ControlPage* page = pages[static_cast<std::size_t>(other.rank)];
      const bool listed = other.rank == rank.waits_for.front();
      const window::Stamp seen = page == nullptr ? 0
                                 : signals       ? page->signalled.load()
                                                 : page->done.load();
      if (!listed && other.rank != rank.rank &&
          !engine::has_reached(seen, window::stamp(where.epoch, due))) {
        rank.waits_for.push_back(other.rank);
      }
    }
    std::sort(rank.waits_for.begin(), rank.waits_for.end());
  }
}

GroupState group_of(const std::vector<const Page*>& pages) {
  const window::Identity& identity = pages.front()->control().identity;
  GroupState group{identity.name_text(), identity.id_text(), identity.version_text(), 0, {}};
  if (identity.layout_version != window::kLayoutVersion ||
      identity.page_bytes != sizeof(ControlPage) || identity.world_size < 1 ||
      identity.world_size > window::kMaxRanks) {
    return group;
  }
  group.world_size = identity.world_size;
  group.ranks.resize(static_cast<std::size_t>(identity.world_size));
  for (int r = 0; r < identity.world_size; ++r) {
    group.ranks[static_cast<std::size_t>(r)].rank = r;
  }
  std::vector<const ControlPage*> controls(group.ranks.size());
  for (const Page* page : pages) {
    const int rank = page->control().identity.rank;
    if (rank >= 0 && rank < identity.world_size) {
      group.ranks[static_cast<std::size_t>(rank)] = state_of(*page);
      controls[static_cast<std::size_t>(rank)] = &page->control();
    }
  }
  find_missing(group, controls);
  return group;
}

}  // namespace

std::vector<GroupState> inspect_groups() {
  const std::vector<Page> pages = find_pages();
  std::map<std::string, std::vector<const Page*>> by_id;
  for (const Page& page : pages) {
    // A child that was forked has its parent's descriptors, too. Pids differ between containers.
    if (process_start(page.pid) == page.control().identity.process_start) {
      by_id[page.control().identity.id_text()].push_back(&page);
    }
  }
  std::vector<GroupState> groups;
  groups.reserve(by_id.size());
  for (const auto& [id, members] : by_id) {
    groups.push_back(group_of(members));
  }
  std::sort(groups.begin(), groups.end(), [](const GroupState& a, const GroupState& b) {
    return std::tie(a.name, a.id) < std::tie(b.name, b.id);
  });
  return groups;
}

}  // namespace waybill
