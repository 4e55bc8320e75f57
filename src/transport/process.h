#pragma once

#include <sys/types.h>

#include <cstdint>

#include "base/descriptor.h"

namespace waybill::transport {

/// A process that may end. Holds a pidfd, so that a reused pid is never mistaken for it. Where
/// there is none (an old kernel, a process of another container), a socket whose other end the
/// process holds.
class ProcessHandle {
 public:
  ProcessHandle() noexcept = default;
  /// The process at the other end of a connected Unix socket, which was started at `start` (see
  /// base/process_start.h; 0: unknown). Keeps a duplicate of the socket where it needs one.
  static ProcessHandle of_peer(int socket, std::uint64_t start) noexcept;
  /// A process of this pid name space; ended when the pid is another process's meanwhile.
  static ProcessHandle of_pid(pid_t pid, std::uint64_t start) noexcept;
  /// Watches only the socket.
  static ProcessHandle of_socket(int socket) noexcept;

  /// True also for a zombie. Never blocks.
  bool has_ended() const noexcept;
  pid_t pid() const noexcept { return pid_; }
  /// Why the end of this process cannot be noticed, a value of errno; 0: it can.
  int problem() const noexcept { return problem_; }

 private:
  pid_t pid_ = 0;
  bool gone_ = false;
  int problem_ = 0;
  Descriptor pidfd_;
  Descriptor socket_;
};

}  // namespace waybill::transport
