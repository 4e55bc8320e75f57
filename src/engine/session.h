#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/cores.h"
#include "base/shortage.h"
#include "contract/check.h"
#include "contract/dispatch_mark.h"
#include "engine/helper_cores.h"
#include "engine/meter.h"
#include "engine/plans.h"
#include "engine/roll_call.h"
#include "engine/shipment.h"
#include "engine/standing.h"
#include "engine/store_choice.h"
#include "engine/workers.h"
#include "numerics/kernels.h"
#include "transport/other_hosts.h"
#include "transport/transport.h"
#include "waybill/group.h"
#include "window/board.h"
#include "window/control.h"
#include "window/window.h"

namespace waybill::engine {

/// Options with every default resolved.
struct SessionOptions {
  std::chrono::milliseconds timeout{300'000};
  int threads = 0;          ///< cores this rank may use inside one operator; 0: its fair share
  std::vector<int> cores;   ///< on which its helpers run; empty: those of the process
  CoreSet process_cores{};  ///< on which this process may run as a whole
  numerics::Kernels kernels;
  std::function<bool()> interrupted;
  std::function<void(Phase)> on_phase;
  std::function<void(const std::string&)> log;  ///< empty: nothing is logged
  bool checked = false;
  Strict strict = Strict::kNone;
  std::int64_t hccl_buffsize_mb = 200;
};

class Call;

/// A setup whose teardown has not come yet. Owner: the Session.
class OpenSetup {
 public:
  OpenSetup() = default;
  OpenSetup(const OpenSetup&) = delete;
  OpenSetup& operator=(const OpenSetup&) = delete;
  virtual ~OpenSetup() = default;
  /// The only operator that is legal now.
  virtual contract::Operator teardown() const noexcept = 0;
  /// The call that both make. What it published stays readable as long as this object.
  virtual Call& open_call() noexcept = 0;
};

/// One rank's part of a group: its window, its peers, where it stands in the protocol, and the
/// memory that calls keep warm. Owner: the Group. Used by one thread at a time, which occupies it;
/// stats() and check_open() from any.
class Session final : private window::Board::Listener {
 public:
  Session(std::unique_ptr<transport::Transport> transport,
          std::shared_ptr<window::Window> window,
          int rank,
          SessionOptions options);
  ~Session();

  int rank() const noexcept { return rank_; }
  int world_size() const noexcept { return transport_->world_size(); }
  /// What the contract has to know of this group and, for calls with TP = 2, of `tp`.
  contract::GroupFacts facts(const Session* tp = nullptr) const noexcept;
  /// Tells this session from every other one.
  std::uint64_t identity() const noexcept { return identity_; }
  transport::Transport& transport() noexcept { return *transport_; }
  /// Null where all ranks are on this host.
  transport::OtherHosts* other_hosts() noexcept { return other_hosts_; }
  const transport::PeerMemory& peer(int rank) const noexcept { return transport_->peer(rank); }
  window::Window& window() noexcept { return *window_; }
  const window::ControlPage& page() const noexcept { return *window_->control; }
  /// Writes this rank's page, wakes the ranks that sleep on it and tells other hosts.
  window::Board& board() noexcept { return window_->board; }
  window::Pool& pool() noexcept { return window_->pool; }
  const SessionOptions& options() const noexcept { return options_; }
  /// How long a call that begins now waits for a living rank.
  std::chrono::milliseconds timeout() const noexcept {
    return std::chrono::milliseconds(timeout_ms_.load(std::memory_order_relaxed));
  }
  void set_timeout(std::chrono::milliseconds timeout) noexcept {
    timeout_ms_.store(timeout.count(), std::memory_order_relaxed);
  }
  /// Every rank of the group, in order.
  const std::vector<int>& everyone() const noexcept { return everyone_; }
  /// True for a rank that makes no call any more: its process has ended, or it released the group.
  bool is_gone(int rank) noexcept {
    return transport_->has_ended(rank) || peer(rank).control->released.load() != 0;
  }

  Standing& standing() noexcept { return standing_; }
  Meter& meter() noexcept { return meter_; }
  // What the calls keep warm. One call uses each at a time; an open setup keeps its plan.
  RollCall& roll_call() noexcept { return roll_call_; }
  Shipment& shipment() noexcept { return shipment_; }
  DispatchPlan& dispatch_plan() noexcept { return dispatch_plan_; }
  CombinePlan& combine_plan() noexcept { return combine_plan_; }
  /// For the ranks that the wait which runs has not seen yet.
  std::vector<int>& lend_missing() noexcept { return missing_; }
  /// For the readers on this host that a call waits for.
  std::vector<int>& lend_readers_here() noexcept { return readers_here_; }

