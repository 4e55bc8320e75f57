#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "waybill/status.h"

namespace waybill::window {

/// Where the kernel's numbers are read from. Tests point it at files of their own.
struct MemorySources {
  std::string meminfo = "/proc/meminfo";
  std::string self_cgroup = "/proc/self/cgroup";
  std::string cgroup_root = "/sys/fs/cgroup";
};

/// What is left under the tightest limit, and whose limit that is.
struct MemoryHeadroom {
  std::int64_t bytes = 0;
  std::string limited_by;
};

/// The least of MemAvailable and, for each control group this process is in and each of its
/// ancestors (v1 and v2), limit minus what is used and cannot be reclaimed.
MemoryHeadroom read_headroom(const MemorySources& sources);

/// Bytes that windows and pools of this process have reserved, and the question whether more is
/// there. Asked before memory is reserved, because past a control group's limit the kernel kills
/// instead of refusing. Thread safe.
class MemoryBudget {
 public:
  explicit MemoryBudget(MemorySources sources = {}) : sources_(std::move(sources)) {}

  /// The one of this process.
  static MemoryBudget& process();

  void set_limit(std::optional<std::int64_t> bytes) noexcept { limit_ = bytes.value_or(-1); }
  /// Counts `bytes` as reserved, or kOutOfMemory that says what was wanted, for what, and what is
  /// left.
  Status reserve(std::int64_t bytes, std::string_view purpose);
  void release(std::int64_t bytes) noexcept { reserved_ -= bytes; }
  /// What reserve() would grant, and under whose limit.
  MemoryHeadroom headroom() const;
  /// The same number, or less than 0 where more is reserved than a limit allows, for a caller that
  /// may want `wanted` bytes, cheap enough for every call: what the kernel said may be a tenth of a
  /// second old, and two seconds where it said four times as much.
  std::int64_t bytes_left(std::int64_t wanted);
  /// headroom() as bytes_left() knows it.
  MemoryHeadroom recent_headroom();
  std::int64_t reserved() const noexcept { return reserved_; }

 private:
  MemorySources sources_;
  std::atomic<std::int64_t> limit_{-1};
  std::atomic<std::int64_t> reserved_{0};
  // What the kernel said last, for bytes_left().
  std::atomic<std::int64_t> asked_at_ns_{0};
  std::atomic<std::int64_t> unlimited_bytes_{0};  ///< what was left, and reserved_, together
  std::mutex mutex_;                              ///< guards recent_limit_
  std::string recent_limit_;
};

}  // namespace waybill::window
