#include "transport/socket.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/errors.h"
#include "base/shortage.h"

namespace waybill::transport {
namespace {

constexpr std::chrono::milliseconds kSlice{100};

Status system_error(const std::string& what) {
  return error(
      StatusCode::kInternal, "connect", "", "connect: " + what + ": " + describe_errno(errno));
}

socklen_t fill_address(sockaddr_un& address, const std::string& name) {
  address = {};
  address.sun_family = AF_UNIX;
  // A leading zero byte: the abstract name space, which leaves nothing behind.
  const std::size_t length = std::min(name.size(), sizeof(address.sun_path) - 1);
  std::memcpy(address.sun_path + 1, name.data(), length);
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + length);
}

/// kTimeout once the patience ends.
Status wait_readable(int fd, const Patience& patience) {
  while (true) {
    pollfd descriptor{fd, POLLIN, 0};
    const int ready = poll(&descriptor, 1, static_cast<int>(kSlice.count()));
    if (ready > 0) {
      return {};
    }
    if (ready < 0 && errno != EINTR) {
      return system_error("poll");
    }
    if (Status status = patience.check(); !status.ok()) {
      return status;
    }
    if (patience.expired()) {
      return error(StatusCode::kTimeout, "connect", "", "connect: timed out");
    }
  }
}

}  // namespace

Status Patience::check() const {
  if (interrupted && interrupted()) {
    return error(StatusCode::kInterrupted, "connect", "", "connect: interrupted");
  }
  return {};
}

Result<Descriptor> listen_at(const std::string& address, int backlog) {
  Descriptor listener(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!listener) {
    return system_error("socket");
  }
  sockaddr_un name{};
  const socklen_t length = fill_address(name, address);
  if (bind(listener.get(), reinterpret_cast<const sockaddr*>(&name), length) != 0) {
    if (errno == EADDRINUSE) {
      return error(StatusCode::kInvalidState,
                   "connect",
                   "rank",
                   "connect: another process already has this rank in this group");
    }
    return system_error("bind");
  }
  if (listen(listener.get(), backlog) != 0) {
    return system_error("listen");
  }
  return listener;
}

Result<Descriptor> try_connect(const std::string& address, bool* full) {
  Descriptor connection(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!connection) {
    return system_error("socket");
  }
  sockaddr_un name{};
  const socklen_t length = fill_address(name, address);
  if (full != nullptr) {
    *full = false;
  }
  if (connect(connection.get(), reinterpret_cast<const sockaddr*>(&name), length) == 0) {
    const int flags = fcntl(connection.get(), F_GETFL);
    if (flags < 0 || fcntl(connection.get(), F_SETFL, flags & ~O_NONBLOCK) != 0) {
      return system_error("fcntl");
    }
    return connection;
  }
  if (full != nullptr) {
    *full = errno == EAGAIN;
  }
  if (errno == ECONNREFUSED || errno == ENOENT || errno == EAGAIN || errno == EINTR) {
    return Descriptor();
  }
  return system_error("connect");
}

Result<Descriptor> accept_one(int listener, const Patience& patience) {
  Status status = wait_readable(listener, patience);
  if (status.code() == StatusCode::kTimeout) {
    return Descriptor();
  }
  if (!status.ok()) {
    return status;
  }
  Descriptor connection(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
  if (!connection) {
    return system_error("accept");
  }
  return connection;
}

bool peer_is_trusted(int socket) noexcept {
  ucred credentials{};
  socklen_t length = sizeof(credentials);
  return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &length) == 0 &&
         (credentials.uid == geteuid() || credentials.uid == 0);
}

Status send_message(int socket, std::span<const std::byte> bytes, std::span<const int> files) {
  iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kPassedFiles)> ancillary{};
  if (!files.empty()) {
    message.msg_control = ancillary.data();
    message.msg_controllen = CMSG_SPACE(sizeof(int) * files.size());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * files.size());
    std::memcpy(CMSG_DATA(header), files.data(), sizeof(int) * files.size());
  }
  ssize_t sent = -1;
  do {
    sent = sendmsg(socket, &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent == static_cast<ssize_t>(bytes.size())) {
    return {};
  }
  if (errno == EPIPE || errno == ECONNRESET) {
    return error(StatusCode::kPeerLost, "connect", "", "connect: the other end is gone");
  }
  return system_error("sendmsg");
}

Result<std::size_t> receive_some(int socket,
                                 std::span<std::byte> bytes,
                                 std::array<Descriptor, kPassedFiles>* files,
                                 const Patience& patience) {
  if (Status status = wait_readable(socket, patience); !status.ok()) {
    return status;
  }
  iovec part{bytes.data(), bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kPassedFiles)> ancillary{};
  message.msg_control = ancillary.data();
  message.msg_controllen = ancillary.size();
  const ssize_t received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  if (received == 0 || (received < 0 && errno == ECONNRESET)) {
    return error(StatusCode::kPeerLost, "connect", "", "connect: the other end is gone");
  }
  if (received < 0) {
    return system_error("recvmsg");
  }
  std::size_t passed = 0;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) {
      continue;
    }
    const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
      Descriptor owned(fd);
      ++passed;
      if (files != nullptr && i < files->size()) {
        (*files)[i] = std::move(owned);
      }
    }
  }
  if (files != nullptr && passed < files->size() && (message.msg_flags & MSG_CTRUNC) != 0) {
    errno = EMFILE;  // for want of which the kernel leaves some out
    return system_error("receiving the memory files of a rank");
  }
  const bool longer = (message.msg_flags & MSG_TRUNC) != 0;
  return static_cast<std::size_t>(received) + (longer ? 1 : 0);
}

Status receive_message(int socket,
                       std::span<std::byte> bytes,
                       std::array<Descriptor, kPassedFiles>* files,
                       const Patience& patience) {
  auto received = receive_some(socket, bytes, files, patience);
  if (!received.ok()) {
    return received.status();
  }
  if (*received != bytes.size()) {
    return error(
        StatusCode::kMismatch, "connect", "", "connect: a rank of another version of Waybill came");
  }
  return {};
}

}  // namespace waybill::transport
