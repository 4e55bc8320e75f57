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

/// The way to one wire of another rank. UCX holds its address, so it stays where it is, as long as
/// the worker: an endpoint is not closed before. UCX 1.13 would go on with the socket of a closed
/// one, on which half a message may wait for its rest, and jump through freed memory when that
/// socket breaks.
struct Connection {
  enum class State {
    kOpen,
    kFailed,  ///< on_lost() has to be called
    kOver,
  };

  class UcxMesh* wire = nullptr;
  int rank = -1;
  std::uint64_t incarnation = 0;  ///< of the wire at the other end
  State state = State::kOpen;
  ucp_ep_h endpoint = nullptr;
  std::uint32_t sent = 0;
  std::uint32_t received = 0;
  bool heard = false;      ///< a hello came from there
  bool confirmed = false;  ///< our hello came there
  bool broken = false;     ///< UCX said so: nothing goes through
  std::string why;
  bool unflushed = false;  ///< UCX may still keep bytes of messages that it is done with
  bool flushing = false;
  int handed_over = 0;              ///< messages that UCX is not done with
  Outgoing* borrowing = nullptr;    ///< the one of them whose body it reads where that lies
  std::deque<Outgoing*> waiting{};  ///< messages that it has not got yet
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
      : rank_(rank),
        worker_(std::move(worker)),
        ucx_(worker_->ucx()),
        connections_(static_cast<std::size_t>(world_size)) {}
  ~UcxMesh() override;

  Status start();
  const std::string& address() const noexcept override { return address_; }
  Status connect(const std::vector<std::string>& addresses, const Patience& patience) override;

  void send(int to,
            std::span<const std::byte> head,
            std::span<const std::byte> body,
            std::atomic<std::int64_t>* in_flight) override;
  bool progress() override;
  bool is_idle() const noexcept override {
    return num_handed_over_ + num_waiting_ + num_unflushed_ == 0;
  }
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
  static void flushed(void* request, ucs_status_t status, void* connection);
  static void broke(void* connection, ucp_ep_h endpoint, ucs_status_t why);

  /// Nothing where this thread is inside already, called back by the listener.
  std::unique_lock<std::mutex> enter() {
    return calling_back_ ? std::unique_lock<std::mutex>() : std::unique_lock<std::mutex>(mutex_);
  }
  /// Of this rank, nothing where there is none (yet, or any more).
  Connection* open_connection(int rank) const noexcept;

  Status check_addresses(const std::vector<std::string>& addresses) const;
  Status connect_one(int rank, const std::string& address);
  Status make_endpoint(int rank, const std::string& address);
  Status meet(const std::vector<int>& ranks, const Patience& patience);

  Outgoing* make(Connection& to, WirePrefix::Kind kind, std::span<const std::byte> head);
  void post(Connection& to, Outgoing* message);
  void receive(const WirePrefix& prefix,
               std::span<const std::byte> head,
               std::span<const std::byte> body);
  void deliver(int from, std::span<const std::byte> head, std::span<const std::byte> body);
  bool deliver_kept();

  void hand_over(Outgoing* message);
  void drop_waiting(Connection& which);
  /// Gives UCX what it can take. True when that was something.
  bool hand_over_waiting();
  void flush();

  void fail(Connection& which, std::string why);
  /// Tells the other end, where that can be.
  void end(Connection& which);
  bool tell_lost();

  int rank_;
  std::unique_ptr<UcxWorker> worker_;
  const UcxLibrary& ucx_;
  std::string address_;
  std::uint64_t incarnation_ = 0;
  Descriptor wake_;
  /// Around all use of UCX: wait() arms the worker while another thread may move messages.
  std::mutex mutex_;
  std::vector<Connection*> connections_;  ///< of each rank the last one
  std::vector<std::unique_ptr<Connection>> all_;
  OutgoingPool pool_;
  std::int64_t num_handed_over_ = 0;
  std::int64_t num_waiting_ = 0;
  std::int64_t num_unflushed_ = 0;  ///< connections that are, or are being flushed
  int num_failed_ = 0;
  bool calling_back_ = false;
  bool keeping_ = false;  ///< messages are kept instead of delivered
  bool moved_ = false;
  std::deque<KeptMessage> kept_;
};

}  // namespace waybill::transport
