#include "transport/rendezvous.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <span>
#include <thread>
#include <utility>

#include "base/errors.h"
#include "transport/socket.h"

namespace waybill::transport {
namespace {

constexpr std::chrono::milliseconds kRetry{3};
constexpr std::chrono::milliseconds kIdle{100};
/// A process that connected sends its greeting at once; one that does not is a stranger.
constexpr std::chrono::seconds kGreeting{5};

struct Hello {
  std::array<char, 8> magic{'W', 'A', 'Y', 'B', 'I', 'L', 'L', '\0'};
  std::uint32_t layout_version = window::kLayoutVersion;
  std::uint32_t control_bytes = sizeof(window::ControlPage);
  std::int32_t rank = 0;
  std::int32_t world_size = 0;
  std::int64_t window_bytes = 0;
};

std::string address_of(const std::string& id, int rank) {
  return "waybill-" + id + "-" + std::to_string(rank);
}

std::string alive_address(const std::string& id) { return "waybill-" + id + "-alive"; }

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span<const T, 1>(&value, 1));
}

Status with_rank(Status status, int rank) {
  if (status.ok()) {
    return status;
  }
  ErrorInfo info = status.info();
  if (info.ranks.empty()) {
    info.ranks = {rank};
    info.message += " (rank " + std::to_string(rank) + ")";
  }
  return Status(std::move(info));
}

/// One rank's way through a rendezvous.
class Meeting {
 public:
  Meeting(const window::Window& window, const RendezvousOptions& options)
      : window_(window),
        options_(options),
        patience_{options.deadline, options.interrupted},
        sockets_(static_cast<std::size_t>(options.world_size)),
        handles_(static_cast<std::size_t>(options.world_size)),
        greeted_(static_cast<std::size_t>(options.world_size)) {}

  Result<std::vector<PeerHandle>> run() {
    auto listener = listen_at(address_of(options_.id, options_.rank), options_.world_size);
    if (!listener.ok()) {
      return listener.status();
    }
    listener_ = std::move(*listener);
    if (Status status = open_own_files(); !status.ok()) {
      return status;
    }
    greeted_[static_cast<std::size_t>(options_.rank)] = 1;
    while (!missing().empty()) {
      if (Status status = step(); !status.ok()) {
        return status;
      }
      if (patience_.expired()) {
        return timed_out(missing());
      }
    }
    if (Status status = confirm(); !status.ok()) {
      return status;
    }
    return std::move(handles_);
  }

 private:
  Status open_own_files() {
    const std::array<const window::Region*, 4> regions = {
        &window_.control_region, &window_.halves[0], &window_.halves[1], &window_.pool.region()};
    for (std::size_t i = 0; i < regions.size(); ++i) {
      auto fd = regions[i]->open_read_only();
      if (!fd.ok()) {
        return fd.status();
      }
      own_files_[i] = Descriptor(*fd);
      own_numbers_[i] = own_files_[i].get();
    }
    return {};
  }

  std::vector<int> missing() const {
    std::vector<int> ranks;
    for (int r = 0; r < options_.world_size; ++r) {
      if (greeted_[static_cast<std::size_t>(r)] == 0) {
        ranks.push_back(r);
      }
    }
    return ranks;
  }

  Status timed_out(std::vector<int> ranks) const {
    std::string message = "connect: timed out in the rendezvous: " + name_ranks(ranks) + " of " +
                          std::to_string(options_.world_size) + " did not come";
    return error(StatusCode::kTimeout, "connect", "", std::move(message), std::move(ranks));
  }

  Status greet(int socket) {
    Hello hello;
    hello.rank = options_.rank;
    hello.world_size = options_.world_size;
    hello.window_bytes = options_.window_bytes;
    return send_message(socket, bytes_of(hello), own_numbers_);
  }

  /// Lower ranks are called, higher ranks call.
  Status step() {
    bool calling = false;
    std::vector<pollfd> polled{{listener_.get(), POLLIN, 0}};
    std::vector<int> ranks{-1};
    for (int r = 0; r < options_.rank; ++r) {
      Descriptor& socket = sockets_[static_cast<std::size_t>(r)];
      if (!socket) {
        auto connection = try_connect(address_of(options_.id, r));
        if (!connection.ok()) {
          return with_rank(connection.status(), r);
        }
        socket = std::move(*connection);
        if (socket) {
          if (!peer_is_trusted(socket.get())) {
            return mismatch("a process of another user", r);
          }
          if (Status status = greet(socket.get()); !status.ok()) {
            return with_rank(std::move(status), r);
          }
        }
      }
      calling = calling || !socket;
      if (socket && greeted_[static_cast<std::size_t>(r)] == 0) {
        polled.push_back({socket.get(), POLLIN, 0});
        ranks.push_back(r);
      }
    }
    const auto slice = calling ? kRetry : kIdle;
    if (poll(polled.data(), polled.size(), static_cast<int>(slice.count())) > 0) {
      for (std::size_t i = 0; i < polled.size(); ++i) {
        if (polled[i].revents != 0) {
          if (Status status = i == 0 ? accept_caller() : receive_hello(ranks[i]); !status.ok()) {
            return status;
          }
        }
      }
    }
    return patience_.check();
  }

