#include "transport/process.h"

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <cerrno>

namespace waybill::transport {
namespace {

constexpr int kPeerPidfd = 77;  // SO_PEERPIDFD, Linux 6.5

}  // namespace

ProcessHandle ProcessHandle::of_peer(int socket) noexcept {
  ProcessHandle handle;
  ucred credentials{};
  socklen_t length = sizeof(credentials);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &length) == 0) {
    handle.pid_ = credentials.pid;
  }
  int pidfd = -1;
  length = sizeof(pidfd);
  if (getsockopt(socket, SOL_SOCKET, kPeerPidfd, &pidfd, &length) != 0) {
    pidfd = static_cast<int>(syscall(SYS_pidfd_open, handle.pid_, 0));
  }
  handle.pidfd_ = Descriptor(pidfd);
  return handle;
}

bool ProcessHandle::has_ended() const noexcept {
  if (pidfd_) {
    pollfd poll_descriptor{pidfd_.get(), POLLIN, 0};
    return poll(&poll_descriptor, 1, 0) == 1;
  }
  return pid_ > 0 && kill(pid_, 0) != 0 && errno == ESRCH;
}

}  // namespace waybill::transport
