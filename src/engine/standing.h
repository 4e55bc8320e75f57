#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "contract/operators.h"
#include "window/words.h"

namespace waybill::engine {

/// Where a rank stands in the protocol of its group: its epoch, the number of its last call, which
/// ranks used each half, and whether calls are refused until a reset. Nothing of it is published
/// here. Owner: the Session. One thread at a time, the one that occupies the group; occupy() from
/// any.
class Standing {
 public:
  /// Rank in a group of `world_size` ranks that has just been connected.
  explicit Standing(int world_size);

  /// Makes the calling thread the one that uses the group; false when another one does.
  bool occupy() noexcept { return !busy_.exchange(true, std::memory_order_acquire); }
  void vacate() noexcept { busy_.store(false, std::memory_order_release); }
  bool is_occupied() const noexcept { return busy_.load(std::memory_order_acquire); }

  std::uint32_t epoch() const noexcept { return epoch_; }
  /// Number of the last call. Calls are numbered through the life of the group.
  std::uint32_t number() const noexcept { return number_; }
  window::Stamp stamp() const noexcept { return window::stamp(epoch_, number_); }
  /// How many calls ended well.
  std::uint32_t completed() const noexcept { return completed_; }
  /// Calls of this epoch that have begun and have not ended well.
  std::uint32_t failures() const noexcept { return failures_; }
  /// Over the operators of the epoch's calls (contract::add_to_history).
  std::int64_t history() const noexcept { return history_; }

  /// Takes the next number for a call of `op`.
  void begin_call(contract::Operator op) noexcept;
  /// The last call ended well.
  void complete_call() noexcept;

  /// Ranks of the call that last used a half: it is free once all of them have read it.
  const std::vector<int>& users(std::size_t half) const noexcept { return users_[half]; }
  void use(std::size_t half, const std::vector<int>& members) { users_[half] = members; }

  /// Why calls are refused until a reset; empty when they are not.
  const std::string& why_reset() const noexcept { return why_reset_; }
  bool needs_reset() const noexcept { return !why_reset_.empty(); }
  void need_reset(const std::string& why) { why_reset_ = why; }

  /// The last attempt of a reset that this rank knows others to have concluded.
  std::uint32_t known_attempt() const noexcept { return known_attempt_; }
  void learn_attempt(std::uint32_t attempt) noexcept {
    known_attempt_ = attempt > known_attempt_ ? attempt : known_attempt_;
  }
  /// True once this rank was told that others went on without it, until a reset that it takes part
  /// in: it is then an ordinary member of the next one.
  bool knows_it_is_left_behind() const noexcept {
    return known_attempt_ >= epoch_;  // attempt a starts epoch a + 1
  }

  /// Ranks that are not on the list of the last reset.
  const std::vector<int>& absent() const noexcept { return absent_; }
  bool is_absent(int rank) const noexcept;
  /// The reset's `attempt` held with these members; the last call had the number `call`.
  void begin_epoch(std::uint32_t attempt, std::uint32_t call, const std::vector<int>& members);

 private:
  const int world_size_;
  std::atomic<bool> busy_{false};
  std::uint32_t epoch_ = 1;
  std::uint32_t number_ = 0;
  std::uint32_t completed_ = 0;
  std::uint32_t failures_ = 0;
  std::int64_t history_ = 0;
  std::string why_reset_;
  std::uint32_t known_attempt_ = 0;
  std::vector<int> absent_;
  std::array<std::vector<int>, 2> users_;
};

}  // namespace waybill::engine
