#include "waybill/group.h"

#include <sys/random.h>

#include <cstdio>
#include <utility>

#include "base/errors.h"
#include "contract/check.h"
#include "engine/call.h"
#include "engine/connect.h"
#include "engine/session.h"
#include "transport/hosts.h"
#include "waybill/env.h"

namespace waybill {
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

UniqueId UniqueId::create(std::string address) {
  UniqueId id = create();
  id.address_ = std::move(address);
  return id;
}

Result<UniqueId> UniqueId::from_string(std::string_view whole) {
  UniqueId id;
  const std::size_t at = whole.find('@');
  const std::string_view text = whole.substr(0, at);
  if (at != std::string_view::npos) {
    id.address_ = whole.substr(at + 1);
  }
  bool good =
      text.size() == 2 * id.bytes_.size() && (at == std::string_view::npos) == id.address_.empty();
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
        "connect: argument id: expected 32 hexadecimal digits, with or without @host:port, got '" +
            std::string(whole) + "'");
  }
  return id;
}

std::string UniqueId::to_string() const {
  return address_.empty() ? digits() : digits() + "@" + address_;
}

std::string UniqueId::digits() const {
  std::string text;
  for (const std::uint8_t byte : bytes_) {
    std::array<char, 3> digits{};
    std::snprintf(digits.data(), digits.size(), "%02x", byte);
    text += digits.data();
  }
  return text;
}

Result<std::string> this_host() {
  auto env = Env::from_process();
  if (!env.ok()) {
    return env.status();
  }
  return env->host.empty() ? transport::this_host() : env->host;
}

Group::Group(std::unique_ptr<engine::Session> session) noexcept : session_(std::move(session)) {}
Group::Group(Group&&) noexcept = default;
Group& Group::operator=(Group&&) noexcept = default;

Group::~Group() {
  if (session_) {
    session_->close(std::chrono::seconds(5));
  }
}

Result<Group> Group::connect(const UniqueId& id,
                             int rank,
                             int world_size,
                             const GroupOptions& options) {
  auto session = engine::connect_session(id, nullptr, rank, world_size, options);
  if (!session.ok()) {
    return session.status();
  }
  return Group(std::move(*session));
}

Result<Group> Group::connect(const std::filesystem::path& path,
                             int rank,
                             int world_size,
                             const GroupOptions& options) {
  auto session = engine::connect_session(UniqueId::create(), &path, rank, world_size, options);
  if (!session.ok()) {
    return session.status();
  }
  return Group(std::move(*session));
}

Result<Group> Group::rejoin(const UniqueId& id,
                            int rank,
                            int world_size,
                            const GroupOptions& options) {
  auto session = engine::rejoin_session(id.digits(), rank, world_size, options);
  if (!session.ok()) {
    return session.status();
  }
  return Group(std::move(*session));
}

Result<std::vector<Group>> Group::local(int world_size, const GroupOptions& options) {
  auto sessions = engine::local_sessions(UniqueId::create().to_string(), world_size, options);
  if (!sessions.ok()) {
    return sessions.status();
  }
  std::vector<Group> groups;
  groups.reserve(sessions->size());
  for (auto& session : *sessions) {
    groups.push_back(Group(std::move(session)));
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
std::chrono::milliseconds Group::timeout() const noexcept { return session_->timeout(); }
bool Group::stop() noexcept { return session_->standing().occupy(); }
bool Group::wait_for_readers(std::chrono::milliseconds timeout) {
  return session_->wait_for_readers(timeout);
}
void Group::set_timeout(std::chrono::milliseconds timeout) { session_->set_timeout(timeout); }
GroupStats Group::stats() const { return session_->stats(); }
std::vector<Route> Group::routes() const { return session_->routes(); }
Result<MemoryPlacement> Group::placement() { return session_->placement(); }

Status Group::refuse(std::string_view op,
                     std::string_view argument,
                     std::string_view expected,
                     std::string_view got) {
  const contract::Operator named = contract::operator_named(op);
  Status bad = contract::Checker(named, session_->facts()).fail(argument, expected, got);
  if (named == contract::Operator::kDispatchTeardown ||
      named == contract::Operator::kCombineTeardown) {
    return bad;
  }
  engine::Call call(*session_, named);
  WAYBILL_RETURN_IF_ERROR(call.begin());
  return call.refuse(std::move(bad));
}

}  // namespace waybill
