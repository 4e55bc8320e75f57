#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "waybill/env.h"
#include "waybill/status.h"
#include "waybill/tensor.h"

namespace waybill {

namespace engine {
class GroupAccess;
class Session;
}  // namespace engine

/// Names one group of ranks for rendezvous. One rank creates it, the program brings it to the
/// others by whatever means it has (a file, a socket, an environment variable, a store).
class UniqueId {
 public:
  /// 128 random bits.
  static UniqueId create();
  /// The same with a TCP address, "host:port" (an IPv6 host in brackets), at which rank 0 can
  /// listen and that the others can reach: ranks find there who is on which host, and need no
  /// all_gather.
  static UniqueId create(std::string address);
  /// The inverse of to_string(); kInvalidArgument for anything else.
  static Result<UniqueId> from_string(std::string_view text);
  /// 32 hexadecimal digits, and "@" and the address where there is one.
  std::string to_string() const;

  std::string digits() const;
  const std::string& address() const noexcept { return address_; }

 private:
  std::array<std::uint8_t, 16> bytes_{};
  std::string address_;
};

/// Where in a call a rank is. In the order in which a call passes through them.
enum class Phase : std::uint32_t {
  kIdle = 0,     ///< between calls
  kCheck,        ///< arguments and routing; nothing is published yet
  kWaitHalf,     ///< waiting until the half of the window is free
  kPublish,      ///< writing into the window: what lies where
  kPublishRows,  ///< writing rows into the window
  kSignalled,    ///< everything published, the signal is out
  kWaitSignals,  ///< waiting for the other ranks' signals
  kPull,         ///< reading what the other ranks published: what lies where
  kPullRows,     ///< reading other ranks' rows
  kWaitReaders,  ///< waiting until the rows published in place have been read
  kReset,        ///< in reset
};
inline constexpr Phase kLastPhase = Phase::kReset;
const char* name_of(Phase phase) noexcept;

/// Brings a text of each rank to every rank: given this rank's own, returns all, by rank.
/// Collective among all ranks of the group, blocking.
using AllGather = std::function<Result<std::vector<std::string>>(const std::string& own)>;

/// Names the host of this process: WAYBILL_HOST, else what is the same for two processes exactly
/// where their ranks can read each other's memory (boot, network namespace, user).
Result<std::string> this_host();

/// How this rank reads what another one publishes.
struct Route {
  std::string host;  ///< name of the rank's host, empty where the group is on one
  std::string how;   ///< "self", "shared memory", "threads of one process", "UCX (tcp)", ...
};

struct GroupOptions {
  /// What people call the group, at most 127 bytes: for tools that look at it from outside.
  std::string name;
  /// How long an operator waits for a living rank. Zero: WAYBILL_TIMEOUT or 300 s. A rank whose
  /// process has ended is noticed within 2 s whatever this is.
  std::chrono::milliseconds timeout{0};
  /// Cores this rank may use inside one operator. 0: WAYBILL_THREADS, or the cores that the
  /// ranks of this host may run on divided by their number; 1 to those of this process.
  int threads = 0;
  /// Cores on which the threads run that help this rank, each pinned to one: the first helper to
  /// the first core, and so on, from the beginning again when there are more. Empty: WAYBILL_CORES,
  /// or those that this process may run on as a whole, shared with the ranks that may run there
  /// too. kInvalidArgument: a core that this process may not use, or one twice.
  std::vector<int> cores;
  /// Address space of each half and of the pool. 0: WAYBILL_WINDOW_BYTES or 64 GiB.
  std::int64_t window_bytes = 0;
  /// (pid, start time in clock ticks since boot, field 22 of /proc/PID/stat) of each rank, where
  /// the program knows them: connect then notices also the end of a rank that never came.
  std::vector<std::pair<std::int32_t, std::uint64_t>> processes;
  /// this_host() of each rank, by rank. Empty: all ranks are on this host. Ranks of different hosts
  /// talk through UCX, which has to be there.
  std::vector<std::string> hosts;
  /// Needed where hosts differ: connect brings the addresses of the ranks to each other.
  AllGather all_gather;
  /// The vendor's limits on top of the contract's. kNone: WAYBILL_STRICT.
  Strict strict = Strict::kNone;
  /// Looks for damage in windows and outputs, at a cost. Also with WAYBILL_CHECK=1.
  bool checked = false;
  /// Asked at least twice a second while an operator waits, on the calling thread. True ends the
  /// wait with kInterrupted.
  std::function<bool()> interrupted;
  /// Called at the start of each phase of a call, on the calling thread. For tests and tracing.
  std::function<void(Phase)> on_phase;
  /// With WAYBILL_LOG=debug gets a line for each wait that slept: who waited for whom. Called on
  /// the thread of the call.
  std::function<void(const std::string&)> log;
};

/// Rows that travelled in one direction, per peer; each vector has an entry a rank, (E,).
struct Traffic {
  std::vector<std::int64_t> rows_sent;      ///< rows the peer pulled from this rank
  std::vector<std::int64_t> rows_received;  ///< rows this rank pulled from the peer
  std::vector<std::int64_t> bytes_sent;     ///< of those rows as they were published
  std::vector<std::int64_t> bytes_received;
};

/// Numbers of this rank since the group was connected.
struct GroupStats {
  std::int64_t calls = 0;      ///< numbered calls made, also those that failed
  std::int64_t completed = 0;  ///< number of the last call that ended well
  std::int64_t epoch = 0;
  std::string needs_reset;     ///< why calls are refused until a reset; empty when they are not
  std::vector<int> absent;     ///< ranks that are not on the list of the last reset
  std::vector<int> rejoining;  ///< ranks whose new process waits for the next reset
  Traffic dispatch;
  Traffic combine;
  std::vector<std::int64_t> wait_us;  ///< (E,) time spent waiting for each rank, microseconds
  std::int64_t bytes_published = 0;   ///< written into this rank's halves, rows only
  std::int64_t bytes_copied = 0;   ///< rows copied from a publisher's memory to their final place
  std::int64_t bytes_reduced = 0;  ///< rows read from publishers' memory by combine's sum
  std::int64_t rows_in_place = 0;  ///< rows that combine published without copying them
  std::int64_t wait_total_us = 0;  ///< time in waits
  std::int64_t copy_total_us = 0;  ///< time publishing, pulling and summing
  std::int64_t in_call_total_ns = 0;   ///< time inside calls, from their begin to their end
  std::int64_t window_bytes = 0;       ///< reserved in both halves
  std::int64_t pool_bytes = 0;         ///< reserved in the pool
  std::int64_t pool_bytes_in_use = 0;  ///< of these, in buffers that somebody holds
  std::int64_t pool_buffers = 0;       ///< buffers that somebody holds
};

/// On which NUMA nodes a rank's memory lies. Lists have an entry a node, as far as the highest one
/// that has any page. Of a large window or pool some 1,000 pages are looked at.
struct MemoryPlacement {
  std::vector<std::int64_t> window_pages;  ///< control page and both halves
  std::vector<std::int64_t> pool_pages;
  std::int64_t unknown_pages = 0;  ///< reserved, and either not in this process or not to be asked
  int node = 0;                    ///< of the core that asked
};

/// A rank's membership in a group. Movable, not copyable.
/// One call at a time per group: a second thread gets kInvalidState. A group does not survive fork:
/// in the child every call is kInvalidState, outputs stay readable.
class Group {
 public:
  /// Collective among the `world_size` processes; blocks until all have come or the timeout passed.
  /// Each gives the same id and its own rank, and the same options.hosts. Memory that peers of the
  /// same host can read travels over an abstract socket; nothing appears in the file system.
  static Result<Group> connect(const UniqueId& id,
                               int rank,
                               int world_size,
                               const GroupOptions& options = {});
  /// The same, meeting at a path that all ranks can write: rank 0 leaves the id there and takes it
  /// away when all have come. A file left by a killed run is replaced.
  static Result<Group> connect(const std::filesystem::path& path,
                               int rank,
                               int world_size,
                               const GroupOptions& options = {});
  /// Takes the place of rank `rank`, whose process has ended, in a group that was connected with
  /// `id`. Blocks until the next reset of the ranks that live has taken this process in, which
  /// starts a new epoch; they find `rank` in stats().rejoining until then. kTimeout: they did not
  /// reset in time. kPeerLost: no rank of the group lives. kInvalidState: the rank's process lives.
  static Result<Group> rejoin(const UniqueId& id,
                              int rank,
                              int world_size,
                              const GroupOptions& options = {});
  /// `world_size` groups of one process, one for each of its threads. Local. With options.hosts
  /// ranks of different ones talk through messages in memory, as they would through a network.
  static Result<std::vector<Group>> local(int world_size, const GroupOptions& options = {});

