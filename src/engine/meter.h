#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "waybill/group.h"

namespace waybill::engine {

/// Counts what a rank does, for GroupStats. Owner: the Session. The thread that makes the calls
/// counts, any thread may ask.
class Meter {
 public:
  /// Of a group of `world_size` ranks, in epoch 1.
  explicit Meter(int world_size);

  void begin_call();
  /// Time that a wait took as a whole.
  void wait(std::chrono::microseconds time);
  /// The part of it for one rank.
  void wait_for(int rank, std::chrono::microseconds time);
  void need_reset(const std::string& why);
  void begin_epoch(std::uint32_t epoch, const std::vector<int>& absent);
  void add_time_in_calls(std::chrono::nanoseconds time) noexcept {
    in_call_ns_.fetch_add(time.count(), std::memory_order_relaxed);
  }
  void add_time_copying(std::chrono::nanoseconds time) noexcept {
    copying_ns_.fetch_add(time.count(), std::memory_order_relaxed);
  }
  /// Call number `call` ended well: `add(GroupStats&)` adds what it moved.
  template <typename Add>
  void complete_call(std::uint32_t call, const Add& add) {
    const std::lock_guard lock(mutex_);
    counted_.completed = call;
    add(counted_);
  }

  GroupStats snapshot() const;

 private:
  mutable std::mutex mutex_;
  GroupStats counted_;  ///< guarded by mutex_
  std::atomic<std::int64_t> in_call_ns_{0};
  std::atomic<std::int64_t> copying_ns_{0};
};

}  // namespace waybill::engine
