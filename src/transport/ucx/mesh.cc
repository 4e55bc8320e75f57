#include "transport/ucx/mesh.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/errors.h"

namespace waybill::transport {
namespace {

using Clock = std::chrono::steady_clock;
using State = Connection::State;

constexpr unsigned kMessageId = 0;
/// A wait looks again after this time whether UCX has something to do, in case another thread took
/// the event that would have ended it.
constexpr std::chrono::milliseconds kSlice{100};

}  // namespace

Result<std::unique_ptr<UcxWire>> UcxWire::open(int rank, int world_size) {
  auto worker = UcxWorker::open();
  if (!worker.ok()) {
    return worker.status();
  }
  auto wire = std::make_unique<UcxMesh>(rank, world_size, std::move(*worker));
  if (Status status = wire->start(); !status.ok()) {
    return status;
  }
  return std::unique_ptr<UcxWire>(std::move(wire));
}

Status UcxMesh::start() {
  wake_ = Descriptor(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!wake_ || getrandom(&incarnation_, sizeof(incarnation_), 0) != sizeof(incarnation_)) {
    return error(StatusCode::kInternal,
                 "connect",
                 "",
                 std::string("connect: no eventfd or random bytes: ") + std::strerror(errno));
  }
  AddressHead head;
  head.incarnation = incarnation_;
  head.rank = rank_;
  head.world_size = static_cast<std::int32_t>(connections_.size());
  address_.assign(reinterpret_cast<const char*>(&head), sizeof(head));
  address_ += worker_->address();

  ucp_am_handler_param_t handler{};
  handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
                       UCP_AM_HANDLER_PARAM_FIELD_ARG | UCP_AM_HANDLER_PARAM_FIELD_FLAGS;
  handler.id = kMessageId;
  handler.cb = came;
  handler.arg = this;
  handler.flags = UCP_AM_FLAG_WHOLE_MSG;
  const ucs_status_t done = ucx_.worker_set_am_recv_handler(worker_->get(), &handler);
  return done == UCS_OK ? Status() : ucx_error(ucx_, "take a handler", done);
}

UcxMesh::~UcxMesh() {
  if (!worker_->is_of_this_process()) {
    return;
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<int> all(connections_.size());
  std::iota(all.begin(), all.end(), 0);
  close_all(all);
  if (on_the_way_ != 0) {
    // UCX still holds messages and would answer for them while it is taken down: it stays.
    UcxWorker* const kept = worker_.release();
    static_cast<void>(kept);
  }
}

Connection* UcxMesh::open_connection(int rank) {
  const bool exists = rank >= 0 && static_cast<std::size_t>(rank) < connections_.size();
  return exists && connection(rank).state == State::kOpen ? &connection(rank) : nullptr;
}

void UcxMesh::send(int to,
                   std::span<const std::byte> head,
                   std::span<const std::byte> body,
                   std::atomic<std::int64_t>* in_flight) {
  if (worker_->is_of_this_process()) {
    const auto lock = enter();
    if (Connection* open = open_connection(to)) {
      post(*open, WirePrefix::kMessage, head, body, in_flight);
      return;
    }
  }
  if (in_flight != nullptr) {
    in_flight->fetch_sub(1, std::memory_order_release);
  }
}

void UcxMesh::post(Connection& to,
                   WirePrefix::Kind kind,
                   std::span<const std::byte> head,
                   std::span<const std::byte> body,
                   std::atomic<std::int64_t>* in_flight) {
  const bool copied = in_flight == nullptr && !body.empty();
  Outgoing* message = pool_.take(copied);
  message->connection = &to;
  message->in_flight = in_flight;
  WirePrefix prefix;
  prefix.to = to.incarnation;
  prefix.from = incarnation_;
  prefix.sequence = to.sent++;
  prefix.rank = static_cast<std::uint16_t>(rank_);
  prefix.kind = kind;
  std::memcpy(message->head.data(), &prefix, sizeof(prefix));
  if (!head.empty()) {
    std::memcpy(message->head.data() + sizeof(prefix), head.data(), head.size());
  }
  const std::byte* bytes = body.data();
  if (copied) {
    std::memcpy(message->copy.get(), body.data(), body.size());
    bytes = message->copy.get();
  }
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
                       UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  param.flags = UCP_AM_SEND_FLAG_EAGER;
  param.memory_type = UCS_MEMORY_TYPE_HOST;
  param.cb.send = sent;
  param.user_data = message;
  void* request = ucx_.am_send_nbx(to.endpoint,
                                   kMessageId,
                                   message->head.data(),
                                   sizeof(prefix) + head.size(),
                                   bytes,
                                   body.size(),
                                   &param);
  if (UCS_PTR_IS_PTR(request)) {
    ++to.on_the_way;
    ++on_the_way_;
    return;
  }
  pool_.give_back(message);
  if (UCS_PTR_IS_ERR(request)) {
    to.dead = true;
    fail(to, in_words(ucx_, UCS_PTR_STATUS(request)));
  }
}

void UcxMesh::sent(void* request, ucs_status_t status, void* message) {
  auto* outgoing = static_cast<Outgoing*>(message);
  Connection& to = *outgoing->connection;
  UcxMesh& wire = *to.wire;
  wire.ucx_.request_free(request);
  wire.moved_ = true;
  --to.on_the_way;
  --wire.on_the_way_;
  wire.pool_.give_back(outgoing);
  if (status != UCS_OK) {
    to.dead = true;
    wire.fail(to, in_words(wire.ucx_, status));
  }
}

ucs_status_t UcxMesh::came(void* self,
                           const void* header,
                           std::size_t header_bytes,
                           void* data,
                           std::size_t bytes,
                           const ucp_am_recv_param_t* how) {
  const bool whole = (how->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) == 0;
  if (header_bytes >= sizeof(WirePrefix) && header_bytes <= sizeof(WirePrefix) + kWireHeadBytes &&
      bytes <= kWireBodyBytes && whole) {
    WirePrefix prefix;
    std::memcpy(&prefix, header, sizeof(prefix));
    const auto* head = static_cast<const std::byte*>(header) + sizeof(prefix);
    static_cast<UcxMesh*>(self)->receive(prefix,
                                         {head, header_bytes - sizeof(prefix)},
                                         {static_cast<const std::byte*>(data), bytes});
  }
  return UCS_OK;
}

void UcxMesh::receive(const WirePrefix& prefix,
                      std::span<const std::byte> head,
                      std::span<const std::byte> body) {
  moved_ = true;
  if (prefix.to != incarnation_ || prefix.rank >= connections_.size()) {
    return;
  }
  Connection& from = connection(prefix.rank);
  if (from.state == State::kNone || from.incarnation != prefix.from || from.deaf) {
    return;
  }
  if (prefix.kind == WirePrefix::kHello && !from.heard) {
    // Those before came when this side had no connection yet.
    from.heard = true;
    from.received = prefix.sequence;
  }
  if (!from.heard || prefix.sequence != from.received) {
    from.deaf = true;
    fail(from, "messages out of order");
    return;
  }
  ++from.received;
  if (prefix.kind == WirePrefix::kMessage) {
    deliver(prefix.rank, head, body);
  } else if (prefix.kind == WirePrefix::kHeard) {
    from.confirmed = true;
  } else if (prefix.kind == WirePrefix::kBye) {
    from.deaf = true;
    fail(from, "the other end closed it");
  } else if (from.state == State::kOpen) {
    post(from, WirePrefix::kHeard, {}, {}, nullptr);
  }
}

void UcxMesh::deliver(int from, std::span<const std::byte> head, std::span<const std::byte> body) {
  if (keeping_) {
    kept_.push_back({from, {head.begin(), head.end()}, {body.begin(), body.end()}});
  } else if (listener_ != nullptr) {
    calling_back_ = true;
    listener_->on_message(from, head, body);
    calling_back_ = false;
  }
}

bool UcxMesh::deliver_kept() {
  const bool any = !kept_.empty();
  while (!kept_.empty()) {
    const KeptMessage message = std::move(kept_.front());
    kept_.pop_front();
    deliver(message.from, message.head, message.body);
  }
  return any;
}

bool UcxMesh::progress() {
  if (!worker_->is_of_this_process()) {
    return false;
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  moved_ = deliver_kept();
  const bool any = ucx_.worker_progress(worker_->get()) != 0;
  return (num_failed_ != 0 && look_after_failed()) || any || moved_;
}

void UcxMesh::wait(std::chrono::milliseconds most) {
  if (!worker_->is_of_this_process()) {
    return;
  }
  const auto end = Clock::now() + most;
  while (true) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!kept_.empty() || num_failed_ != 0 || ucx_.worker_arm(worker_->get()) != UCS_OK) {
        return;
      }
    }
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now());
    const auto slice = std::clamp(left, std::chrono::milliseconds(0), kSlice);
    pollfd events[] = {{worker_->event(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
    const int ready = poll(events, 2, static_cast<int>(slice.count()));
    if (events[1].revents != 0) {
      std::uint64_t count = 0;
      (void)!read(wake_.get(), &count, sizeof(count));
    }
    if (ready != 0 || left <= kSlice) {
      return;
    }
  }
}

void UcxMesh::wake() noexcept {
  const std::uint64_t one = 1;
  (void)!write(wake_.get(), &one, sizeof(one));
}

Result<std::string> ucx_version() {
  auto library = UcxLibrary::get();
  if (!library.ok()) {
    return library.status();
  }
  unsigned major = 0;
  unsigned minor = 0;
  unsigned release = 0;
  (*library)->get_version(&major, &minor, &release);
  return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(release);
}

}  // namespace waybill::transport