  Status accept_caller() {
    auto connection = accept_one(listener_.get(), patience_);
    if (!connection.ok() || !*connection) {
      return connection.status();
    }
    if (!peer_is_trusted(connection->get())) {
      return {};  // a stranger: hang up
    }
    Hello hello;
    std::array<Descriptor, kPassedFiles> files;
    Status status = read_hello(connection->get(), hello, files);
    if (status.code() == StatusCode::kTimeout || status.code() == StatusCode::kPeerLost) {
      return {};
    }
    if (!status.ok()) {
      return status;
    }
    if (hello.rank <= options_.rank || hello.rank >= options_.world_size) {
      return mismatch("rank " + std::to_string(hello.rank), hello.rank);
    }
    if (status = greet(connection->get()); !status.ok()) {
      return with_rank(std::move(status), hello.rank);
    }
    Descriptor& socket = sockets_[static_cast<std::size_t>(hello.rank)];
    socket = std::move(*connection);
    keep(hello, std::move(files), socket.get());
    return {};
  }

  Status receive_hello(int rank) {
    Hello hello;
    std::array<Descriptor, kPassedFiles> files;
    const int socket = sockets_[static_cast<std::size_t>(rank)].get();
    if (Status status = read_hello(socket, hello, files); !status.ok()) {
      return with_rank(std::move(status), rank);
    }
    if (hello.rank != rank) {
      return mismatch("rank " + std::to_string(hello.rank), rank);
    }
    keep(hello, std::move(files), socket);
    return {};
  }

  Status read_hello(int socket, Hello& hello, std::array<Descriptor, kPassedFiles>& files) {
    Patience patience = patience_;
    patience.deadline = std::min(patience.deadline, std::chrono::steady_clock::now() + kGreeting);
    if (Status status = receive_message(
            socket, std::as_writable_bytes(std::span<Hello, 1>(&hello, 1)), &files, patience);
        !status.ok()) {
      return status;
    }
    const Hello expected;
    if (hello.magic != expected.magic || hello.layout_version != expected.layout_version ||
        hello.control_bytes != expected.control_bytes) {
      return mismatch("another version of Waybill", hello.rank);
    }
    if (hello.world_size != options_.world_size) {
      return mismatch("world_size " + std::to_string(hello.world_size), hello.rank);
    }
    return {};
  }

  Status mismatch(const std::string& got, int rank) const {
    return error(StatusCode::kMismatch,
                 "connect",
                 "world_size",
                 "connect: expected ranks below world_size " + std::to_string(options_.world_size) +
                     " of this version of Waybill, got " + got + " from rank " +
                     std::to_string(rank),
                 {rank});
  }

  void keep(const Hello& hello, std::array<Descriptor, kPassedFiles> files, int socket) {
    const auto r = static_cast<std::size_t>(hello.rank);
    handles_[r].process = ProcessHandle::of_peer(socket);
    handles_[r].files = std::move(files);
    handles_[r].window_bytes = hello.window_bytes;
    greeted_[r] = 1;
  }

  /// Nobody leaves before everybody has what it needs.
  Status confirm() {
    const std::byte ready{1};
    for (const Descriptor& socket : sockets_) {
      if (socket) {
        Status status = send_message(socket.get(), {&ready, 1}, {});
        if (!status.ok() && status.code() != StatusCode::kPeerLost) {
          return status;
        }
      }
    }
    for (int r = 0; r < options_.world_size; ++r) {
      const Descriptor& socket = sockets_[static_cast<std::size_t>(r)];
      if (!socket) {
        continue;
      }
      std::byte answer{};
      Status status = receive_message(socket.get(), {&answer, 1}, nullptr, patience_);
      if (status.code() == StatusCode::kTimeout) {
        return timed_out({r});
      }
      if (!status.ok()) {
        return with_rank(std::move(status), r);
      }
    }
    return {};
  }

  const window::Window& window_;
  const RendezvousOptions& options_;
  Patience patience_;
  Descriptor listener_;
  std::array<Descriptor, kPassedFiles> own_files_;
  std::array<int, kPassedFiles> own_numbers_{};
  std::vector<Descriptor> sockets_;
  std::vector<PeerHandle> handles_;
  std::vector<char> greeted_;
};

}  // namespace

Result<std::vector<PeerHandle>> meet(const window::Window& window,
                                     const RendezvousOptions& options) {
  return Meeting(window, options).run();
}

Result<MeetingPoint> meet_at(const std::filesystem::path& path, const RendezvousOptions& options) {
  if (options.rank == 0) {
    auto alive = listen_at(alive_address(options.id), options.world_size);
    if (!alive.ok()) {
      return alive.status();
    }
    const std::filesystem::path part = path.string() + "." + options.id;
    std::ofstream(part) << options.id << '\n';
    std::error_code failure;
    std::filesystem::rename(part, path, failure);
    if (failure) {
      return error(StatusCode::kInvalidArgument,
                   "connect",
                   "path",
                   "connect: argument path: expected a place to write, got " + path.string() +
                       ": " + failure.message());
    }
    return MeetingPoint{options.id, std::move(*alive)};
  }
  const Patience patience{options.deadline, options.interrupted};
  while (true) {
    std::string text;
    if (std::ifstream(path) >> text && text.size() == options.id.size()) {
      auto connection = try_connect(alive_address(text));
      if (!connection.ok()) {
        return connection.status();
      }
      if (*connection) {
        return MeetingPoint{text, {}};
      }
    }
    if (Status status = patience.check(); !status.ok()) {
      return status;
    }
    if (patience.expired()) {
      return error(
          StatusCode::kTimeout,
          "connect",
          "path",
          "connect: timed out in the rendezvous at " + path.string() + ": rank 0 did not come",
          {0});
    }
    std::this_thread::sleep_for(kRetry);
  }
}

}  // namespace waybill::transport