  Group(Group&&) noexcept;
  Group& operator=(Group&&) noexcept;
  /// close() with 5 seconds.
  ~Group();

  int rank() const noexcept;
  int world_size() const noexcept;

  /// Memory of the pool, (rows, hidden) of `dtype`, contiguous: combine publishes rows in it
  /// without copying them. Local. kOutOfMemory when the limits do not allow it.
  Result<Tensor> expert_buffer(std::int64_t rows, std::int64_t hidden, DType dtype);

  /// Collective among the ranks that live. Waits, up to the timeout, for ranks whose process lives;
  /// the lowest rank present closes the list, and all ranks on it return it. Starts a new epoch; a
  /// rank that is not on the list gets kInvalidState on its current or next call until a reset that
  /// it takes part in. Allowed at any time between calls.
  Result<std::vector<int>> reset();

  /// Local. Waits up to `timeout` until living peers have read what they still need, then gives the
  /// memory back. Tensors that somebody holds stay valid. Further calls are kInvalidState.
  void close(std::chrono::milliseconds timeout);

  /// Local. How long calls that begin from now on wait for a living rank; > 0.
  void set_timeout(std::chrono::milliseconds timeout);
  /// Local, any thread.
  std::chrono::milliseconds timeout() const noexcept;

  // For bindings, where a group may end on another thread than that of its calls, and arguments may
  // be bad before they are arguments of C++.

  /// Local, any thread. From now on calls are kInvalidState, also where the group is not closed
  /// yet. False while a call runs: then nothing has changed.
  bool stop() noexcept;
  /// Local, after stop(). Gives up an open setup, then waits up to `timeout` until living peers
  /// have read what they still need: true when they have, or when nobody can be waited for since
  /// the group needs a reset.
  bool wait_for_readers(std::chrono::milliseconds timeout);
  /// Collective as the operator named `op`, in whose place it is: the other ranks hear that this
  /// rank's `argument` is bad, with what was expected and what it got, and fail too. Gives the
  /// error back. A teardown is no call of its own: its setup stays open, and no other rank hears of
  /// it.
  Status refuse(std::string_view op,
                std::string_view argument,
                std::string_view expected,
                std::string_view got);

  /// Local, any thread.
  GroupStats stats() const;

  /// Local. How this rank reads what each rank publishes, by rank.
  std::vector<Route> routes() const;

  /// Local. kInvalidState while a call runs.
  Result<MemoryPlacement> placement();

 private:
  friend class engine::GroupAccess;
  explicit Group(std::unique_ptr<engine::Session> session) noexcept;

  std::unique_ptr<engine::Session> session_;
};

}  // namespace waybill
