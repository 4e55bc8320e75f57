#include "transport/ucx/ucx_wire.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

#include "base/descriptor.h"
#include "base/errors.h"
#include "transport/ucx/outgoing.h"
#include "transport/ucx/worker.h"

namespace waybill::transport {

/// The way to one rank. UCX holds its address, so it stays where it is.
struct Connection {
  enum class State {
    kNone,  ///< never connected, or over
    kOpen,
    kFailed,   ///< to be closed
    kClosing,  ///< closed, but UCX may not be done with all messages
  };

  class UcxWireHere* wire = nullptr;
  int rank = -1;
  State state = State::kNone;
  ucp_ep_h endpoint = nullptr;
  std::uint64_t incarnation = 0;  ///< of the wire at the other end
  std::uint32_t sent = 0;
  std::uint32_t received = 0;
  bool heard = false;      ///< a hello came from there
  bool confirmed = false;  ///< our hello came there
  bool deaf = false;       ///< what still comes is not to be believed
  bool dead = false;       ///< UCX said that it is broken: nothing goes through
  std::int64_t on_the_way = 0;
  std::string why;
  void* closing = nullptr;  ///< UCX's request
  std::chrono::steady_clock::time_point closed_at;
};

namespace {

using Clock = std::chrono::steady_clock;
using State = Connection::State;

constexpr unsigned kMessageId = 0;
/// A wait looks again after this time whether UCX has something to do, in case another thread took
/// the event that would have ended it.
constexpr std::chrono::milliseconds kSlice{100};
/// UCX ends requests of a closed endpoint at once; this is for the case that it does not.
constexpr std::chrono::seconds kClosingTime{2};
/// How often a rank that has not answered is called again: it may have been called too early.
constexpr std::chrono::milliseconds kCallAgain{100};

/// What open() gives out and connect() takes.
struct AddressHead {
  static constexpr std::uint64_t kMagic = 0x31657269577942ULL;  // changes with WirePrefix
  std::uint64_t magic = kMagic;
  std::uint64_t incarnation = 0;
  std::int32_t rank = 0;
  std::int32_t world_size = 0;
};

std::uint64_t incarnation_of(const std::string& address) {
  AddressHead head;
  std::memcpy(&head, address.data(), sizeof(head));
  return head.incarnation;
}

/// UCX has one word for all ends of a TCP connection.
std::string in_words(const UcxLibrary& ucx, ucs_status_t why) {
  return why == UCS_ERR_ENDPOINT_TIMEOUT ? "its process or the link between the hosts is gone"
                                         : ucx.status_string(why);
}

struct Kept {
  int from;
  std::vector<std::byte> head;
  std::vector<std::byte> body;
};

}  // namespace

class UcxWireHere final : public UcxWire {
 public:
  UcxWireHere(int rank, int world_size, std::unique_ptr<UcxWorker> worker)
      : rank_(rank), worker_(std::move(worker)), ucx_(worker_->ucx()) {
    connections_ = std::vector<Connection>(static_cast<std::size_t>(world_size));
    for (int r = 0; r < world_size; ++r) {
      connections_[static_cast<std::size_t>(r)].wire = this;
      connections_[static_cast<std::size_t>(r)].rank = r;
    }
  }
  ~UcxWireHere() override;

  Status start();
  const std::string& address() const noexcept override { return address_; }
  Status connect(const std::vector<std::string>& addresses, const Patience& patience) override;

  void send(int to,
            std::span<const std::byte> head,
            std::span<const std::byte> body,
            std::atomic<std::int64_t>* in_flight) override;
  bool progress() override;
  bool is_idle() const noexcept override { return on_the_way_ == 0; }
  void sever(int rank) override;
  void wait(std::chrono::milliseconds most) override;
  void wake() noexcept override;

 private:
  static ucs_status_t came(void* self,
                           const void* header,
                           std::size_t header_bytes,
                           void* data,
                           std::size_t bytes,
                           const ucp_am_recv_param_t* how);
  static void sent(void* request, ucs_status_t status, void* message);
  static void broke(void* connection, ucp_ep_h endpoint, ucs_status_t why);

  /// Nothing where this thread is inside already, called back by the listener.
  std::unique_lock<std::mutex> enter() {
    return calling_back_ ? std::unique_lock<std::mutex>() : std::unique_lock<std::mutex>(mutex_);
  }
  Connection& connection(int rank) { return connections_[static_cast<std::size_t>(rank)]; }
  Connection* open_connection(int rank);

