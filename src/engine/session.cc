#include "engine/session.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>
#include <thread>
#include <utility>

#include "base/errors.h"
#include "base/fork.h"
#include "base/futex.h"
#include "engine/call.h"
#include "engine/wait.h"
#include "window/page_reads.h"

namespace waybill::engine {
namespace {

constexpr std::chrono::microseconds kPoll{100};

std::uint64_t next_identity() noexcept {
  // The time tells processes apart, the counter the sessions of one.
  static std::atomic<std::uint64_t> count{0};
  const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
  return static_cast<std::uint64_t>(now) * 0x9e3779b97f4a7c15 + count.fetch_add(1);
}

HelperCores place_helpers(const SessionOptions& options,
                          const transport::Transport& transport,
                          int rank) {
  HelperFacts facts;
  for (int r = 0; r < transport.world_size(); ++r) {
    const window::ControlPage* page = transport.peer(r).control;
    if (transport.is_remote(r) || page == nullptr) {
      continue;
    }
    if (r == rank) {
      facts.own = facts.callers.size();
    }
    facts.callers.push_back(page->identity.cores);
  }
  facts.process = options.process_cores;
  facts.threads = options.threads;
  facts.asked = options.cores;
  return place_helpers(facts);
}

}  // namespace

Session::Session(std::unique_ptr<transport::Transport> transport,
                 std::shared_ptr<window::Window> window,
                 int rank,
                 SessionOptions options)
    : transport_(std::move(transport)),
      other_hosts_(transport_->other_hosts()),
      window_(std::move(window)),
      rank_(rank),
      options_(std::move(options)),
      cores_(transport_->cores_of_ranks()),
      fork_generation_(fork_generation()),
      identity_(next_identity()),
      group_hash_(std::hash<std::string>()(window_->control->identity.id_text())),
      timeout_ms_(options_.timeout.count()),
      standing_(transport_->world_size()),
      meter_(transport_->world_size()),
      roll_call_(*transport_),
      shipment_(*transport_, rank),
      helper_cores_(place_helpers(options_, *transport_, rank)),
      workers_(helper_cores_.threads, helper_cores_.has_cores, helper_cores_.cores_of_helpers) {
  const auto ranks = static_cast<std::size_t>(world_size());
  everyone_.resize(ranks);
  std::iota(everyone_.begin(), everyone_.end(), 0);
  missing_.reserve(ranks);
  readers_here_.reserve(ranks);
  combine_plan_.readers.reserve(ranks);
  board().listen(this);
  board().enter(static_cast<std::uint64_t>(Phase::kIdle) << 32,
                std::chrono::steady_clock::now().time_since_epoch());
}

Session::~Session() {
  if (fork_generation_ == fork_generation()) {
    open_setup_.reset();  // its call uses the members below
  } else {
    // The parent's threads, mappings and calls are not this process's to end.
    static_cast<void>(transport_.release());   // NOLINT(bugprone-unused-return-value)
    static_cast<void>(open_setup_.release());  // NOLINT(bugprone-unused-return-value)
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
  if (!standing_.occupy()) {
    return state_error(op, "expected one call at a time on this group, got a second one");
  }
  return {};
}

Status Session::check_usable(const char* op) {
  if (standing_.needs_reset()) {
    note_left_behind();
    return state_error(op,
                       "expected a reset of the group first, since an earlier call failed: " +
                           standing_.why_reset());
  }
  return open_setup_ != nullptr ? setup_is_open(op) : Status();
}

Status Session::setup_is_open(const char* op) const {
  return state_error(op,
                     std::string("expected ") + contract::name_of(open_setup_->teardown()) +
                         ", since a setup is open on this group");
}

std::chrono::nanoseconds Session::enter(Phase phase, contract::Operator op) {
  const std::chrono::nanoseconds now = std::chrono::steady_clock::now().time_since_epoch();
  board().enter(static_cast<std::uint64_t>(phase) << 32 | static_cast<std::uint32_t>(op), now);
  if (options_.on_phase) {
    options_.on_phase(phase);
  }
  return now;
}

void Session::enter(Phase phase) {
  const auto op = static_cast<std::uint32_t>(page().phase.value.load(std::memory_order_relaxed));
  enter(phase, static_cast<contract::Operator>(op));
}

/// Ranks of this host sleep on two of the words. A store into another one wakes those that sleep on
/// any, so that they look around.
void Session::on_post(const window::Change& change) noexcept {
  if (window::is_slept_on(change.word)) {
    window::fence_all();
    for (const int rank : everyone_) {
      window::step();
      if (peer(rank).control->asleep.value.load(std::memory_order_relaxed) != 0) {
        futex_wake_all(window::word_of(page(), change.word).value);
        break;
      }
    }
  } else {
    wake_waiters();
  }
  if (other_hosts_ != nullptr) {
    other_hosts_->tell(change);
  }
}

void Session::need_reset(const std::string& why) {
  standing_.need_reset(why);
  note_left_behind();
  meter_.need_reset(why);
}

void Session::note_left_behind() noexcept {
  for (const int rank : everyone_) {
    standing_.learn_attempt(window::concluded_by(*peer(rank).control));
  }
}

void Session::leave(window::Stamp from, const std::string& why) {
  const window::Stamp left = page().left.load();
  if (window::epoch_of(left) == standing_.epoch() && window::call_of(left) != 0) {
    return;
  }
  board().leave(from, why);
  numerics::stream_fence();  // before anything that was published is overwritten
}

void Session::wake_waiters() {
  for (const window::Word* word : {&page().signalled, &page().done}) {
    futex_wake_all(word->value);
  }
}

std::int64_t Session::bytes_of_core(std::int64_t bytes) const noexcept {
  const int ranks = transport_->ranks_on_host();
  return bytes * ranks / std::min(helper_cores_.cores, ranks * workers_.threads());
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
  Status status = buffer.status();
  if (const std::int64_t written = written_bytes.value_or(bytes); status.ok() && written > 0) {
    status = pool().commit(*buffer, written);
  }
  if (!status.ok()) {
    return in_context(op, std::move(status));
  }
  return Tensor{std::move(*buffer), dtype, shape};
}

Status Session::reserve(const char* op, const Tensor& tensor, std::int64_t bytes) {
  return in_context(op, pool().commit(tensor.buffer, bytes));
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

namespace {

WaitEnd wait_for_done(Session& session, std::chrono::milliseconds timeout) {
  const Standing& standing = session.standing();
  return wait_for(session,
                  WordWait{.word = &window::ControlPage::done,
                           .target = standing.stamp(),
                           .ranks = standing.users(window::half_of_call(standing.stamp())),
                           .timeout = timeout,
                           .ended_is_arrived = true})
      .end;
}

}  // namespace

/// This rank reads nothing more of an open setup.
void Session::end_setup() {
  if (open_setup_ != nullptr) {
    open_setup_->open_call().drop();
  }
}

/// An open setup goes without its teardown. Its rows may lie in the pool: where not `all_read`,
/// ranks that read on get an error.
void Session::drop_setup(bool all_read) {
  if (open_setup_ == nullptr) {
    return;
  }
  shipment_.cancel(open_setup_->open_call().stamp());
  if (!all_read) {
    board().forgo_setup(standing_.epoch());
    numerics::stream_fence();
  }
  open_setup_.reset();
}

bool Session::wait_for_readers(std::chrono::milliseconds timeout) {
  if (closed_ || fork_generation_ != fork_generation()) {
    return true;
  }
  end_setup();
  if (standing_.needs_reset()) {
    return true;
  }
  const WaitEnd end = wait_for_done(*this, timeout);
  return end != WaitEnd::kTimeout && end != WaitEnd::kInterrupted;
}

void Session::close(std::chrono::milliseconds timeout) {
  if (closed_ || fork_generation_ != fork_generation()) {
    return;
  }
  end_setup();
  drop_setup(!standing_.needs_reset() && wait_for_done(*this, timeout) == WaitEnd::kArrived);
  board().release();
  flush(timeout);
  closed_ = true;
  pool().trim();
}

/// What was posted last has left this process, also where no thread moves messages.
void Session::flush(std::chrono::milliseconds timeout) {
  if (other_hosts_ == nullptr) {
    return;
  }
  const auto end = std::chrono::steady_clock::now() + timeout;
  other_hosts_->begin_drive();
  bool moved = true;
  while (moved || !other_hosts_->is_idle()) {
    if (std::chrono::steady_clock::now() >= end) {
      break;
    }
    moved = other_hosts_->drive();
    if (!moved) {
      std::this_thread::sleep_for(kPoll);
    }
  }
  other_hosts_->end_drive(true);
}

GroupStats Session::stats() const {
  GroupStats stats = meter_.snapshot();
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
  standing_.vacate();
  return MemoryPlacement{
      windows.pages, outputs.pages, windows.absent + outputs.absent, window::own_node()};
}

}  // namespace waybill::engine
