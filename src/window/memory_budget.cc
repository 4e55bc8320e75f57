#include "window/memory_budget.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <utility>
#include <vector>

#include "base/errors.h"

namespace waybill::window {
namespace {

constexpr std::int64_t kUnlimited = std::numeric_limits<std::int64_t>::max();

/// First number in a file; kUnlimited for "max", for a missing file and for v1's huge default.
std::int64_t read_number(const std::string& path) {
  std::ifstream file(path);
  std::int64_t value = 0;
  constexpr std::int64_t kV1Default = std::int64_t{1} << 62;
  return file >> value && value < kV1Default ? value : kUnlimited;
}

/// Value of "key value" or "key: value kB" lines; 0 when the key is not there.
std::int64_t read_key(const std::string& path, std::string_view key) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string name;
    std::int64_t value = 0;
    std::string unit;
    if (words >> name >> value && name == key) {
      return words >> unit && unit == "kB" ? value * 1024 : value;
    }
  }
  return 0;
}

struct LimitFiles {
  const char* limit;
  const char* usage;
  const char* reclaimable;  ///< key in memory.stat: page cache that can be dropped
};

void look_at_group(const std::string& folder, const LimitFiles& files, MemoryHeadroom& least) {
  const std::int64_t limit = read_number(folder + "/" + files.limit);
  const std::int64_t usage = read_number(folder + "/" + files.usage);
  if (limit == kUnlimited || usage == kUnlimited) {
    return;
  }
  const std::int64_t cache = read_key(folder + "/memory.stat", files.reclaimable);
  const std::int64_t left =
      std::max<std::int64_t>(limit - std::max<std::int64_t>(usage - cache, 0), 0);
  if (left < least.bytes) {
    least = {left, std::string(files.limit) + " of control group " + folder};
  }
}

/// The group at `path` below `root` and every ancestor up to the root itself.
void look_at_ancestors(const std::string& root,
                       std::string path,
                       const LimitFiles& files,
                       MemoryHeadroom& least) {
  while (true) {
    look_at_group(root + path, files, least);
    if (path.empty()) {
      return;
    }
    path.resize(path.find_last_of('/') == std::string::npos ? 0 : path.find_last_of('/'));
  }
}

}  // namespace

MemoryHeadroom read_headroom(const MemorySources& sources) {
  MemoryHeadroom least{read_key(sources.meminfo, "MemAvailable:"), "MemAvailable of this machine"};
  if (least.bytes == 0) {
    least.bytes = kUnlimited;
  }
  constexpr LimitFiles kV2{"memory.max", "memory.current", "inactive_file"};
  constexpr LimitFiles kV1{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"};
  std::ifstream file(sources.self_cgroup);
  std::string line;
  while (std::getline(file, line)) {
    // "0::/path" for v2, "7:memory:/path" for v1.
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) {
      continue;
    }
    const std::string controllers = line.substr(first + 1, second - first - 1);
    std::string path = line.substr(second + 1);
    if (path == "/") {
      path.clear();
    }
    if (controllers.empty()) {
      look_at_ancestors(sources.cgroup_root, path, kV2, least);
      look_at_ancestors(sources.cgroup_root + "/unified", path, kV2, least);
    } else if (controllers.find("memory") != std::string::npos) {
      look_at_ancestors(sources.cgroup_root + "/memory", path, kV1, least);
    }
  }
  return least;
}

MemoryBudget& MemoryBudget::process() {
  static MemoryBudget budget;
  return budget;
}

MemoryHeadroom MemoryBudget::headroom() const {
  MemoryHeadroom headroom = read_headroom(sources_);
  const std::int64_t limit = limit_;
  if (limit >= 0 && limit - reserved_ < headroom.bytes) {
    headroom = {std::max<std::int64_t>(limit - reserved_, 0), "WAYBILL_MAX_MEMORY"};
  }
  return headroom;
}

std::int64_t MemoryBudget::bytes_left(std::int64_t wanted) {
  constexpr std::chrono::nanoseconds kOld = std::chrono::milliseconds(100);
  constexpr std::chrono::nanoseconds kOldWherePlenty = std::chrono::seconds(2);
  constexpr std::int64_t kPlenty = 4;
  const std::int64_t limit = limit_;
  const auto left = [&] {
    const std::int64_t all = unlimited_bytes_.load();
    return (limit >= 0 ? std::min(limit, all) : all) - reserved_;
  };
  const std::int64_t now = std::chrono::steady_clock::now().time_since_epoch().count();
  const std::int64_t asked_at = asked_at_ns_.load(std::memory_order_acquire);
  const auto old = left() / kPlenty >= wanted ? kOldWherePlenty : kOld;
  if (asked_at == 0 || now - asked_at >= old.count()) {
    MemoryHeadroom headroom = read_headroom(sources_);
    std::int64_t all = 0;
    unlimited_bytes_ =
        __builtin_add_overflow(headroom.bytes, reserved_.load(), &all) ? kUnlimited : all;
    const std::lock_guard lock(mutex_);
    recent_limit_ = std::move(headroom.limited_by);
    asked_at_ns_.store(now, std::memory_order_release);
  }
  return left();
}

MemoryHeadroom MemoryBudget::recent_headroom() {
  const std::int64_t left = bytes_left(kUnlimited);
  const std::int64_t limit = limit_;
  const std::lock_guard lock(mutex_);
  return {std::max<std::int64_t>(left, 0),
          limit >= 0 && limit < unlimited_bytes_ ? "WAYBILL_MAX_MEMORY" : recent_limit_};
}

Status MemoryBudget::reserve(std::int64_t bytes, std::string_view purpose) {
  const MemoryHeadroom headroom = this->headroom();
  if (bytes > headroom.bytes) {
    return error(StatusCode::kOutOfMemory,
                 "",
                 "",
                 "out of memory: wanted " + std::to_string(bytes) + " bytes for " +
                     std::string(purpose) + ", " + std::to_string(headroom.bytes) +
                     " are left under " + headroom.limited_by + " (" +
                     std::to_string(reserved_.load()) + " reserved by Waybill in this process)");
  }
  reserved_ += bytes;
  return {};
}

}  // namespace waybill::window
