#include "transport/ucx/mesh.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/errors.h"
#include "base/shortage.h"

namespace waybill::transport {
namespace {

using Clock = std::chrono::steady_clock;
using State = Connection::State;

constexpr unsigned kMessageId = 0;
/// Messages of one connection that UCX has while the network is full. Enough to go on with.
constexpr int kMostHandedOver = 8;
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
                 "connect: no eventfd or random bytes: " + describe_errno(errno));
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
  for (const auto& each : all_) {
    if (each->state == State::kOpen) {
      end(*each);
    }
  }
  // Nothing is moved after this: see Connection.
  for (const auto& each : all_) {
    ucp_request_param_t param{};
    param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    param.flags = UCP_EP_CLOSE_FLAG_FORCE;
    void* request = ucx_.ep_close_nbx(each->endpoint, &param);
    if (UCS_PTR_IS_PTR(request)) {
      ucx_.request_free(request);
    }
  }
}

Connection* UcxMesh::open_connection(int rank) const noexcept {
  const auto r = static_cast<std::size_t>(rank);
  const bool open = rank >= 0 && r < connections_.size() && connections_[r] != nullptr &&
                    connections_[r]->state == State::kOpen;
  return open ? connections_[r] : nullptr;
}

void UcxMesh::send(int to,
                   std::span<const std::byte> head,
                   std::span<const std::byte> body,
                   std::atomic<std::int64_t>* in_flight) {
  if (worker_->is_of_this_process()) {
    const auto lock = enter();
    if (Connection* open = open_connection(to)) {
      Outgoing* message = make(*open, WirePrefix::kMessage, head);
      message->body = body;
      message->in_flight = in_flight;
      post(*open, message);
      return;
    }
  }
  if (in_flight != nullptr) {
    in_flight->fetch_sub(1, std::memory_order_release);
  }
}

Outgoing* UcxMesh::make(Connection& to, WirePrefix::Kind kind, std::span<const std::byte> head) {
  WirePrefix prefix;
  prefix.to = to.incarnation;
  prefix.from = incarnation_;
  prefix.rank = static_cast<std::uint16_t>(rank_);
  prefix.kind = kind;
  Outgoing* message = pool_.take();
  message->connection = &to;
  message->head_bytes = sizeof(prefix) + head.size();
  std::memcpy(message->head.data(), &prefix, sizeof(prefix));
  if (!head.empty()) {
    std::memcpy(message->head.data() + sizeof(prefix), head.data(), head.size());
  }
  return message;
}

void UcxMesh::post(Connection& to, Outgoing* message) {
  if (to.waiting.empty() && to.handed_over < kMostHandedOver) {
    hand_over(message);
    return;
  }
  if (message->in_flight == nullptr) {
    pool_.copy_body(message);
  }
  to.waiting.push_back(message);
  ++num_waiting_;
}

void UcxMesh::hand_over(Outgoing* message) {
  Connection& to = *message->connection;
  // Most are copied by UCX at once. What it keeps waiting must not be what a caller may want back.
  const bool borrowed = message->in_flight != nullptr && to.handed_over == 0;
  if (!borrowed) {
    pool_.copy_body(message);
  }
  // Only now, so that those which are dropped while they wait leave no gap.
  const std::uint32_t sequence = to.sent++;
  std::memcpy(message->head.data() + offsetof(WirePrefix, sequence), &sequence, sizeof(sequence));
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
                       UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  param.flags = UCP_AM_SEND_FLAG_EAGER;
  param.memory_type = UCS_MEMORY_TYPE_HOST;
  param.cb.send = sent;
  param.user_data = message;
  if (!to.unflushed) {
    to.unflushed = true;
    ++num_unflushed_;
  }
  void* request = ucx_.am_send_nbx(to.endpoint,
                                   kMessageId,
                                   message->head.data(),
                                   message->head_bytes,
                                   message->body.data(),
                                   message->body.size(),
                                   &param);
  if (UCS_PTR_IS_PTR(request)) {
    ++to.handed_over;
    ++num_handed_over_;
    to.borrowing = borrowed ? message : to.borrowing;
    return;
  }
  pool_.give_back(message);
  if (UCS_PTR_IS_ERR(request)) {
    to.broken = true;
    fail(to, in_words(ucx_, UCS_PTR_STATUS(request)));
  }
}

void UcxMesh::sent(void* request, ucs_status_t status, void* message) {
  auto* outgoing = static_cast<Outgoing*>(message);
  Connection& to = *outgoing->connection;
  UcxMesh& wire = *to.wire;
  wire.ucx_.request_free(request);
  wire.moved_ = true;
  --to.handed_over;
  --wire.num_handed_over_;
  to.borrowing = to.borrowing == outgoing ? nullptr : to.borrowing;
  wire.pool_.give_back(outgoing);
  if (status != UCS_OK) {
    to.broken = true;
    wire.fail(to, in_words(wire.ucx_, status));
  }
}

/// UCX is done with a message when it has copied it, and may still have to bring it away.
void UcxMesh::flush() {
  for (Connection* each : connections_) {
    if (each != nullptr && each->unflushed && each->state == State::kOpen &&
        each->handed_over == 0 && each->waiting.empty() && !each->flushing) {
      ucp_request_param_t param{};
      param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
      param.cb.send = flushed;
      param.user_data = each;
      void* request = ucx_.ep_flush_nbx(each->endpoint, &param);
      each->unflushed = false;
      each->flushing = UCS_PTR_IS_PTR(request);
      num_unflushed_ -= each->flushing ? 0 : 1;
    }
  }
}

void UcxMesh::flushed(void* request, ucs_status_t, void* connection) {
  auto& which = *static_cast<Connection*>(connection);
  which.wire->ucx_.request_free(request);
  which.wire->moved_ = true;
  which.flushing = false;
  --which.wire->num_unflushed_;
}

/// Not from inside UCX, which might then send it before what waits there.
bool UcxMesh::hand_over_waiting() {
  bool any = false;
  for (Connection* each : connections_) {
    while (each != nullptr && !each->waiting.empty() && each->state == State::kOpen &&
           each->handed_over < kMostHandedOver) {
      Outgoing* message = each->waiting.front();
      each->waiting.pop_front();
      --num_waiting_;
      hand_over(message);
      any = true;
    }
  }
  return any;
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
  Connection* known = open_connection(prefix.rank);
  if (prefix.to != incarnation_ || known == nullptr || known->incarnation != prefix.from) {
    return;
  }
  Connection& from = *known;
  if (prefix.kind == WirePrefix::kHello && !from.heard) {
    // Those before came when this side had no connection yet.
    from.heard = true;
    from.received = prefix.sequence;
  }
  if (!from.heard || prefix.sequence != from.received) {
    fail(from, "messages out of order");
    return;
  }
  ++from.received;
  if (prefix.kind == WirePrefix::kMessage) {
    deliver(prefix.rank, head, body);
  } else if (prefix.kind == WirePrefix::kHeard) {
    from.confirmed = true;
  } else if (prefix.kind == WirePrefix::kBye) {
    fail(from, "the other end closed it");
  } else {
    post(from, make(from, WirePrefix::kHeard, {}));
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
  const bool handed = num_waiting_ != 0 && hand_over_waiting();
  const bool told = num_failed_ != 0 && tell_lost();
  if (any || handed || told || moved_) {
    return true;
  }
  if (num_unflushed_ != 0) {
    flush();
  }
  return moved_;
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
