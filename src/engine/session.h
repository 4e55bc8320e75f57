#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "contract/check.h"
#include "engine/store_choice.h"
#include "engine/workers.h"
#include "numerics/kernels.h"
#include "routing/receive_plan.h"
#include "routing/send_plan.h"
#include "transport/transport.h"
#include "waybill/group.h"
#include "window/control.h"
#include "window/layout.h"
#include "window/window.h"

namespace waybill::engine {

/// Options with every default resolved.
struct SessionOptions {
  std::chrono::milliseconds timeout{300'000};
  int threads = 0;  ///< cores this rank may use inside one operator; 0: its fair share
  numerics::Kernels kernels;
  std::function<bool()> interrupted;
  std::function<void(Phase)> on_phase;
  std::function<void(const std::string&)> log;  ///< empty: nothing is logged
  bool checked = false;
  Strict strict = Strict::kNone;
  std::int64_t hccl_buffsize_mb = 200;
};

/// Where what a member of a combine returns begins.
struct ReturnSource {
  const std::byte* rows;
  const std::byte* scales;     ///< with comm_quant_mode
  const std::int32_t* counts;  ///< where rows are found by occurrence
};

/// Scratch of calls, kept so that a warm call does not allocate.
struct Scratch {
  std::vector<int> members;                 ///< ranks of the current call, by their number in it
  std::vector<window::CallHeader> headers;  ///< a member each
  std::vector<contract::Agreement> agreements;
  std::vector<std::int64_t> waited_us;  ///< (E,) for each rank of the group
  std::vector<int> waiting;
  std::vector<int> readers;
  routing::SendCounts counts;
  std::vector<std::int32_t> cursor;
  std::vector<window::DispatchLayout> dispatch_layouts;  ///< a member each
  std::vector<window::CombineLayout> combine_layouts;    ///< a member each
  std::vector<routing::SourceRouting> sources;
  std::vector<routing::Cell> cells;
  std::vector<std::int32_t> owner_offsets;  ///< combine: rows of this rank by their owner
  std::vector<std::int64_t> received_rows;  ///< combine: rows read from each rank
  std::vector<int> agents;            ///< a member each: who receives for this host; -1 on this one
  std::vector<int> waiting_here;      ///< readers of this host
  std::vector<int> arriving;          ///< ranks of other hosts of which something has to arrive
  std::vector<char> on_host;          ///< a member each
  std::vector<char> travels;          ///< a row each: it is meant for the host at hand
  transport::Parcel parcel;           ///< for the host at hand
  std::vector<ReturnSource> returns;  ///< combine: a member each
  std::vector<const std::byte*> rows;    ///< combine: where the row of (token, slot) lies
  std::vector<const std::byte*> scales;  ///< the same for comm_quant_mode's scales
};

/// A setup whose teardown has not come yet.
class OpenSetup {
 public:
  OpenSetup() = default;
  OpenSetup(const OpenSetup&) = delete;
  OpenSetup& operator=(const OpenSetup&) = delete;
  virtual ~OpenSetup() = default;
  /// The only operator that is legal now.
  virtual contract::Operator teardown() const noexcept = 0;
  /// Ends this rank's part. What it published stays readable as long as this object.
  virtual void end() = 0;
  /// Before this object goes without its teardown: what is on its way to other hosts never counts.
  virtual void withdraw() = 0;
};

/// One rank's state of a group: its window, what it knows of its peers, where it is in the
/// protocol. Used by one thread at a time; stats() from any.
class Session {
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
  const transport::PeerMemory& peer(int rank) const noexcept { return transport_->peer(rank); }
  window::Window& window() noexcept { return *window_; }
  window::ControlPage& page() noexcept { return *window_->control; }
  window::Pool& pool() noexcept { return window_->pool; }
  const SessionOptions& options() const noexcept { return options_; }
  /// How long a call that begins now waits for a living rank.
  std::chrono::milliseconds timeout() const noexcept {
    return std::chrono::milliseconds(timeout_ms_.load(std::memory_order_relaxed));
  }
  void set_timeout(std::chrono::milliseconds timeout) noexcept {
    timeout_ms_.store(timeout.count(), std::memory_order_relaxed);
  }
  const numerics::Kernels& kernels() const noexcept { return options_.kernels; }
  Workers& workers() noexcept { return workers_; }
  /// Cores that the ranks of this host may run on, all together.
  int cores() const noexcept { return cores_; }
  /// What a core copies where every rank of this host copies so many bytes.
  std::int64_t bytes_of_core(std::int64_t bytes) const noexcept;
  StoreChoice& stores() noexcept { return stores_; }
  Scratch& scratch() noexcept { return scratch_; }

  /// Every rank of the group, in order.
  const std::vector<int>& everyone() const noexcept { return everyone_; }

  /// A tensor of the pool with its first `written_bytes` reserved, by default all of it. Errors
  /// carry `op` and the rank.
  Result<Tensor> make_tensor(const char* op,
                             DType dtype,
                             const Dims& shape,
                             std::optional<std::int64_t> written_bytes = std::nullopt);
  /// An error of the window or the pool with operator and rank added; success as it is.
  Status in_context(const char* op, Status status) const;
  Result<Tensor> expert_buffer(std::int64_t rows, std::int64_t hidden, DType dtype);
  Result<std::vector<int>> reset();
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
  /// Makes this thread the one that runs a call; kInvalidState when another one does.
  Status occupy(const char* op);
  /// kInvalidState when an earlier call left the group in need of a reset, or when a setup is open.
  /// Only when occupied.
  Status check_usable(const char* op) const;
  /// Marks the phase for people and tells the hook. Returns the time, which it marks too.
  std::chrono::nanoseconds enter(Phase phase, contract::Operator op);
  /// The next phase of the operator that is marked.
  void enter(Phase phase);
  /// Posts `word` of this rank's page and wakes whoever sleeps on it.
  void post(window::Word& word, window::Stamp value);

  // Protocol state, used by Call and Reset.
  std::uint32_t epoch = 1;
  std::uint32_t number = 0;  ///< of the last call
  std::string reset_needed;  ///< why calls are refused until a reset; empty when they are not
  std::uint32_t known_attempt = 0;             ///< last reset attempt this rank knows the end of
  std::vector<int> absent;                     ///< ranks that are not on the list of the last reset
  std::array<std::vector<int>, 2> half_users;  ///< ranks of the call that last used each half
  std::unique_ptr<OpenSetup> open_setup;
  std::atomic<bool> busy{false};            ///< a call is running
  std::atomic<std::int64_t> in_call_ns{0};  ///< GroupStats::in_call_total_ns
  std::atomic<std::int64_t> copying_ns{0};  ///< GroupStats::copy_total_us

  // Counted by calls; guarded by stats_mutex.
  mutable std::mutex stats_mutex;
  GroupStats counted;

 private:
  std::unique_ptr<transport::Transport> transport_;
  std::shared_ptr<window::Window> window_;
  const int rank_;
  const SessionOptions options_;
  const int cores_;
  const int fork_generation_;
  const std::uint64_t identity_;
  std::atomic<std::int64_t> timeout_ms_;
  std::atomic<bool> closed_{false};
  std::vector<int> everyone_;
  Workers workers_;
  StoreChoice stores_;
  Scratch scratch_;
};

}  // namespace waybill::engine
