#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "contract/operators.h"
#include "engine/session.h"
#include "engine/wait.h"
#include "waybill/status.h"
#include "window/checks.h"
#include "window/control.h"

namespace waybill::engine {

/// Says what of this rank's half (and of rows in the pool) the members on another host need: fills
/// parcel.extents, takes away what the header says of the pool, and returns where its layout ends.
/// `on_host`: (members,), those that are on it. Borrows a callable: unlike std::function it never
/// allocates.
class Describe {
 public:
  Describe() = default;
  template <typename F>
  Describe(const F& body) noexcept  // NOLINT(google-explicit-constructor): as a lambda stands
      : body_(&body),
        call_([](const void* b,
                 const std::vector<char>& on_host,
                 window::CallHeader& header,
                 transport::Parcel& parcel) -> std::int64_t {
          return (*static_cast<const F*>(b))(on_host, header, parcel);
        }) {}
  explicit operator bool() const noexcept { return body_ != nullptr; }
  std::int64_t operator()(const std::vector<char>& on_host,
                          window::CallHeader& header,
                          transport::Parcel& parcel) const {
    return call_(body_, on_host, header, parcel);
  }

 private:
  const void* body_ = nullptr;
  std::int64_t (*call_)(const void*,
                        const std::vector<char>&,
                        window::CallHeader&,
                        transport::Parcel&) = nullptr;
};

/// One numbered call of a group, from its start to `done`. Every path out of it leaves the protocol
/// in order: a call that is dropped without finish() posts `done` like one that failed locally.
///
///   begin -> choose_members -> (refuse) | open_half -> signal -> gather -> reads -> finish
///   -> (wait_readers)
///
/// Members are the ranks that take part, by their number in the call: all ranks of the group, or
/// those that elastic_info leaves, by their new number.
class Call {
 public:
  Call(Session& session, contract::Operator op) noexcept
      : session_(session), op_(op), timeout_(session.timeout()) {}
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  ~Call();

  /// Takes the next number. On kInvalidState the call never was.
  Status begin();
  /// Takes the members from elastic_info. kInvalidState when a rank that the last reset did not
  /// find is among them.
  Status choose_members(const std::optional<TensorView>& elastic_info);
  /// Publishes that this rank's arguments are bad and gives `why` back. Waits for nobody but, when
  /// the half it needs is still read, its readers.
  Status refuse(Status why);
  /// The same after a failure of another group that this call depends on: all members fail with it
  /// and the group needs a reset.
  Status give_up(Status why);
  /// A failure of another group after this call was published here: the group needs a reset.
  void poison(const Status& why);
  /// In place of the group's timeout.
  void set_timeout(std::chrono::milliseconds timeout) noexcept { timeout_ = timeout; }
  /// (E,) int64: gather() raises its elements to the microseconds waited for each rank.
  void measure(const std::optional<TensorView>& performance_info) noexcept {
    performance_info_ = performance_info;
  }

  /// Between setup and teardown: lets go of the group, and takes it again as `op`.
  void suspend();
  Status resume(contract::Operator op);
  /// This rank reads nothing more; what it published stays.
  void close();
  /// What it published and has not arrived on other hosts never counts there: it may go.
  void withdraw() { session_.transport().cancel(half_); }

  /// The half of this call, free to be written, with `bytes` reserved.
  Result<std::byte*> open_half(std::int64_t bytes);
  /// What signal() publishes; filled by the operator.
  window::CallHeader& header() noexcept { return header_; }
  /// Makes all that was written readable. After this peers may read until they post `done`.
  /// `describe` is asked where members are on other hosts; empty: they need nothing but the header.
  void signal(Describe describe = {});
  /// Checked mode: what signal() makes checksums of, header().num_rows rows. Before signal().
  void published_rows(const std::byte* rows, std::int64_t row_bytes) noexcept {
    rows_ = rows;
    row_bytes_ = row_bytes;
  }
  /// Checked mode: true unless `row`, number `index` of those that `member` published, is not what
  /// it published. Any thread; finish() reports the first one.
  void verify_row(int member, std::int64_t index, const std::byte* row, std::int64_t bytes) const {
    if (session_.options().checked) {
      compare_row(member, index, row, bytes);
    }
  }
  /// False when what `member` published cannot end here: past its window or, in checked mode, where
  /// it computed another end.
  bool ends_at(int member, std::int64_t end) const noexcept {
    const std::int64_t theirs = header_of(member).checked_end;
    return end <= half_bytes_of(member) && (theirs < 0 || theirs == end);
  }
  /// True when `bytes` from `offset` on lie in the pool of `member`, on this host.
  bool lies_in_pool(int member, std::int64_t offset, std::int64_t bytes) const noexcept {
    const transport::PeerMemory& peer = peer_of(member);
    return peer.pool != nullptr && offset >= 0 && offset <= peer.window_bytes - bytes;
  }
  /// Waits for the signal of every member, copies the headers into scratch and compares them.
  Status gather();
  /// Ends the reading: kInvalidState when a publisher moved on meanwhile (nothing that was read may
  /// be used), else posts `done`.
  Status finish();
  /// Waits until `readers` have read the rows that were published in place, or, for those of other
  /// hosts, until these have left. After finish().
  Status wait_readers(const std::vector<int>& readers);
  /// kInternal: what `who` published cannot be.
  Status corrupt(const std::string& who) const;
  /// This rank alone failed after its signal: ends the reading and gives `why` back.
  Status abandon(const Status& why);