  Status check_addresses(const std::vector<std::string>& addresses) const;
  Status make_endpoint(int rank, const std::string& address);
  Status meet(const std::vector<int>& ranks, const Patience& patience);

  void post(Connection& to,
            WirePrefix::Kind kind,
            std::span<const std::byte> head,
            std::span<const std::byte> body,
            std::atomic<std::int64_t>* in_flight);
  void receive(const WirePrefix& prefix,
               std::span<const std::byte> head,
               std::span<const std::byte> body);
  void deliver(int from, std::span<const std::byte> head, std::span<const std::byte> body);
  bool deliver_kept();

  void fail(Connection& which, std::string why);
  void close(Connection& which);
  /// True when UCX is done with it, or will never be.
  bool is_closed(Connection& which);
  bool look_after_failed();
  void close_all(const std::vector<int>& ranks);

  int rank_;
  std::unique_ptr<UcxWorker> worker_;
  const UcxLibrary& ucx_;
  std::string address_;
  std::uint64_t incarnation_ = 0;
  Descriptor wake_;
  /// Around all use of UCX: wait() arms the worker while another thread may move messages.
  std::mutex mutex_;
  std::vector<Connection> connections_;
  OutgoingPool pool_;
  std::int64_t on_the_way_ = 0;
  int num_failed_ = 0;  ///< connections in kFailed or kClosing
  bool calling_back_ = false;
  bool keeping_ = false;  ///< messages are kept instead of delivered
  bool moved_ = false;
  std::deque<Kept> kept_;
};

Result<std::unique_ptr<UcxWire>> UcxWire::open(int rank, int world_size) {
  auto worker = UcxWorker::open();
  if (!worker.ok()) {
    return worker.status();
  }
  auto wire = std::make_unique<UcxWireHere>(rank, world_size, std::move(*worker));
  if (Status status = wire->start(); !status.ok()) {
    return status;
  }
  return std::unique_ptr<UcxWire>(std::move(wire));
}

Status UcxWireHere::start() {
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

UcxWireHere::~UcxWireHere() {
  if (!worker_->is_of_this_process()) {
    return;
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<int> all;
  for (const Connection& each : connections_) {
    all.push_back(each.rank);
  }
  close_all(all);
  if (on_the_way_ != 0) {
    // UCX still holds messages and would answer for them while it is taken down.
    (void)worker_.release();
  }
}

// ---- connecting

Status UcxWireHere::check_addresses(const std::vector<std::string>& addresses) const {
  std::vector<int> wrong;
  for (std::size_t r = 0; r < addresses.size(); ++r) {
    AddressHead head{};
    if (addresses[r].size() > sizeof(head)) {
      std::memcpy(&head, addresses[r].data(), sizeof(head));
    }
    const bool matches = head.magic == AddressHead::kMagic && head.rank == static_cast<int>(r) &&
                         head.world_size == static_cast<int>(connections_.size()) &&
                         addresses[r].size() > sizeof(head);
    if (!addresses[r].empty() && !matches) {
      wrong.push_back(static_cast<int>(r));
    }
  }
  if (addresses.size() == connections_.size() && wrong.empty()) {
    return {};
  }
  std::string message =
      "connect: argument addresses: expected one of this version of Waybill for "
      "each of " +
      std::to_string(connections_.size()) + " ranks, got " +
      (wrong.empty() ? std::to_string(addresses.size()) : "another for " + name_ranks(wrong)) +
      " (rank " + std::to_string(rank_) + ")";
  return error(StatusCode::kMismatch, "connect", "addresses", std::move(message), std::move(wrong));
}

Status UcxWireHere::make_endpoint(int rank, const std::string& address) {
  Connection& to = connection(rank);
  const std::uint64_t incarnation = incarnation_of(address);
  if (to.incarnation == incarnation) {
    // UCX would take the old socket, on which half a message may wait for its rest.
    return error(StatusCode::kInvalidState,
                 "connect",
                 "addresses",
                 "connect: argument addresses: expected a new address of rank " +
                     std::to_string(rank) + ", whose connection is over, got its old one (rank " +
                     std::to_string(rank_) + ")",
                 {rank});
  }
  to = Connection();
  to.wire = this;
  to.rank = rank;
  to.incarnation = incarnation;
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(address.data() + sizeof(AddressHead));
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.cb = broke;
  params.err_handler.arg = &to;
  const ucs_status_t done = ucx_.ep_create(worker_->get(), &params, &to.endpoint);
  if (done != UCS_OK) {
    to.endpoint = nullptr;
    return error(StatusCode::kPeerLost,
                 "connect",
                 "",
                 "connect: no way to the host of rank " + std::to_string(rank) + ": " +
                     ucx_.status_string(done) + " (rank " + std::to_string(rank_) + ")",
                 {rank});
  }
  to.state = State::kOpen;
  return {};
}

Status UcxWireHere::connect(const std::vector<std::string>& addresses, const Patience& patience) {
  if (!worker_->is_of_this_process()) {
    return error(StatusCode::kInvalidState,
                 "connect",
                 "",
                 "connect: this wire belongs to the process that this one was forked from");
  }
  if (Status status = check_addresses(addresses); !status.ok()) {
    return status;
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<int> ranks;
  std::vector<int> others;
  for (int r = 0; r < static_cast<int>(addresses.size()); ++r) {
    const std::string& address = addresses[static_cast<std::size_t>(r)];
    if (r != rank_ && !address.empty()) {
      ranks.push_back(r);
      if (connection(r).state != State::kOpen ||
          connection(r).incarnation != incarnation_of(address)) {
        others.push_back(r);
      }
    }
  }
  keeping_ = true;
  close_all(others);
  Status status;
  for (std::size_t i = 0; i < others.size() && status.ok(); ++i) {
    status = make_endpoint(others[i], addresses[static_cast<std::size_t>(others[i])]);
  }
  if (status.ok()) {
    status = meet(ranks, patience);
  }
  keeping_ = false;
  return status;
}

Status UcxWireHere::meet(const std::vector<int>& ranks, const Patience& patience) {
  Clock::time_point call_at;
  while (true) {
    std::vector<int> missing;
    std::vector<int> lost;
    std::string why;
    bool flushed = true;
    for (const int r : ranks) {
      Connection& to = connection(r);
      if (to.state != State::kOpen) {
        lost.push_back(r);
        why = to.why;
      } else if (!to.heard || !to.confirmed) {
        missing.push_back(r);
      }
      flushed = flushed && to.on_the_way == 0;
    }
    if (!lost.empty()) {
      std::string message = "connect: " + name_ranks(lost) + " on " +
                            (lost.size() == 1 ? "another host is" : "other hosts are") +
                            " gone: " + why + " (rank " + std::to_string(rank_) + ")";
      return error(StatusCode::kPeerLost, "connect", "", std::move(message), std::move(lost));
    }
    if (missing.empty() && flushed) {
      return {};
    }
    if (Status status = patience.check(); !status.ok()) {
      return status;
    }
    if (patience.expired()) {
      std::string message = "connect: timed out between hosts: " + name_ranks(missing) + " of " +
                            std::to_string(connections_.size()) + " did not answer rank " +
                            std::to_string(rank_);
      return error(StatusCode::kTimeout, "connect", "", std::move(message), std::move(missing));
    }
    if (Clock::now() >= call_at) {
      call_at = Clock::now() + kCallAgain;
      for (const int r : missing) {
        if (Connection& to = connection(r); !to.confirmed && to.on_the_way == 0) {
          post(to, WirePrefix::kHello, {}, {}, nullptr);
        }
      }
    }
    if (ucx_.worker_progress(worker_->get()) == 0 && ucx_.worker_arm(worker_->get()) == UCS_OK) {
      pollfd event{worker_->event(), POLLIN, 0};
      (void)poll(&event, 1, 10);
    }
  }
}

// ---- sending

Connection* UcxWireHere::open_connection(int rank) {
  const bool exists = rank >= 0 && static_cast<std::size_t>(rank) < connections_.size();
  return exists && connection(rank).state == State::kOpen ? &connection(rank) : nullptr;
}

void UcxWireHere::send(int to,
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

void UcxWireHere::post(Connection& to,
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

void UcxWireHere::sent(void* request, ucs_status_t status, void* message) {
  auto* outgoing = static_cast<Outgoing*>(message);
  Connection& to = *outgoing->connection;
  UcxWireHere& wire = *to.wire;
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

// ---- receiving

ucs_status_t UcxWireHere::came(void* self,
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
    static_cast<UcxWireHere*>(self)->receive(prefix,
                                             {head, header_bytes - sizeof(prefix)},
                                             {static_cast<const std::byte*>(data), bytes});
  }
  return UCS_OK;
}

void UcxWireHere::receive(const WirePrefix& prefix,
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

void UcxWireHere::deliver(int from,
                          std::span<const std::byte> head,
                          std::span<const std::byte> body) {
  if (keeping_) {
    kept_.push_back({from, {head.begin(), head.end()}, {body.begin(), body.end()}});
  } else if (listener_ != nullptr) {
    calling_back_ = true;
    listener_->on_message(from, head, body);
    calling_back_ = false;
  }
}

bool UcxWireHere::deliver_kept() {
  const bool any = !kept_.empty();
  while (!kept_.empty()) {
    const Kept message = std::move(kept_.front());
    kept_.pop_front();
    deliver(message.from, message.head, message.body);
  }
  return any;
}

bool UcxWireHere::progress() {
  if (!worker_->is_of_this_process()) {
    return false;
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  moved_ = deliver_kept();
  const bool any = ucx_.worker_progress(worker_->get()) != 0;
  return (num_failed_ != 0 && look_after_failed()) || any || moved_;
}

// ---- ending

void UcxWireHere::broke(void* connection, ucp_ep_h, ucs_status_t why) {
  auto& which = *static_cast<Connection*>(connection);
  which.dead = true;
  which.wire->fail(which, in_words(which.wire->ucx_, why));
}

/// May be called from inside UCX, which does not let an endpoint be closed there.
void UcxWireHere::fail(Connection& which, std::string why) {
  if (which.state == State::kOpen) {
    which.state = State::kFailed;
    which.why = std::move(why);
    ++num_failed_;
    moved_ = true;
  }
}

void UcxWireHere::close(Connection& which) {
  if (!which.dead && which.on_the_way == 0) {
    // UCX may keep a socket whose endpoint is closed, so the other end has to be told. Where the
    // network is full it cannot be.
    post(which, WirePrefix::kBye, {}, {}, nullptr);
  }
  if (which.state == State::kOpen) {
    ++num_failed_;
  }
  which.state = State::kClosing;
  which.closed_at = Clock::now();
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  void* request = ucx_.ep_close_nbx(std::exchange(which.endpoint, nullptr), &param);
  which.closing = UCS_PTR_IS_PTR(request) ? request : nullptr;
}

bool UcxWireHere::is_closed(Connection& which) {
  if (which.closing != nullptr && ucx_.request_check_status(which.closing) != UCS_INPROGRESS) {
    ucx_.request_free(std::exchange(which.closing, nullptr));
  }
  if ((which.closing != nullptr || which.on_the_way != 0) &&
      Clock::now() - which.closed_at < kClosingTime) {
    return false;
  }
  pool_.count_down_all(&which);
  which.state = State::kNone;
  --num_failed_;
  return true;
}

bool UcxWireHere::look_after_failed() {
  bool any = false;
  for (Connection& each : connections_) {
    if (each.state == State::kFailed) {
      close(each);
      any = true;
    }
    if (each.state == State::kClosing && is_closed(each)) {
      any = true;
      if (listener_ != nullptr) {
        calling_back_ = true;
        listener_->on_lost(each.rank,
                           "the connection to the host of rank " + std::to_string(each.rank) +
                               " broke: " + each.why);
        calling_back_ = false;
      }
    }
  }
  return any;
}

void UcxWireHere::close_all(const std::vector<int>& ranks) {
  const bool kept_before = std::exchange(keeping_, true);
  std::vector<Connection*> open;
  for (const int r : ranks) {
    Connection& each = connection(r);
    if (each.state == State::kOpen || each.state == State::kFailed) {
      close(each);
    }
    if (each.state == State::kClosing) {
      each.deaf = true;
      open.push_back(&each);
    }
    std::erase_if(kept_, [r](const Kept& message) { return message.from == r; });
  }
  while (true) {
    std::erase_if(open, [this](Connection* each) { return is_closed(*each); });
    if (open.empty()) {
      break;
    }
    (void)ucx_.worker_progress(worker_->get());
  }
  keeping_ = kept_before;
}

void UcxWireHere::sever(int rank) {
  if (worker_->is_of_this_process() && rank >= 0 &&
      static_cast<std::size_t>(rank) < connections_.size()) {
    const std::lock_guard<std::mutex> lock(mutex_);
    close_all({rank});
  }
}

// ---- sleeping

void UcxWireHere::wait(std::chrono::milliseconds most) {
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

void UcxWireHere::wake() noexcept {
  const std::uint64_t one = 1;
  (void)!write(wake_.get(), &one, sizeof(one));
}

}  // namespace waybill::transport