  const numerics::Kernels& kernels() const noexcept { return options_.kernels; }
  Workers& workers() noexcept { return workers_; }
  StoreChoice& stores() noexcept { return stores_; }
  /// Cores that the calling threads of this host's ranks may run on, all together.
  int cores() const noexcept { return cores_; }
  /// Bytes for each core where each rank of this host copies `bytes`.
  std::int64_t bytes_of_core(std::int64_t bytes) const noexcept;

  /// A tensor of the pool with its first `written_bytes` reserved, by default all of it. Errors
  /// carry `op` and the rank.
  Result<Tensor> make_tensor(const char* op,
                             DType dtype,
                             const Dims& shape,
                             std::optional<std::int64_t> written_bytes = std::nullopt);
  /// Reserves the first `bytes` of a tensor of the pool.
  Status reserve(const char* op, const Tensor& tensor, std::int64_t bytes);
  /// An error of the window or the pool with operator and rank added; success as it is.
  Status in_context(const char* op, Status status) const;

  // What Group offers.
  Result<Tensor> expert_buffer(std::int64_t rows, std::int64_t hidden, DType dtype);
  Result<std::vector<int>> reset();
  /// Only when occupied: ends this rank's part of an open setup and waits until living peers have
  /// read what they still need. False when they have not in time; true also where nobody can be
  /// waited for, since the group needs a reset.
  bool wait_for_readers(std::chrono::milliseconds timeout);
  void close(std::chrono::milliseconds timeout);
  /// Moves what is on its way to other hosts.
  void flush(std::chrono::milliseconds timeout);
  GroupStats stats() const;
  std::vector<Route> routes() const;
  Result<MemoryPlacement> placement();

  /// kInvalidState: "operator: why (rank r)".
  Status state_error(const char* op, const std::string& why) const;
  /// kInvalidState when the group was released or this process forked from its owner. Any thread.
  Status check_open(const char* op) const;
  /// Makes this thread the one that runs a call; kInvalidState when another one does. The end of it
  /// is Standing::vacate().
  Status occupy(const char* op);
  /// kInvalidState when an earlier call left the group in need of a reset, or when a setup is open.
  /// Only when occupied.
  Status check_usable(const char* op);
  OpenSetup* open_setup() const noexcept { return open_setup_.get(); }
  void keep_setup(std::unique_ptr<OpenSetup> setup) noexcept { open_setup_ = std::move(setup); }
  std::unique_ptr<OpenSetup> take_setup() noexcept { return std::move(open_setup_); }

  /// Marks the phase for people and tells the hook. Returns the time, which it marks too.
  std::chrono::nanoseconds enter(Phase phase, contract::Operator op);
  /// The next phase of the operator that is marked.
  void enter(Phase phase);
  bool needs_reset() const noexcept { return standing_.needs_reset(); }
  /// Refuses calls from now on until a reset, and notes which resets others concluded without this
  /// rank: `why` tells it so. Only when occupied.
  void need_reset(const std::string& why);
  /// Learns of resets that others concluded without this rank. An error after which the group needs
  /// a reset is what tells a rank so: its next reset does not do so again.
  void note_left_behind() noexcept;
  /// Says that this rank makes no call of this epoch from `from` on, and why: ranks that wait for
  /// one fail. What it published of call `from` may be overwritten then. Once an epoch: what was
  /// said first stands, since readers of that call have to find it.
  void leave(window::Stamp from, const std::string& why);
  /// Wakes ranks that sleep on a word of this one, to look around.
  void wake_waiters();
  /// The current call, in words of contract/dispatch_mark.h.
  contract::DispatchCall dispatch_call() const noexcept {
    return contract::make_dispatch_call(group_hash_, standing_.epoch(), standing_.number());
  }
  /// The current call ended well: `add(GroupStats&)` adds what it moved.
  template <typename Add>
  void complete_call(const Add& add) {
    standing_.complete_call();
    meter_.complete_call(standing_.number(), add);
  }

 private:
  void on_post(const window::Change& change) noexcept override;
  Status setup_is_open(const char* op) const;
  void end_setup();
  void drop_setup(bool all_read);

  std::unique_ptr<transport::Transport> transport_;
  transport::OtherHosts* const other_hosts_;
  std::shared_ptr<window::Window> window_;
  const int rank_;
  const SessionOptions options_;
  const int cores_;
  const CountedGroup counted_group_;
  const int fork_generation_;
  const std::uint64_t identity_;
  const std::uint64_t group_hash_;  ///< of the group's id, the same on all its ranks
  std::atomic<std::int64_t> timeout_ms_;
  std::atomic<bool> closed_{false};
  std::vector<int> everyone_;
  Standing standing_;
  Meter meter_;
  RollCall roll_call_;
  Shipment shipment_;
  DispatchPlan dispatch_plan_;
  CombinePlan combine_plan_;
  std::vector<int> missing_;
  std::vector<int> readers_here_;
  const HelperCores helper_cores_;
  Workers workers_;
  StoreChoice stores_;
  std::unique_ptr<OpenSetup> open_setup_;
};

}  // namespace waybill::engine
