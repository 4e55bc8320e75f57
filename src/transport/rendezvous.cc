#include "transport/rendezvous.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <fstream>
#include <thread>
#include <utility>

#include "base/errors.h"
#include "transport/hello.h"
#include "transport/socket.h"

namespace waybill::transport {
namespace {

constexpr std::chrono::milliseconds kRetry{3};
constexpr std::chrono::milliseconds kIdle{100};
/// How often the processes of the others are looked after.
constexpr std::chrono::milliseconds kLookAround{250};
/// A process that connected sends its greeting at once; one that does not is a stranger.
constexpr std::chrono::seconds kGreeting{5};

std::string alive_address(const std::string& id) { return "waybill-" + id + "-alive"; }

/// One rank's way through a rendezvous.
class Meeting {
 public:
  Meeting(const window::Window& window, const RendezvousOptions& options)
      : window_(window),
        options_(options),
        patience_{options.deadline, options.interrupted},
        sockets_(static_cast<std::size_t>(options.world_size)),
        handles_(static_cast<std::size_t>(options.world_size)),
        greeted_(static_cast<std::size_t>(options.world_size)) {
    for (const ProcessId& process : options.processes) {
      expected_.push_back(ProcessHandle::of_pid(process.pid, process.start));
    }
  }

  Result<Met> run() {
    auto listener = listen_at(address_of(options_.id, options_.rank), options_.world_size);
    if (!listener.ok()) {
      return listener.status();
    }
    listener_ = std::move(*listener);
    auto greeter =
        Greeter::create(window_, options_.rank, options_.world_size, options_.window_bytes, false);
    if (!greeter.ok()) {
      return greeter.status();
    }
    greeter_ = std::move(*greeter);
    for (int r = 0; r < options_.world_size; ++r) {
      greeted_[static_cast<std::size_t>(r)] = r == options_.rank || !is_here(r) ? 1 : 0;
    }
    while (!missing().empty()) {
      if (Status status = step(); !status.ok()) {
        return status;
      }
      if (Status status = look_around(); !status.ok()) {
        return status;
      }
      if (patience_.expired()) {
        return timed_out(missing());
      }
    }
    if (Status status = confirm(); !status.ok()) {
      return status;
    }
    return Met{std::move(handles_), std::move(listener_)};
  }