  int num_members() const noexcept { return static_cast<int>(session_.scratch().members.size()); }
  /// Position in the group of number `member`.
  int rank_of(int member) const noexcept {
    return session_.scratch().members[static_cast<std::size_t>(member)];
  }
  contract::Operator op() const noexcept { return op_; }
  window::Stamp stamp() const noexcept { return stamp_; }

  /// True once `done` is posted.
  bool is_over() const noexcept { return done_; }
  /// True after a timeout, a loss, an interrupt or a reset: the group needs a reset.
  bool has_failed() const noexcept { return failed_; }

  const window::CallHeader& header_of(int member) const noexcept {
    return session_.scratch().headers[static_cast<std::size_t>(member)];
  }
  const transport::PeerMemory& peer_of(int member) const noexcept {
    return session_.peer(rank_of(member));
  }
  /// Start of the half of this call at `member`.
  const std::byte* half_of(int member) const noexcept { return peer_of(member).halves[half_]; }
  /// How much of it can be read.
  std::int64_t half_bytes_of(int member) const noexcept {
    const transport::PeerMemory& peer = peer_of(member);
    return session_.transport().is_remote(rank_of(member)) ? peer.mirrored_bytes[half_]
                                                           : peer.window_bytes;
  }
  /// Session::make_tensor for an output of this call.
  Status make_output(Tensor& output,
                     DType dtype,
                     const Dims& shape,
                     std::optional<std::int64_t> written_bytes = std::nullopt) {
    auto made = session_.make_tensor(contract::name_of(op_), dtype, shape, written_bytes);
    if (made.ok()) {
      output = std::move(*made);
    }
    return made.status();
  }
  contract::Checker checker() const noexcept { return {op_, session_.facts()}; }
  void enter(Phase phase) {
    const auto now = session_.enter(phase, op_);
    entered_ = entered_.count() == 0 ? now : entered_;
    count_copying_until(now, phase);
  }

 private:
  Status wait_half();
  Status end_reading();
  Status wait_sent(Phase phase);
  void send_to_hosts(Describe describe);
  int choose_agents(int host);
  void add_tail(const window::CallHeader& header, std::int64_t end);
  Status gather_mirrors(std::chrono::steady_clock::time_point end);
  bool mirrors_stand() const;
  bool copy_header(int rank, window::CallHeader& header) const;
  void publish_refusal(const Status& why, std::uint32_t kind);
  void update_performance() const;
  Status to_status(WaitResult result, Phase phase);
  std::string news_of(const std::vector<int>& ranks) const;
  std::string whereabouts(const std::vector<int>& ranks) const;
  void log_wait(const WaitResult& result, Phase phase) const;
  Status fail(StatusCode code, std::string message, std::vector<int> ranks);
  Status compare_headers();
  void compare_row(int member, std::int64_t index, const std::byte* row, std::int64_t bytes) const;
  window::CheckedTail tail_of(int member) const noexcept;
  void write_checksums();
  bool tails_are_sane() const;
  Status check_members() const;
  Status damaged(const std::string& expected) const;
  bool still_valid() const;
  void end();
  void count_time_until(std::chrono::nanoseconds now) noexcept;
  void count_copying_until(std::chrono::nanoseconds now, Phase next) noexcept;

  Session& session_;
  contract::Operator op_;
  std::chrono::milliseconds timeout_;
  std::optional<TensorView> performance_info_;
  std::chrono::nanoseconds entered_{0};        ///< its first phase since begin or resume; 0 between
  std::chrono::nanoseconds copying_since_{0};  ///< 0 where it does not copy
  window::Stamp stamp_ = 0;
  std::size_t half_ = 0;
  bool begun_ = false;
  bool occupies_ = false;
  bool done_ = false;
  bool failed_ = false;
  window::CallHeader header_;
  const std::byte* rows_ = nullptr;
  std::int64_t row_bytes_ = 0;
  mutable std::atomic<std::int64_t> bad_row_{-1};  ///< member in the high half, row in the low half
};

}  // namespace waybill::engine
