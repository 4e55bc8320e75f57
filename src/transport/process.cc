#include "transport/process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <cerrno>
#include <utility>

#include "base/process_start.h"

namespace waybill::transport {
namespace {

constexpr int kPeerPidfd = 77;  // SO_PEERPIDFD, Linux 6.5

bool poll_says(int fd, short events) noexcept {
  pollfd polled{fd, events, 0};
  return poll(&polled, 1, 0) == 1;
}

}  // namespace

ProcessHandle ProcessHandle::of_pid(pid_t pid, std::uint64_t start) noexcept {
  ProcessHandle handle;
  handle.pid_ = pid;
  handle.pidfd_ = Descriptor(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  const bool none = !handle.pidfd_ && errno == ESRCH;
  // The pid may have become another process's before the pidfd was opened.
  const std::uint64_t now = process_start(pid);
  handle.gone_ = none || (start != 0 && now != 0 && now != start);
  return handle;
}

ProcessHandle ProcessHandle::of_socket(int socket) noexcept {
  ProcessHandle handle;
  handle.socket_ = Descriptor(fcntl(socket, F_DUPFD_CLOEXEC, 0));
  handle.problem_ = handle.socket_ ? 0 : errno;
  return handle;
}

ProcessHandle ProcessHandle::of_peer(int socket, std::uint64_t start) noexcept {
  ucred credentials{};
  socklen_t length = sizeof(credentials);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) {
    credentials.pid = 0;
  }
  int pidfd = -1;
  length = sizeof(pidfd);
  if (getsockopt(socket, SOL_SOCKET, kPeerPidfd, &pidfd, &length) == 0) {
    ProcessHandle handle;
    handle.pid_ = credentials.pid;
    handle.pidfd_ = Descriptor(pidfd);
    return handle;
  }
  // A pid of 0: the process is not visible from this container.
  ProcessHandle handle = credentials.pid > 0 ? of_pid(credentials.pid, start) : ProcessHandle();
  // Also with a pidfd: the other end may be in a container from which this process is not visible.
  ProcessHandle watched = of_socket(socket);
  handle.socket_ = std::move(watched.socket_);
  handle.problem_ = handle.pidfd_ || handle.gone_ ? 0 : watched.problem_;
  return handle;
}

bool ProcessHandle::has_ended() const noexcept {
  if (gone_) {
    return true;
  }
  if (pidfd_) {
    return poll_says(pidfd_.get(), POLLIN);
  }
  return socket_ && poll_says(socket_.get(), POLLRDHUP);
}

}  // namespace waybill::transport
