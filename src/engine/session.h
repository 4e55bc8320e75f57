#pragma once

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
#include "engine/workers.h"
#include "numerics/kernels.h"
#include "routing/receive_plan.h"
#include "routing/send_plan.h"
#include "transport/transport.h"
#include "waybill/group.h"
#include "window/control.h"
#include "window/window.h"

namespace waybill::engine {

/// Options with every default resolved.
struct SessionOptions {
  std::chrono::milliseconds timeout{300'000};
  int threads = 1;  ///< cores this rank may use inside one operator
  int cores = 1;    ///< cores this process may run on
  numerics::Kernels kernels;
  std::function<bool()> interrupted;
  std::function<void(Phase)> on_phase;
};

/// Scratch of calls, kept so that a warm call does not allocate.
struct Scratch {
  std::vector<window::CallHeader> headers;  ///< (E,) of the current call
  std::vector<contract::Agreement> agreements;
  std::vector<int> waiting;
  std::vector<int> readers;
  routing::SendCounts counts;
  std::vector<std::int32_t> cursor;
  std::vector<routing::SourceRouting> sources;
  std::vector<routing::Cell> cells;
  std::vector<std::int32_t> owner_offsets;  ///< combine: rows of this rank by their owner
  std::vector<std::int64_t> received_rows;  ///< combine: rows read from each rank
  std::vector<const std::byte*> rows;       ///< combine: where the row of (token, slot) lies
  std::vector<const std::byte*> scales;     ///< the same for comm_quant_mode's scales
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
  contract::GroupFacts facts() const noexcept { return {rank_, world_size()}; }
  transport::Transport& transport() noexcept { return *transport_; }
  const transport::PeerMemory& peer(int rank) const noexcept { return transport_->peer(rank); }
  window::Window& window() noexcept { return *window_; }
  window::ControlPage& page() noexcept { return *window_->control; }
  window::Pool& pool() noexcept { return window_->pool; }
  const SessionOptions& options() const noexcept { return options_; }
  const numerics::Kernels& kernels() const noexcept { return options_.kernels; }
  Workers& workers() noexcept { return workers_; }
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
  GroupStats stats() const;

  /// kInvalidState when the group was released or this process forked from its owner. Any thread.
  Status check_open(const char* op) const;
  /// Makes this thread the one that runs a call; kInvalidState when another one does.
  Status occupy(const char* op);
  /// kInvalidState when an earlier call left the group in need of a reset. Only when occupied.
  Status check_usable(const char* op) const;
  /// Marks the phase for people and tells the hook.
  void enter(Phase phase, contract::Operator op);
  /// Posts `word` of this rank's page and wakes whoever sleeps on it.
  void post(window::Word& word, window::Stamp value);

  // Protocol state, used by Call and Reset.
  std::uint32_t epoch = 1;
  std::uint32_t number = 0;  ///< of the last call
  std::string reset_needed;  ///< why calls are refused until a reset; empty when they are not
  std::uint32_t known_attempt = 0;  ///< last reset attempt this rank knows the end of
  std::vector<int> absent;          ///< ranks that are not on the list of the last reset
  std::atomic<bool> busy{false};    ///< a call is running

  // Counted by calls; guarded by stats_mutex.
  mutable std::mutex stats_mutex;
  GroupStats counted;

 private:
  Status state_error(const char* op, const std::string& why) const;

  std::unique_ptr<transport::Transport> transport_;
  std::shared_ptr<window::Window> window_;
  const int rank_;
  const SessionOptions options_;
  const int fork_generation_;
  std::atomic<bool> closed_{false};
  std::vector<int> everyone_;
  Workers workers_;
  Scratch scratch_;
};

}  // namespace waybill::engine
