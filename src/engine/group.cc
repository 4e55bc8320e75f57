#include "waybill/group.h"

#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "base/errors.h"
#include "engine/session.h"
#include "numerics/kernels.h"
#include "transport/lobby.h"
#include "transport/local.h"
#include "transport/rendezvous.h"
#include "transport/shm.h"
#include "transport/socket.h"
#include "waybill/env.h"
#include "window/window.h"

namespace waybill {
namespace {

/// Everything a session needs, with the environment's defaults filled in.
struct Resolved {
  engine::SessionOptions session;
  std::int64_t window_bytes = 0;
};

Result<Resolved> resolve(const GroupOptions& options) {
  auto env = Env::from_process();
  if (!env.ok()) {
    return env.status();
  }
  Resolved resolved;
  resolved.session.timeout = options.timeout.count() > 0 ? options.timeout : env->timeout;
  resolved.session.threads = options.threads > 0 ? options.threads : env->threads.value_or(0);
  if (env->simd && !numerics::is_supported(*env->simd)) {
    return error(
        StatusCode::kInvalidArgument,
        "environment",
        "WAYBILL_SIMD",
        std::string("WAYBILL_SIMD: expected a level this machine has, got ") + name_of(*env->simd));
  }
  resolved.session.kernels = env->simd ? numerics::kernels(*env->simd) : numerics::best_kernels();
  resolved.session.interrupted = options.interrupted;
  resolved.session.on_phase = options.on_phase;
  resolved.session.log = env->log_waits ? options.log : nullptr;
  resolved.session.checked = options.checked || env->checked;
  resolved.session.strict = options.strict != Strict::kNone ? options.strict : env->strict;
  resolved.session.hccl_buffsize_mb = env->hccl_buffsize_mb;
  resolved.window_bytes = options.window_bytes > 0 ? options.window_bytes : env->window_bytes;
  constexpr std::int64_t kWindowUnit = std::int64_t{2} << 20;
  if (resolved.window_bytes % kWindowUnit != 0) {
    return error(StatusCode::kInvalidArgument,
                 "connect",
                 "window_bytes",
                 "connect: argument window_bytes: expected a multiple of 2 MiB, got " +
                     std::to_string(resolved.window_bytes));
  }
  window::MemoryBudget::process().set_limit(env->max_memory_bytes);
  return resolved;
}

Status check_world(int rank, int world_size) {
  if (world_size < 1 || world_size > window::kMaxRanks) {
    return error(StatusCode::kInvalidArgument,
                 "connect",
                 "world_size",
                 "connect: argument world_size: expected 1 to " +
                     std::to_string(window::kMaxRanks) + ", got " + std::to_string(world_size));
  }
  if (rank < 0 || rank >= world_size) {
    return error(StatusCode::kInvalidArgument,
                 "connect",
                 "rank",
                 "connect: argument rank: expected 0 <= rank < " + std::to_string(world_size) +
                     ", got " + std::to_string(rank));
  }
  return {};
}

}  // namespace

const char* name_of(Phase phase) noexcept {
  switch (phase) {
    case Phase::kIdle:
      return "idle";
    case Phase::kCheck:
      return "check";
    case Phase::kWaitHalf:
      return "wait-half";
    case Phase::kPublish:
      return "publish";
    case Phase::kPublishRows:
      return "publish-rows";
    case Phase::kSignalled:
      return "signalled";
    case Phase::kWaitSignals:
      return "wait-signals";
    case Phase::kPull:
      return "pull";
    case Phase::kPullRows:
      return "pull-rows";
    case Phase::kWaitReaders:
      return "wait-readers";
    case Phase::kReset:
      return "reset";
  }
  return "?";
}

UniqueId UniqueId::create() {
  UniqueId id;
  std::size_t have = 0;
  while (have < id.bytes_.size()) {
    const ssize_t got = getrandom(id.bytes_.data() + have, id.bytes_.size() - have, 0);
    have += got > 0 ? static_cast<std::size_t>(got) : 0;
  }
  return id;
}

Result<UniqueId> UniqueId::from_string(std::string_view text) {
  UniqueId id;
  bool good = text.size() == 2 * id.bytes_.size();
  for (std::size_t i = 0; good && i < text.size(); ++i) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    const std::size_t digit = kDigits.find(text[i]);
    good = digit != std::string_view::npos;
    if (good) {
      id.bytes_[i / 2] = static_cast<std::uint8_t>(std::size_t{id.bytes_[i / 2]} << 4 | digit);
    }
  }
  if (!good) {
    return error(
        StatusCode::kInvalidArgument,
        "connect",
        "id",
        "connect: argument id: expected 32 hexadecimal digits, got '" + std::string(text) + "'");
  }
  return id;
}

std::string UniqueId::to_string() const {
  std::string text;
  for (const std::uint8_t byte : bytes_) {
    std::array<char, 3> digits{};
    std::snprintf(digits.data(), digits.size(), "%02x", byte);
    text += digits.data();
  }
  return text;
}

Group::Group(std::unique_ptr<engine::Session> session) noexcept : session_(std::move(session)) {}
Group::Group(Group&&) noexcept = default;
Group& Group::operator=(Group&&) noexcept = default;

Group::~Group() {
  if (session_) {
    session_->close(std::chrono::seconds(5));
  }
}

