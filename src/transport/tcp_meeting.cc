#include "transport/tcp_meeting.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <thread>
#include <utility>

#include "base/errors.h"
#include "base/shortage.h"
#include "contract/check.h"

namespace waybill::transport {
namespace {

constexpr std::chrono::milliseconds kRetry{50};
constexpr int kSliceMs = 100;
/// A rank that called says at once who it is; one that does not is a stranger.
constexpr std::chrono::seconds kGreeting{5};
constexpr std::chrono::seconds kOneCall{2};
constexpr std::uint64_t kLongestText = std::uint64_t{1} << 24;
constexpr std::size_t kIdBytes = 32;

struct Hello {
  std::array<char, 8> magic{'W', 'A', 'Y', 'B', 'I', 'L', 'L', '@'};
  std::array<char, kIdBytes> id{};
  std::int32_t rank = 0;
  std::int32_t world_size = 0;
};

Status meeting_error(StatusCode code, const std::string& what, std::vector<int> ranks = {}) {
  return error(code, "connect", "", "connect: " + what, std::move(ranks));
}

/// Waits until the socket is ready for `events`; an error when the patience ended.
Status wait_ready(int socket, short events, const Patience& patience) {
  while (true) {
    pollfd polled{socket, events, 0};
    if (poll(&polled, 1, kSliceMs) > 0) {
      return {};
    }
    if (Status status = patience.check(); !status.ok()) {
      return status;
    }
    if (patience.expired()) {
      return meeting_error(StatusCode::kTimeout, "timed out at the unique id's address");
    }
  }
}

Status move_bytes(
    int socket, std::byte* data, std::size_t bytes, bool out, const Patience& patience) {
  while (bytes > 0) {
    const ssize_t moved = out ? send(socket, data, bytes, MSG_NOSIGNAL | MSG_DONTWAIT)
                              : recv(socket, data, bytes, MSG_DONTWAIT);
    if (moved > 0) {
      data += moved;
      bytes -= static_cast<std::size_t>(moved);
    } else if (moved == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) {
      return meeting_error(StatusCode::kPeerLost, "the connection to another rank has ended");
    } else if (Status status = wait_ready(socket, out ? POLLOUT : POLLIN, patience); !status.ok()) {
      return status;
    }
  }
  return {};
}

Status send_bytes(int socket, const void* data, std::size_t bytes, const Patience& patience) {
  return move_bytes(
      socket, const_cast<std::byte*>(static_cast<const std::byte*>(data)), bytes, true, patience);
}

Status receive_bytes(int socket, void* data, std::size_t bytes, const Patience& patience) {
  return move_bytes(socket, static_cast<std::byte*>(data), bytes, false, patience);
}

Status send_text(int socket, const std::string& text, const Patience& patience) {
  const std::uint64_t bytes = text.size();
  WAYBILL_RETURN_IF_ERROR(send_bytes(socket, &bytes, sizeof(bytes), patience));
  return send_bytes(socket, text.data(), text.size(), patience);
}

Status receive_text(int socket, std::string& text, const Patience& patience) {
  std::uint64_t bytes = 0;
  WAYBILL_RETURN_IF_ERROR(receive_bytes(socket, &bytes, sizeof(bytes), patience));
  if (bytes > kLongestText) {
    return meeting_error(StatusCode::kMismatch, "expected a text of a rank, got something else");
  }
  text.resize(bytes);
  return receive_bytes(socket, text.data(), text.size(), patience);
}

/// The error of a rank at the other end, with its number.
Status of_rank(Status status, int rank) {
  if (status.ok() || !status.info().ranks.empty()) {
    return status;
  }
  ErrorInfo info = status.info();
  info.ranks = {rank};
  info.message += " (rank " + std::to_string(rank) + ")";
  return Status(std::move(info));
}

struct FreeAddresses {
  void operator()(addrinfo* list) const noexcept { freeaddrinfo(list); }
};
using Addresses = std::unique_ptr<addrinfo, FreeAddresses>;

Result<Addresses> look_up(const std::string& address, bool listens) {
  const std::size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon == std::string::npos ? 0 : colon);
  const std::string port = colon == std::string::npos ? "" : address.substr(colon + 1);
  if (host.size() > 1 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (listens ? AI_PASSIVE : 0);
  addrinfo* list = nullptr;
  if (host.empty() || port.empty() || getaddrinfo(host.c_str(), port.c_str(), &hints, &list) != 0) {
    return error(StatusCode::kInvalidArgument,
                 "connect",
                 "id",
                 "connect: argument id: expected an address 'host:port' that can be found, got '" +
                     address + "'");
  }
  return Addresses(list);
}

/// A connection, or an empty descriptor when nobody answers for a while.
Descriptor call(const addrinfo& place, const Patience& patience) {
  Descriptor socket(::socket(place.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  Patience one_call = patience;
  one_call.deadline = std::min(patience.deadline, std::chrono::steady_clock::now() + kOneCall);
  int failure = 0;
  socklen_t bytes = sizeof(failure);
  const bool under_way =
      ::connect(socket.get(), place.ai_addr, place.ai_addrlen) == 0 || errno == EINPROGRESS;
  const bool answered = under_way && wait_ready(socket.get(), POLLOUT, one_call).ok() &&
                        getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &failure, &bytes) == 0 &&
                        failure == 0;
  return answered ? std::move(socket) : Descriptor();
}

void no_delay(int socket) {
  const int on = 1;
  setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

}  // namespace

TcpMeeting::TcpMeeting(int rank, int world_size)
    : rank_(rank),
      world_size_(world_size),
      sockets_(static_cast<std::size_t>(rank == 0 ? world_size : 1)) {}

Result<TcpMeeting> TcpMeeting::open(const std::string& id,
                                    const std::string& address,
                                    int rank,
                                    int world_size,
                                    const Patience& patience) {
  TcpMeeting meeting(rank, world_size);
  Status status =
      rank == 0 ? meeting.lead(id, address, patience) : meeting.follow(id, address, patience);
  if (!status.ok()) {
    return status;
  }
  return meeting;
}

std::vector<int> TcpMeeting::missing() const {
  std::vector<int> ranks;
  for (int rank = 1; rank < world_size_; ++rank) {
    if (!sockets_[static_cast<std::size_t>(rank)]) {
      ranks.push_back(rank);
    }
  }
  return ranks;
}

Status TcpMeeting::lead(const std::string& id,
                        const std::string& address,
                        const Patience& patience) {
  auto found = look_up(address, true);
  if (!found.ok()) {
    return found.status();
  }
  const addrinfo& place = **found;
  const Descriptor listener(socket(place.ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!listener) {
    return meeting_error(StatusCode::kInternal, "no socket: " + describe_errno(errno));
  }
  const int on = 1;
  setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(listener.get(), place.ai_addr, place.ai_addrlen) != 0 ||
      listen(listener.get(), world_size_) != 0) {
    return meeting_error(StatusCode::kInvalidState,
                         "expected to listen at the unique id's address " + address +
                             ", got: " + describe_errno(errno));
  }
  while (!missing().empty()) {
    if (Status status = wait_ready(listener.get(), POLLIN, patience); !status.ok()) {
      const std::vector<int> ranks = missing();
      return status.code() == StatusCode::kTimeout
                 ? meeting_error(StatusCode::kTimeout,
                                 "timed out at the unique id's address: " + name_ranks(ranks) +
                                     " of " + std::to_string(world_size_) + " did not come",
                                 ranks)
                 : status;
    }
    Descriptor caller(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (caller) {
      WAYBILL_RETURN_IF_ERROR(take(std::move(caller), id, patience));
    }
  }
  return {};
}

/// Strangers are turned away.
Status TcpMeeting::take(Descriptor caller, const std::string& id, const Patience& patience) {
  no_delay(caller.get());
  Patience short_patience = patience;
  short_patience.deadline =
      std::min(patience.deadline, std::chrono::steady_clock::now() + kGreeting);
  Hello hello;
  const Hello own;
  if (!receive_bytes(caller.get(), &hello, sizeof(hello), short_patience).ok() ||
      hello.magic != own.magic || std::memcmp(hello.id.data(), id.data(), kIdBytes) != 0) {
    return patience.check();
  }
  if (hello.world_size != world_size_ || hello.rank < 1 || hello.rank >= world_size_) {
    return meeting_error(StatusCode::kMismatch,
                         "expected ranks 1 to " + std::to_string(world_size_ - 1) +
                             " of this group, got rank " + std::to_string(hello.rank) + " of " +
                             std::to_string(hello.world_size),
                         {hello.rank});
  }
  sockets_[static_cast<std::size_t>(hello.rank)] = std::move(caller);
  return {};
}

Status TcpMeeting::follow(const std::string& id,
                          const std::string& address,
                          const Patience& patience) {
  auto found = look_up(address, false);
  if (!found.ok()) {
    return found.status();
  }
  const addrinfo& place = **found;
  Hello hello;
  hello.rank = rank_;
  hello.world_size = world_size_;
  std::memcpy(hello.id.data(), id.data(), std::min(id.size(), kIdBytes));
  while (true) {
    // Rank 0 may not listen yet.
    if (Descriptor socket = call(place, patience)) {
      no_delay(socket.get());
      sockets_[0] = std::move(socket);
      return of_rank(send_bytes(sockets_[0].get(), &hello, sizeof(hello), patience), 0);
    }
    WAYBILL_RETURN_IF_ERROR(patience.check());
    if (patience.expired()) {
      return meeting_error(
          StatusCode::kTimeout,
          "timed out at the unique id's address " + address + ": rank 0 did not come",
          {0});
    }
    std::this_thread::sleep_for(kRetry);
  }
}

Result<std::vector<std::string>> TcpMeeting::all_gather(const std::string& own,
                                                        const Patience& patience) {
  std::vector<std::string> texts(static_cast<std::size_t>(world_size_));
  if (rank_ != 0) {
    Status status = send_text(sockets_[0].get(), own, patience);
    for (std::size_t r = 0; status.ok() && r < texts.size(); ++r) {
      status = receive_text(sockets_[0].get(), texts[r], patience);
    }
    if (!status.ok()) {
      return of_rank(status, 0);
    }
    return texts;
  }
  texts[0] = own;
  for (int rank = 1; rank < world_size_; ++rank) {
    const auto r = static_cast<std::size_t>(rank);
    if (Status status = receive_text(sockets_[r].get(), texts[r], patience); !status.ok()) {
      return of_rank(status, rank);
    }
  }
  for (int rank = 1; rank < world_size_; ++rank) {
    for (const std::string& text : texts) {
      Status status = send_text(sockets_[static_cast<std::size_t>(rank)].get(), text, patience);
      if (!status.ok()) {
        return of_rank(status, rank);
      }
    }
  }
  return texts;
}

}  // namespace waybill::transport
