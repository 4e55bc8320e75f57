#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <string>
#include <vector>

namespace waybill::testing {

/// Ranks as forked processes. fork() copies one thread only: use it in programs that have no other.
class Processes {
 public:
  /// What ranks and the test see together.
  struct Shared {
    static constexpr std::size_t kMaxRanks = 16;
    std::array<std::atomic<int>, kMaxRanks> step{};  ///< for the body's own use
    std::array<std::array<char, 1024>, kMaxRanks> text{};
  };

  /// Starts `count` children; each runs body(rank) and ends. What body returns is text(rank).
  Processes(int count, const std::function<std::string(int)>& body);
  Processes(const Processes&) = delete;
  Processes& operator=(const Processes&) = delete;
  /// Kills what still runs.
  ~Processes();

  /// Shared memory of the innermost Processes; valid in body, too.
  static Shared& shared();

  /// Waits until all children have ended; false when one did not in time.
  bool join(std::chrono::milliseconds limit);
  /// Waits until this child has ended.
  bool join(int rank, std::chrono::milliseconds limit);
  /// Waits until this child is stopped by a signal.
  bool wait_stopped(int rank, std::chrono::milliseconds limit);
  /// Waits until the body of this child has set its step to `value` or more.
  bool wait_step(int rank, int value, std::chrono::milliseconds limit);
  void send(int rank, int signal);
  pid_t pid(int rank) const { return pids_[static_cast<std::size_t>(rank)]; }
  std::string text(int rank) const;

 private:
  bool reap(int rank);

  std::vector<pid_t> pids_;
  std::vector<char> ended_;
  std::vector<char> stopped_;
};

}  // namespace waybill::testing