namespace {

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

Result<std::unique_ptr<engine::Session>> open(const std::string& id,
                                              const std::filesystem::path* path,
                                              int rank,
                                              int world_size,
                                              const GroupOptions& options) {
  if (Status status = check_world(rank, world_size); !status.ok()) {
    return status;
  }
  auto resolved = resolve(options);
  if (!resolved.ok()) {
    return resolved.status();
  }
  transport::RendezvousOptions meeting{id,
                                       rank,
                                       world_size,
                                       resolved->window_bytes,
                                       std::chrono::steady_clock::now() + resolved->session.timeout,
                                       options.interrupted,
                                       {}};
  for (const auto& [pid, start] : options.processes) {
    meeting.processes.push_back({pid, start});
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
  auto window = window::Window::create(
      resolved->window_bytes,
      window::MemoryBudget::process(),
      {.identity = window::make_identity(meeting.id, options.name, rank, world_size),
       .checked = resolved->session.checked});
  if (!window.ok()) {
    return window.status();
  }
  auto met = transport::meet(**window, meeting);
  if (path != nullptr && rank == 0) {
    std::error_code ignored;
    std::filesystem::remove(*path, ignored);
  }
  if (!met.ok()) {
    return met.status();
  }
  auto lobby = open_lobby(meeting.id, **window, meeting, std::move(met->listener), false);
  if (!lobby.ok()) {
    return lobby.status();
  }
  auto transport = transport::ShmTransport::create(
      std::move(met->handles), rank, **window, resolved->window_bytes, std::move(*lobby));
  if (!transport.ok()) {
    return transport.status();
  }
  return std::make_unique<engine::Session>(
      std::move(*transport), std::move(*window), rank, std::move(resolved->session));
}

}  // namespace

Result<Group> Group::connect(const UniqueId& id,
                             int rank,
                             int world_size,
                             const GroupOptions& options) {
  auto session = open(id.to_string(), nullptr, rank, world_size, options);
  if (!session.ok()) {
    return session.status();
  }
  return Group(std::move(*session));
}

Result<Group> Group::connect(const std::filesystem::path& path,
                             int rank,
                             int world_size,
                             const GroupOptions& options) {
  auto session = open(UniqueId::create().to_string(), &path, rank, world_size, options);
  if (!session.ok()) {
    return session.status();
  }
  return Group(std::move(*session));
}

Result<Group> Group::rejoin(const UniqueId& id,
                            int rank,
                            int world_size,
                            const GroupOptions& options) {
  if (Status status = check_world(rank, world_size); !status.ok()) {
    return status;
  }
  auto resolved = resolve(options);
  if (!resolved.ok()) {
    return resolved.status();
  }
  const std::string text = id.to_string();
  // Its predecessor's address: taken as long as that lives.
  auto listener = transport::listen_at(transport::address_of(text, rank), world_size);
  if (!listener.ok()) {
    return listener.status();
  }
  auto window = window::Window::create(
      resolved->window_bytes,
      window::MemoryBudget::process(),
      {.identity = window::make_identity(text, options.name, rank, world_size),
       .newcomer = true,
       .checked = resolved->session.checked});
  if (!window.ok()) {
    return window.status();
  }
  transport::RendezvousOptions meeting;
  meeting.rank = rank;
  meeting.world_size = world_size;
  meeting.window_bytes = resolved->window_bytes;
  auto lobby = open_lobby(text, **window, meeting, std::move(*listener), true);
  if (!lobby.ok()) {
    return lobby.status();
  }
  auto transport = transport::ShmTransport::come_back(
      rank, world_size, **window, resolved->window_bytes, std::move(*lobby));
  auto session = std::make_unique<engine::Session>(
      std::move(transport), std::move(*window), rank, std::move(resolved->session));
  if (auto members = session->reset(); !members.ok()) {
    return members.status();
  }
  return Group(std::move(session));
}

Result<std::vector<Group>> Group::local(int world_size, const GroupOptions& options) {
  if (Status status = check_world(0, world_size); !status.ok()) {
    return status;
  }
  auto resolved = resolve(options);
  if (!resolved.ok()) {
    return resolved.status();
  }
  const std::string id = UniqueId::create().to_string();
  std::vector<std::shared_ptr<window::Window>> windows;
  for (int r = 0; r < world_size; ++r) {
    auto window =
        window::Window::create(resolved->window_bytes,
                               window::MemoryBudget::process(),
                               {.identity = window::make_identity(id, options.name, r, world_size),
                                .checked = resolved->session.checked});
    if (!window.ok()) {
      return window.status();
    }
    windows.emplace_back(std::move(*window));
  }
  std::vector<Group> groups;
  groups.reserve(windows.size());
  for (int r = 0; r < world_size; ++r) {
    groups.push_back(Group(std::make_unique<engine::Session>(
        std::make_unique<transport::LocalTransport>(windows, resolved->window_bytes),
        windows[static_cast<std::size_t>(r)],
        r,
        resolved->session)));
  }
  return groups;
}

int Group::rank() const noexcept { return session_->rank(); }
int Group::world_size() const noexcept { return session_->world_size(); }

Result<Tensor> Group::expert_buffer(std::int64_t rows, std::int64_t hidden, DType dtype) {
  return session_->expert_buffer(rows, hidden, dtype);
}

Result<std::vector<int>> Group::reset() { return session_->reset(); }
void Group::close(std::chrono::milliseconds timeout) { session_->close(timeout); }
void Group::set_timeout(std::chrono::milliseconds timeout) { session_->set_timeout(timeout); }
GroupStats Group::stats() const { return session_->stats(); }
Result<MemoryPlacement> Group::placement() { return session_->placement(); }

}  // namespace waybill
