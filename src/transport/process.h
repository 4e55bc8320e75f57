#pragma once

#include <sys/types.h>

#include "base/descriptor.h"

namespace waybill::transport {

/// A process that may end. Holds a pidfd, so that a reused pid is never mistaken for it.
class ProcessHandle {
 public:
  ProcessHandle() noexcept = default;
  /// The process at the other end of a connected Unix socket.
  static ProcessHandle of_peer(int socket) noexcept;

  /// True also for a zombie. Never blocks.
  bool has_ended() const noexcept;
  pid_t pid() const noexcept { return pid_; }

 private:
  pid_t pid_ = 0;
  Descriptor pidfd_;
};

}  // namespace waybill::transport