 private:
  /// On this host.
  bool is_here(int r) const {
    const auto& hosts = options_.hosts;
    return hosts.empty() ||
           hosts[static_cast<std::size_t>(r)] == hosts[static_cast<std::size_t>(options_.rank)];
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

  /// The ranks whose processes are known and have ended.
  std::vector<int> ended() const {
    std::vector<int> ranks;
    for (std::size_t r = 0; r < handles_.size(); ++r) {
      const auto rank = static_cast<int>(r);
      const bool known = r < expected_.size() && rank != options_.rank && is_here(rank);
      if (handles_[r].process.has_ended() || (known && expected_[r].has_ended())) {
        ranks.push_back(static_cast<int>(r));
      }
    }
    return ranks;
  }

  Status lost(std::vector<int> ranks) const {
    std::string message =
        "connect: " + name_ranks(ranks) +
        (ranks.size() == 1 ? " has ended its process" : " have ended their processes") +
        " (in the rendezvous, rank " + std::to_string(options_.rank) + ")";
    return error(StatusCode::kPeerLost, "connect", "", std::move(message), std::move(ranks));
  }

  Status look_around() {
    const auto now = std::chrono::steady_clock::now();
    if (now - looked_ < kLookAround) {
      return {};
    }
    looked_ = now;
    std::vector<int> ranks = ended();
    return ranks.empty() ? Status() : lost(std::move(ranks));
  }

  /// The other end of a connection is gone: its process has ended, or it will come again, or time
  /// will tell. The connection begins anew.
  Status drop(int rank, Status why) {
    if (why.ok() || why.code() != StatusCode::kPeerLost) {
      return why;
    }
    sockets_[static_cast<std::size_t>(rank)] = Descriptor();
    return {};
  }

  /// Lower ranks are called, higher ranks call.
  Status step() {
    bool calling = false;
    std::vector<pollfd> polled{{listener_.get(), POLLIN, 0}};
    std::vector<int> ranks{-1};
    for (int r = 0; r < options_.rank; ++r) {
      if (!is_here(r)) {
        continue;
      }
      if (Status status = call(r); !status.ok()) {
        return status;
      }
      const Descriptor& socket = sockets_[static_cast<std::size_t>(r)];
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

  /// Connects to rank r, once it listens, and greets it.
  Status call(int r) {
    Descriptor& socket = sockets_[static_cast<std::size_t>(r)];
    if (socket) {
      return {};
    }
    auto connection = try_connect(address_of(options_.id, r));
    if (!connection.ok()) {
      return connection.status();
    }
    socket = std::move(*connection);
    if (!socket) {
      return {};
    }
    if (!peer_is_trusted(socket.get())) {
      return error(StatusCode::kMismatch,
                   "connect",
                   "",
                   "connect: expected a process of this user as rank " + std::to_string(r) +
                       ", got one of another user",
                   {r});
    }
    return drop(r, greeter_.greet(socket.get()));
  }

  Status accept_caller() {
    auto connection = accept_one(listener_.get(), patience_);
    if (!connection.ok() || !*connection) {
      return connection.status();
    }
    if (!peer_is_trusted(connection->get())) {
      return {};  // a stranger: hang up
    }
    PeerHandle peer;
    auto hello = read_hello(connection->get(), peer);
    if (hello.status().code() == StatusCode::kTimeout ||
        hello.status().code() == StatusCode::kPeerLost) {
      return {};
    }
    if (!hello.ok()) {
      return hello.status();
    }
    if (hello->rejoining != 0) {
      return {};  // of a rank that has ended meanwhile: there is no group to come back to
    }
    if (hello->rank <= options_.rank) {
      return error(StatusCode::kMismatch,
                   "connect",
                   "rank",
                   "connect: expected ranks above " + std::to_string(options_.rank) +
                       ", got rank " + std::to_string(hello->rank),
                   {hello->rank});
    }
    const int rank = hello->rank;
    sockets_[static_cast<std::size_t>(rank)] = std::move(*connection);
    keep(rank, std::move(peer));
    Status status = drop(rank, greeter_.greet(sockets_[static_cast<std::size_t>(rank)].get()));
    greeted_[static_cast<std::size_t>(rank)] = sockets_[static_cast<std::size_t>(rank)] ? 1 : 0;
    return status;
  }

  Status receive_hello(int rank) {
    PeerHandle peer;
    auto hello = read_hello(sockets_[static_cast<std::size_t>(rank)].get(), peer);
    if (!hello.ok()) {
      return drop(rank, hello.status());
    }
    if (hello->rank != rank) {
      return error(StatusCode::kMismatch,
                   "connect",
                   "rank",
                   "connect: expected rank " + std::to_string(rank) + ", got rank " +
                       std::to_string(hello->rank),
                   {rank});
    }
    keep(rank, std::move(peer));
    return {};
  }

  Result<Hello> read_hello(int socket, PeerHandle& peer) {
    Patience patience = patience_;
    patience.deadline = std::min(patience.deadline, std::chrono::steady_clock::now() + kGreeting);
    return greeter_.read(socket, peer, patience);
  }

  void keep(int rank, PeerHandle peer) {
    handles_[static_cast<std::size_t>(rank)] = std::move(peer);
    greeted_[static_cast<std::size_t>(rank)] = 1;
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
      if (Status status = confirmed_by(r, socket.get()); !status.ok()) {
        return status;
      }
    }
    return {};
  }

  Status confirmed_by(int r, int socket) {
    while (true) {
      Patience patience = patience_;
      patience.deadline =
          std::min(patience.deadline, std::chrono::steady_clock::now() + kLookAround);
      std::byte answer{};
      Status status = receive_message(socket, {&answer, 1}, nullptr, patience);
      if (status.ok()) {
        return status;
      }
      std::vector<int> gone = ended();
      if (status.code() == StatusCode::kPeerLost && gone.empty()) {
        // Whoever gave up may have seen an end that this rank has not.
        std::this_thread::sleep_for(kIdle);
        gone = ended();
      }
      if (!gone.empty()) {
        return lost(std::move(gone));
      }
      if (status.code() == StatusCode::kPeerLost || patience_.expired()) {
        return timed_out({r});
      }
      if (status.code() != StatusCode::kTimeout) {
        return status;
      }
    }
  }

  const window::Window& window_;
  const RendezvousOptions& options_;
  Patience patience_;
  Descriptor listener_;
  Greeter greeter_;
  std::vector<Descriptor> sockets_;
  std::vector<PeerHandle> handles_;
  std::vector<ProcessHandle> expected_;
  std::vector<char> greeted_;
  std::chrono::steady_clock::time_point looked_;
};

}  // namespace

Result<Met> meet(const window::Window& window, const RendezvousOptions& options) {
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
      bool full = false;
      auto connection = try_connect(alive_address(text), &full);
      if (!connection.ok()) {
        return connection.status();
      }
      if (*connection || full) {
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
