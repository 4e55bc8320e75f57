#include "engine/connect.h"

#include <algorithm>
#include <utility>

#include "base/errors.h"
#include "engine/resolve.h"
#include "transport/hosts.h"
#include "transport/lobby.h"
#include "transport/local.h"
#include "transport/local_wire.h"
#include "transport/remote.h"
#include "transport/rendezvous.h"
#include "transport/shm.h"
#include "transport/socket.h"
#include "transport/tcp_meeting.h"
#include "transport/ucx/ucx_wire.h"
#include "waybill/env.h"
#include "window/window.h"

namespace waybill::engine {
namespace {

bool spans_hosts(const GroupOptions& options) {
  return std::any_of(options.hosts.begin(), options.hosts.end(), [&](const std::string& host) {
    return host != options.hosts.front();
  });
}

/// This rank's window and where it is met by processes that come later.
Result<std::unique_ptr<transport::Lobby>> open_lobby(const std::string& id,
                                                     const window::Window& window,
                                                     const transport::RendezvousOptions& options,
                                                     Descriptor listener,
                                                     bool rejoining) {
  auto greeter = transport::Greeter::create(
      window, options.rank, options.world_size, options.window_bytes, rejoining);
  if (!greeter.ok()) {
    return greeter.status();
  }
  return std::make_unique<transport::Lobby>(id, std::move(*greeter), std::move(listener));
}

Result<std::unique_ptr<window::Window>> make_window(const std::string& id,
                                                    int rank,
                                                    int world_size,
                                                    const GroupOptions& options,
                                                    const Resolved& resolved,
                                                    bool newcomer) {
  return window::Window::create(
      resolved.window_bytes,
      window::MemoryBudget::process(),
      {.identity = window::make_identity(id, options.name, rank, world_size),
       .newcomer = newcomer,
       .checked = resolved.session.checked});
}

/// Meets the ranks of this host.
Result<std::unique_ptr<transport::Transport>> connect_here(
    const window::Window& window, const transport::RendezvousOptions& meeting) {
  auto met = transport::meet(window, meeting);
  if (!met.ok()) {
    return met.status();
  }
  std::unique_ptr<transport::Lobby> lobby;
  if (meeting.hosts.empty()) {
    // Processes come back to groups on one host only.
    auto opened = open_lobby(meeting.id, window, meeting, std::move(met->listener), false);
    if (!opened.ok()) {
      return opened.status();
    }
    lobby = std::move(*opened);
  }
  auto transport = transport::ShmTransport::create(
      std::move(met->handles), meeting.rank, window, meeting.window_bytes, std::move(lobby));
  if (!transport.ok()) {
    return transport.status();
  }
  return std::unique_ptr<transport::Transport>(std::move(*transport));
}

/// Brings the greetings of all ranks to each other. A rank that cannot go on says so in its own.
Result<std::vector<transport::Greeting>> exchange_greetings(
    const Result<std::unique_ptr<transport::UcxWire>>& wire,
    const window::Window& window,
    bool beats,
    const GroupOptions& options) {
  transport::Greeting own{window.control->identity, beats, "", ""};
  if (wire.ok()) {
    own.wire_address = (*wire)->address();
  } else {
    own.failure = wire.status().message();
  }
  auto texts = options.all_gather(own.to_bytes());
  if (!wire.ok()) {
    return wire.status();
  }
  if (!texts.ok()) {
    return texts.status();
  }
  std::vector<transport::Greeting> greetings;
  for (std::size_t rank = 0; rank < options.hosts.size(); ++rank) {
    auto greeting = transport::Greeting::from_bytes(rank < texts->size() ? (*texts)[rank] : "",
                                                    static_cast<int>(rank),
                                                    static_cast<int>(options.hosts.size()));
    if (!greeting.ok()) {
      return greeting.status();
    }
    greetings.push_back(std::move(*greeting));
  }
  return greetings;
}

/// Where the thread runs that moves messages: on the last core that was asked for, so that it is a
/// helper's only where there are no more; or wherever the process may.
CoreSet cores_of_progress(const SessionOptions& options) {
  return options.cores.empty() ? options.process_cores : core_set_of({options.cores.back()});
}

/// The group's ranks on other hosts, beside those of this one.
Result<std::unique_ptr<transport::Transport>> connect_hosts(
    std::unique_ptr<transport::Transport> here,
    const std::shared_ptr<window::Window>& window,
    const transport::RendezvousOptions& meeting,
    const GroupOptions& options,
    const Resolved& resolved) {
  auto mirrors = transport::Mirrors::create(*window, meeting.world_size);
  auto wire = mirrors.ok() ? transport::UcxWire::open(meeting.rank, meeting.world_size)
                           : Result<std::unique_ptr<transport::UcxWire>>(mirrors.status());
  auto greetings = exchange_greetings(wire, *window, !resolved.env.progress_in_calls, options);
  if (!greetings.ok()) {
    return greetings.status();
  }
  std::vector<std::string> addresses;
  for (std::size_t rank = 0; rank < greetings->size(); ++rank) {
    const bool is_here =
        meeting.hosts[rank] == meeting.hosts[static_cast<std::size_t>(meeting.rank)];
    addresses.push_back(is_here ? "" : (*greetings)[rank].wire_address);
  }
  if (Status status = (*wire)->connect(addresses, {meeting.deadline, meeting.interrupted});
      !status.ok()) {
    return status;
  }
  return std::unique_ptr<transport::Transport>(std::make_unique<transport::RemoteTransport>(
      std::move(here),
      window,
      std::move(*mirrors),
      std::move(*wire),
      *greetings,
      transport::RemoteOptions{options.hosts,
                               meeting.rank,
                               !resolved.env.progress_in_calls,
                               resolved.env.keepalive,
                               "UCX",
                               cores_of_progress(resolved.session)}));
}

}  // namespace

namespace {

/// What ranks that have only a unique id with an address find out there.
Status meet_at_address(const UniqueId& id,
                       int rank,
                       const Resolved& resolved,
                       GroupOptions& options) {
  const int world_size = static_cast<int>(options.hosts.size());
  const transport::Patience patience{std::chrono::steady_clock::now() + resolved.session.timeout,
                                     options.interrupted};
  auto meeting = transport::TcpMeeting::open(id.digits(), id.address(), rank, world_size, patience);
  if (!meeting.ok()) {
    return meeting.status();
  }
  auto host = this_host();
  auto hosts = meeting->all_gather(host.ok() ? *host : "", patience);
  if (!host.ok() || !hosts.ok()) {
    return host.ok() ? hosts.status() : host.status();
  }
  options.hosts = std::move(*hosts);
  options.processes.clear();
  // The meeting stays open as long as the function that uses it.
  const auto shared = std::make_shared<transport::TcpMeeting>(std::move(*meeting));
  options.all_gather = [shared, patience](const std::string& own) {
    return shared->all_gather(own, patience);
  };
  return {};
}

Result<std::unique_ptr<Session>> connect_resolved(const std::string& id,
                                                  const std::filesystem::path* path,
                                                  int rank,
                                                  int world_size,
                                                  const GroupOptions& options,
                                                  Resolved& resolved) {
  const bool hosts = spans_hosts(options);
  if (hosts && (!options.all_gather || path != nullptr)) {
    return bad_argument("all_gather", "a way to reach the other hosts", "none");
  }
  transport::RendezvousOptions meeting;
  meeting.id = id;
  meeting.rank = rank;
  meeting.world_size = world_size;
  meeting.window_bytes = resolved.window_bytes;
  meeting.deadline = std::chrono::steady_clock::now() + resolved.session.timeout;
  meeting.interrupted = options.interrupted;
  for (const auto& [pid, start] : options.processes) {
    meeting.processes.push_back({pid, start});
  }
  if (hosts) {
    meeting.hosts = transport::number_hosts(options.hosts);
  }
  transport::MeetingPoint point;
  if (path != nullptr) {
    auto place = transport::meet_at(*path, meeting);
    if (!place.ok()) {
      return place.status();
    }
    point = std::move(*place);
    meeting.id = point.id;
  }
  auto made = make_window(meeting.id, rank, world_size, options, resolved, false);
  if (!made.ok()) {
    return made.status();
  }
  const std::shared_ptr<window::Window> window = std::move(*made);
  auto transport = connect_here(*window, meeting);
  if (path != nullptr && rank == 0) {
    std::error_code ignored;
    std::filesystem::remove(*path, ignored);
  }
  if (transport.ok() && hosts) {
    transport = connect_hosts(std::move(*transport), window, meeting, options, resolved);
  }
  if (!transport.ok()) {
    return transport.status();
  }
  return std::make_unique<Session>(
      std::move(*transport), window, rank, std::move(resolved.session));
}

}  // namespace

Result<std::unique_ptr<Session>> connect_session(const UniqueId& id,
                                                 const std::filesystem::path* path,
                                                 int rank,
                                                 int world_size,
                                                 const GroupOptions& given) {
  auto resolved = resolve(rank, world_size, given);
  if (!resolved.ok()) {
    return resolved.status();
  }
  if (id.address().empty() || world_size == 1 || !given.hosts.empty()) {
    return connect_resolved(id.digits(), path, rank, world_size, given, *resolved);
  }
  GroupOptions options = given;
  options.hosts.resize(static_cast<std::size_t>(world_size));
  if (Status status = meet_at_address(id, rank, *resolved, options); !status.ok()) {
    return status;
  }
  return connect_resolved(id.digits(), path, rank, world_size, options, *resolved);
}

Result<std::unique_ptr<Session>> rejoin_session(const std::string& id,
                                                int rank,
                                                int world_size,
                                                const GroupOptions& options) {
  auto resolved = resolve(rank, world_size, options);
  if (!resolved.ok()) {
    return resolved.status();
  }
  if (spans_hosts(options)) {
    return error(
        StatusCode::kInvalidState,
        "connect",
        "",
        "connect: expected a group on one host to come back to, got one on several (rank " +
            std::to_string(rank) + ")");
  }
  // Its predecessor's address: taken as long as that lives.
  auto listener = transport::listen_at(transport::address_of(id, rank), world_size);
  if (!listener.ok()) {
    return listener.status();
  }
  auto window = make_window(id, rank, world_size, options, *resolved, true);
  if (!window.ok()) {
    return window.status();
  }
  transport::RendezvousOptions meeting;
  meeting.rank = rank;
  meeting.world_size = world_size;
  meeting.window_bytes = resolved->window_bytes;
  auto lobby = open_lobby(id, **window, meeting, std::move(*listener), true);
  if (!lobby.ok()) {
    return lobby.status();
  }
  auto transport = transport::ShmTransport::come_back(
      rank, world_size, **window, resolved->window_bytes, std::move(*lobby));
  auto session = std::make_unique<Session>(
      std::move(transport), std::move(*window), rank, std::move(resolved->session));
  if (auto members = session->reset(); !members.ok()) {
    return members.status();
  }
  return session;
}

Result<std::vector<std::unique_ptr<Session>>> local_sessions(const std::string& id,
                                                             int world_size,
                                                             const GroupOptions& options,
                                                             const transport::LocalLinks* links) {
  auto resolved = resolve(0, world_size, options);
  if (!resolved.ok()) {
    return resolved.status();
  }
  std::vector<std::shared_ptr<window::Window>> windows;
  std::vector<transport::Mirrors> mirrors;
  std::vector<transport::Greeting> greetings;
  const bool hosts = spans_hosts(options);
  for (int rank = 0; rank < world_size; ++rank) {
    auto window = make_window(id, rank, world_size, options, *resolved, false);
    if (!window.ok()) {
      return window.status();
    }
    windows.emplace_back(std::move(*window));
    if (hosts) {
      auto table = transport::Mirrors::create(*windows.back(), world_size);
      if (!table.ok()) {
        return table.status();
      }
      mirrors.push_back(std::move(*table));
      greetings.push_back({windows.back()->control->identity, true, "", ""});
    }
  }
  std::vector<std::unique_ptr<transport::Wire>> wires;
  if (hosts) {
    wires = links != nullptr ? transport::make_local_wires(*links)
                             : transport::make_local_wires(world_size);
  }
  std::vector<std::unique_ptr<Session>> sessions;
  for (std::size_t r = 0; r < windows.size(); ++r) {
    const int rank = static_cast<int>(r);
    std::unique_ptr<transport::Transport> transport =
        std::make_unique<transport::LocalTransport>(windows, resolved->window_bytes);
    if (hosts) {
      transport = std::make_unique<transport::RemoteTransport>(
          std::move(transport),
          windows[r],
          std::move(mirrors[r]),
          std::move(wires[r]),
          greetings,
          transport::RemoteOptions{options.hosts,
                                   rank,
                                   !resolved->env.progress_in_calls,
                                   resolved->env.keepalive,
                                   "messages in memory",
                                   cores_of_progress(resolved->session)});
    }
    sessions.push_back(
        std::make_unique<Session>(std::move(transport), windows[r], rank, resolved->session));
  }
  return sessions;
}

}  // namespace waybill::engine
