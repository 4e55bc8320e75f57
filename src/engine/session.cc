#include "engine/session.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <thread>
#include <utility>

#include "base/cores.h"
#include "base/errors.h"
#include "base/fork.h"
#include "base/futex.h"
#include "engine/wait.h"

namespace waybill::engine {
namespace {

constexpr std::chrono::microseconds kPoll{100};

std::uint64_t next_identity() noexcept {
  // The time tells processes apart, the counter the sessions of one.
  static std::atomic<std::uint64_t> count{0};
  const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
  return static_cast<std::uint64_t>(now) * 0x9e3779b97f4a7c15 + count.fetch_add(1);
}

/// The ranks of a host share its cores; one that is pinned uses no more than its own.
Workers make_workers(const SessionOptions& options,
                     const transport::Transport& transport,
                     int cores) {
  const int ranks = transport.ranks_on_host();
  const int threads =
      options.threads > 0 ? options.threads : std::clamp(cores / ranks, 1, available_cores());
  return Workers(threads, cores >= ranks * threads);
}

void resize(Traffic& traffic, std::size_t ranks) {
  for (auto* counts :
       {&traffic.rows_sent, &traffic.rows_received, &traffic.bytes_sent, &traffic.bytes_received}) {
    counts->resize(ranks);
  }
}

}  // namespace

Session::Session(std::unique_ptr<transport::Transport> transport,
                 std::shared_ptr<window::Window> window,
                 int rank,
                 SessionOptions options)
    : transport_(std::move(transport)),
      window_(std::move(window)),
      rank_(rank),
      options_(std::move(options)),
      cores_(transport_->cores_of_ranks()),
      fork_generation_(fork_generation()),
      identity_(next_identity()),
      timeout_ms_(options_.timeout.count()),
      workers_(make_workers(options_, *transport_, cores_)) {
  const auto ranks = static_cast<std::size_t>(world_size());
  everyone_.resize(ranks);
  std::iota(everyone_.begin(), everyone_.end(), 0);
  for (std::vector<int>& users : half_users) {
    users = everyone_;
  }
  scratch_.members.reserve(ranks);
  scratch_.waited_us.resize(ranks);
  scratch_.waiting.reserve(ranks);
  scratch_.readers.reserve(ranks);
  scratch_.waiting_here.reserve(ranks);
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  page().phase_since.value.store(static_cast<std::uint64_t>(std::chrono::nanoseconds(now).count()),
                                 std::memory_order_relaxed);
  counted.epoch = epoch;
  counted.wait_us.resize(ranks);
  resize(counted.dispatch, ranks);
  resize(counted.combine, ranks);
}

Session::~Session() {
  if (fork_generation_ == fork_generation()) {
    open_setup.reset();  // its call uses the members below
  } else {
    // The parent's threads, mappings and calls are not this process's to end.
    static_cast<void>(transport_.release());  // NOLINT(bugprone-unused-return-value)
    static_cast<void>(open_setup.release());  // NOLINT(bugprone-unused-return-value)
  }
}

Status Session::state_error(const char* op, const std::string& why) const {
  return error(StatusCode::kInvalidState,
               op,
               "",
               std::string(op) + ": " + why + " (rank " + std::to_string(rank_) + ")");
}

contract::GroupFacts Session::facts(const Session* tp) const noexcept {
  contract::GroupFacts facts;
  facts.rank = rank_;
  facts.world_size = world_size();
  facts.tp_rank = tp != nullptr ? tp->rank() : 0;
  facts.tp_world_size = tp != nullptr ? tp->world_size() : 0;
  facts.strict = options_.strict;
  facts.hccl_buffsize_mb = options_.hccl_buffsize_mb;
  return facts;
}

Status Session::check_open(const char* op) const {
  if (fork_generation_ != fork_generation()) {
    return state_error(op,
                       "expected the process that connected the group, got a child forked from it");
  }
  if (closed_) {
    return state_error(op, "expected a group in use, got one that was released");
  }
  return {};
}

Status Session::occupy(const char* op) {
  if (Status status = check_open(op); !status.ok()) {
    return status;
  }
  if (busy.exchange(true, std::memory_order_acquire)) {
    return state_error(op, "expected one call at a time on this group, got a second one");
  }
  return {};
}

Status Session::check_usable(const char* op) const {
  if (!reset_needed.empty()) {
    return state_error(
        op, "expected a reset of the group first, since an earlier call failed: " + reset_needed);
  }
  if (open_setup != nullptr) {
    return state_error(op,
                       std::string("expected ") + contract::name_of(open_setup->teardown()) +
                           ", since a setup is open on this group");
  }
  return {};
}

std::chrono::nanoseconds Session::enter(Phase phase, contract::Operator op) {
  window::ControlPage& own = page();
  own.phase.value.store(static_cast<std::uint64_t>(phase) << 32 | static_cast<std::uint32_t>(op),
                        std::memory_order_relaxed);
  const std::chrono::nanoseconds now = std::chrono::steady_clock::now().time_since_epoch();
  own.phase_since.value.store(static_cast<std::uint64_t>(now.count()), std::memory_order_relaxed);
  if (options_.on_phase) {
    options_.on_phase(phase);
  }
  return now;
}

void Session::enter(Phase phase) {
  const auto op = static_cast<std::uint32_t>(page().phase.value.load(std::memory_order_relaxed));
  enter(phase, static_cast<contract::Operator>(op));
}

void Session::post(window::Word& word, window::Stamp value) {
  word.store(value);
  window::fence_all();
  for (const int rank : everyone_) {
    window::step();
    if (peer(rank).control->asleep.value.load(std::memory_order_relaxed) != 0) {
      futex_wake_all(word.value);
      break;
    }
  }
  if (transport_->spans_hosts()) {
    transport_->posted(word);
  }
}

std::int64_t Session::bytes_of_core(std::int64_t bytes) const noexcept {
  const int ranks = transport_->ranks_on_host();
  return bytes * ranks / std::min(cores_, ranks * workers_.threads());
}

Status Session::in_context(const char* op, Status status) const {
  if (status.ok()) {
    return status;
  }
  ErrorInfo info = status.info();
  info.op = op;
  info.message = info.op + ": " + info.message + " (rank " + std::to_string(rank_) + ")";
  return Status(std::move(info));
}

Result<Tensor> Session::make_tensor(const char* op,
                                    DType dtype,
                                    const Dims& shape,
                                    std::optional<std::int64_t> written_bytes) {
  std::int64_t bytes = size_of(dtype);
  bool fits = true;
  for (int i = 0; i < shape.rank(); ++i) {
    fits = fits && !__builtin_mul_overflow(bytes, shape[i], &bytes);
  }
  auto buffer = pool().allocate(fits ? bytes : std::numeric_limits<std::int64_t>::max() / 2);
  Status status =
      buffer.ok() ? pool().commit(*buffer, written_bytes.value_or(bytes)) : buffer.status();
  if (!status.ok()) {
    return in_context(op, std::move(status));
  }
  return Tensor{std::move(*buffer), dtype, shape};
}

Result<Tensor> Session::expert_buffer(std::int64_t rows, std::int64_t hidden, DType dtype) {
  constexpr const char* kName = "expert_buffer";
  if (Status status = check_open(kName); !status.ok()) {
    return status;
  }
  if (rows < 0 || hidden < 1 || !is_row_dtype(dtype)) {
    return error(StatusCode::kInvalidArgument,
                 kName,
                 rows < 0     ? "rows"
                 : hidden < 1 ? "hidden"
                              : "dtype",
                 std::string(kName) +
                     ": expected rows >= 0, hidden >= 1 and bfloat16, float16 or "
                     "float32, got " +
                     std::to_string(rows) + ", " + std::to_string(hidden) + " and " +
                     name_of(dtype));
  }
  return make_tensor(kName, dtype, {rows, hidden});
}

void Session::close(std::chrono::milliseconds timeout) {
  if (closed_ || fork_generation_ != fork_generation()) {
    return;
  }
  if (open_setup != nullptr) {
    open_setup->end();
  }
  const bool all_read = reset_needed.empty() && wait_for(*this,
                                                         {.word = &window::ControlPage::done,
                                                          .target = window::stamp(epoch, number),
                                                          .ranks = half_users[number % 2],
                                                          .timeout = timeout,
                                                          .ended_is_arrived = true})
                                                        .end == WaitEnd::kArrived;
  if (!all_read && open_setup != nullptr) {
    open_setup->withdraw();
    // Its rows may lie in the pool, and go now: whoever reads on gets an error.
    post(page().left, window::stamp(epoch + 1, 0));
    numerics::stream_fence();
  }
  open_setup.reset();
  flush(timeout);
  closed_ = true;
  pool().trim();
}

/// What was posted last has left this process, also where no thread moves messages.
void Session::flush(std::chrono::milliseconds timeout) {
  if (!transport_->spans_hosts()) {
    return;
  }
  const auto end = std::chrono::steady_clock::now() + timeout;
  transport_->begin_drive();
  bool moved = true;
  while (moved || !transport_->is_idle()) {
    if (std::chrono::steady_clock::now() >= end) {
      break;
    }
    moved = transport_->drive();
    if (!moved) {
      std::this_thread::sleep_for(kPoll);
    }
  }
  transport_->end_drive(true);
}

GroupStats Session::stats() const {
  GroupStats stats;
  {
    const std::lock_guard lock(stats_mutex);
    stats = counted;
  }
  stats.in_call_total_ns = in_call_ns.load(std::memory_order_relaxed);
  stats.copy_total_us = copying_ns.load(std::memory_order_relaxed) / 1000;
  stats.rejoining = transport_->newcomers();
  for (const window::Region& half : window_->halves) {
    stats.window_bytes += half.committed_bytes();
  }
  const window::Pool::Usage pool = window_->pool.usage();
  stats.pool_bytes = pool.reserved_bytes;
  stats.pool_bytes_in_use = pool.in_use_bytes;
  stats.pool_buffers = pool.buffers;
  return stats;
}

std::vector<Route> Session::routes() const {
  std::vector<Route> routes;
  for (int rank = 0; rank < world_size(); ++rank) {
    routes.push_back(transport_->route_to(rank));
    routes.back().how = rank == rank_ ? "self" : routes.back().how;
  }
  return routes;
}

Result<MemoryPlacement> Session::placement() {
  WAYBILL_RETURN_IF_ERROR(occupy("placement"));
  window::Placement windows = window_->control_region.placement();
  for (const window::Region& half : window_->halves) {
    windows.add(half.placement());
  }
  const window::Placement outputs = window_->pool.placement();
  busy.store(false, std::memory_order_release);
  return MemoryPlacement{
      windows.pages, outputs.pages, windows.absent + outputs.absent, window::own_node()};
}

}  // namespace waybill::engine
