#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/descriptor.h"
#include "transport/ucx/outgoing.h"
#include "transport/ucx/ucx_wire.h"
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

  class UcxMesh* wire = nullptr;
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

/// What open() gives out and connect() takes.
struct AddressHead {
  static constexpr std::uint64_t kMagic = 0x31657269577942ULL;  // changes with WirePrefix
  std::uint64_t magic = kMagic;
  std::uint64_t incarnation = 0;
  std::int32_t rank = 0;
  std::int32_t world_size = 0;
};

/// A message that came while none were delivered.
struct KeptMessage {
  int from;
  std::vector<std::byte> head;
  std::vector<std::byte> body;
};

/// Why UCX gave up, for a reader.
std::string in_words(const UcxLibrary& ucx, ucs_status_t why);

/// The wire where there is UCX: a worker and a connection with each rank.
class UcxMesh final : public UcxWire {
 public:
  UcxMesh(int rank, int world_size, std::unique_ptr<UcxWorker> worker)
      : rank_(rank), worker_(std::move(worker)), ucx_(worker_->ucx()) {
    connections_ = std::vector<Connection>(static_cast<std::size_t>(world_size));
    for (int r = 0; r < world_size; ++r) {
      connections_[static_cast<std::size_t>(r)].wire = this;
      connections_[static_cast<std::size_t>(r)].rank = r;
    }
    given_up_.wire = this;
  }
  ~UcxMesh() override;

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
  Connection given_up_;  ///< of messages that UCX did not end in time
  OutgoingPool pool_;
  std::int64_t on_the_way_ = 0;
  int num_failed_ = 0;  ///< connections in kFailed or kClosing
  bool calling_back_ = false;
  bool keeping_ = false;  ///< messages are kept instead of delivered
  bool moved_ = false;
  std::deque<KeptMessage> kept_;
};

}  // namespace waybill::transport
