#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "contract/operators.h"
#include "engine/checked_rows.h"
#include "engine/mirror_demand.h"
#include "engine/roll_call.h"
#include "engine/session.h"
#include "engine/shipment.h"
#include "engine/wait.h"
#include "waybill/status.h"
#include "window/control.h"

namespace waybill::engine {

/// How a call ends for this rank.
enum class Ending {
  kOpen,              ///< it has not ended
  kDone,              ///< well
  kRefused,           ///< this rank refused it before its signal: it fails on all members
  kRefusedElsewhere,  ///< the same because another group failed that the call depends on
  kFailedTogether,    ///< every member finds the same error in the headers of all
  kFailedAlone,       ///< this rank fails after its signal; others may end the call well
  kBroken,            ///< a wait failed, or the operator was left in the middle
  kGivenBack,         ///< a setup goes without its teardown; its rows stay as long as it does
};

/// From which call on a rank says that it left.
enum class Leaves {
  kNot,
  kThisCall,  ///< at once: what it published of this call may be overwritten
  kNextCall,  ///< when the call object goes, after a wait for readers: others may end this call
};

struct EndingRow {
  Ending ending;
  Leaves leaves;
  bool cancels;      ///< what is on its way to other hosts never counts there
  bool needs_reset;  ///< of the group, on this rank
};

/// What every ending does beside `done`, which each of them posts once.
inline constexpr EndingRow kEndings[] = {
    {Ending::kOpen, Leaves::kNot, false, false},
    {Ending::kDone, Leaves::kNot, false, false},
    {Ending::kRefused, Leaves::kNot, false, false},
    {Ending::kRefusedElsewhere, Leaves::kNextCall, false, true},
    {Ending::kFailedTogether, Leaves::kNot, false, false},
    {Ending::kFailedAlone, Leaves::kNextCall, false, true},
    {Ending::kBroken, Leaves::kThisCall, true, true},
    {Ending::kGivenBack, Leaves::kNot, false, false},
};

constexpr const EndingRow& row_of(Ending ending) noexcept {
  return kEndings[static_cast<std::size_t>(ending)];
}

/// One numbered call of a group, from its number to its ending. Every path out of it leaves the
/// protocol in order, also the destructor's. Owner: the operator that makes the call; with an open
/// setup, the Session.
///
///   begin -> choose_members -> (refuse) | open_half -> signal -> gather -> reads -> finish
///   -> (wait_readers)
///
/// Four verbs end it: refuse, finish, fail and drop (kEndings). No rank fails alone and goes on:
/// before its signal a rank can refuse the call, which then fails on all members. After it either
/// all members find the same error, or this rank alone fails, also where a call is destroyed
/// without an ending: then it makes no further call before a reset and tells the others so, who
/// fail in their next call.
class Call {
 public:
  Call(Session& session, contract::Operator op) noexcept
      : session_(session),
        roll_(session.roll_call()),
        checked_(roll_),
        mirrors_(roll_, session.transport()),
        op_(op),
        timeout_(session.timeout()) {}
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  ~Call();

  /// Takes the next number. On kInvalidState the call never was.
  Status begin();
  /// Takes the members from elastic_info. kInvalidState when a rank that the last reset did not
  /// find is among them.
  Status choose_members(const std::optional<TensorView>& elastic_info);
  /// In place of the group's timeout.
  void set_timeout(std::chrono::milliseconds timeout) noexcept { timeout_ = timeout; }
  /// (E,) int64: gather() raises its elements to the microseconds waited for each rank.
  void measure(const std::optional<TensorView>& performance_info) noexcept {
    performance_info_ = performance_info;
  }

  /// Publishes that this rank's arguments are bad, or with kRefusedElsewhere that another group
  /// failed, and gives `why` back. Waits for nobody but, when the half it needs is still read, its
  /// readers.
  Status refuse(Status why, Ending ending = Ending::kRefused);
  /// Ends the reading: kInvalidState when a publisher moved on meanwhile (nothing that was read may
  /// be used), else posts `done`.
  Status finish();
  /// Ends the call with an error and gives it back, or the error that this leads to.
  /// kFailedTogether: an error that every member finds in the headers of all; the group goes on.
  /// kFailedAlone: of this rank alone after its signal. kBroken: at once, also where others read
  /// what it published; they fail.
  Status fail(Ending ending, const Status& why);
  /// This rank reads nothing more; what it published stays.
  void drop();

  /// Between setup and teardown: lets go of the group, and takes it again as `op`.
  void suspend();
  Status resume(contract::Operator op);

  /// The half of this call, free to be written, with `bytes` reserved.
  Result<std::byte*> open_half(std::int64_t bytes);
  /// Memory for a layout of `bytes` with `num_rows` rows in the half of this call, which may still
  /// be read: open_half() of no more than that finds it there.
  Status reserve_half(std::int64_t bytes, std::int64_t num_rows);
  /// Of a call in a second group: adds to what its header says of earlier calls how many calls of
  /// the `first` group failed and were not made here. The peer did not hear of those, and would
  /// take this call for one of them.
  void compare_failures(const Call& first) noexcept;
  /// What signal() publishes; filled by the operator.
  window::CallHeader& header() noexcept { return header_; }
  /// Why this rank has memory for no more than header() says (rows_limit, mirror_limit), and the
  /// text of a member; empty where it says nothing.
  void explain_limit(const std::string& text);
  std::string limit_text(int member) const;
  /// Makes all that was written readable. After this peers may read until they post `done`.
  /// `describe` is asked where members are on other hosts; empty: they need nothing but the header.
  void signal(Describe describe = {});
  /// Waits for the signal of every member, reads the headers and compares them.
  Status gather();
  /// Waits until `readers` have read the rows that were published in place, or, for readers of
  /// other hosts, until the rows have been sent to them. After finish().
  Status wait_readers(const std::vector<int>& readers);

  /// Checked mode: the rows, header().num_rows of them, of which signal() makes checksums.
  void published_rows(const std::byte* rows, std::int64_t row_bytes) noexcept {
    checked_.note_published(rows, row_bytes);
  }
  /// Checked mode: notes where `row`, number `index` of those that `member` published, is not what
  /// it published. Any thread; finish() reports the first one.
  void verify_row(int member, std::int64_t index, const std::byte* row, std::int64_t bytes) const {
    if (session_.options().checked) {
      checked_.verify(half_, member, index, row, bytes);
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
  /// Dispatch: granules that what `member` receives for its host needs beyond what it has beside
  /// memory for rows_limit rows. After gather().
  std::int64_t mirrors_beside(int member) const { return mirrors_.beside(member); }
  /// kInternal: what `who` published cannot be.
  Status cannot_be(const std::string& who) const;

  int num_members() const noexcept { return roll_.size(); }
  int rank_of(int member) const noexcept { return roll_.rank_of(member); }
  const window::CallHeader& header_of(int member) const noexcept { return roll_.header_of(member); }
  const transport::PeerMemory& peer_of(int member) const noexcept { return roll_.peer_of(member); }
  /// Start of the half of this call at `member`, and how much of it can be read.
  const std::byte* half_of(int member) const noexcept { return roll_.half_of(member, half_); }
  std::int64_t half_bytes_of(int member) const noexcept {
    return roll_.half_bytes_of(member, half_);
  }
  contract::Operator op() const noexcept { return op_; }
  window::Stamp stamp() const noexcept { return stamp_; }

  /// True where begin() failed because the group needs a reset.
  bool waits_for_reset() const noexcept { return occupies_ && !begun_ && session_.needs_reset(); }
  bool is_signalled() const noexcept { return signalled_; }
  /// True when nobody may use what this rank published of this call: after a timeout, a loss, an
  /// interrupt, a reset.
  bool has_left() const noexcept { return row_of(ending_).leaves == Leaves::kThisCall; }
  /// True while an exception ends the operator, after which this object and what it works with go.
  bool is_thrown_out() const noexcept { return std::uncaught_exceptions() > exceptions_; }
  /// True when the group needs a reset because of this call.
  bool needs_reset() const noexcept { return row_of(ending_).needs_reset; }

  /// Session::make_tensor for an output of this call.
  Status make_output(Tensor& output,
                     DType dtype,
                     const Dims& shape,
                     std::optional<std::int64_t> written_bytes = std::nullopt);
  contract::Checker checker() const noexcept { return {op_, session_.facts()}; }
  void enter(Phase phase) {
    const auto now = session_.enter(phase, op_);
    entered_ = entered_.count() == 0 ? now : entered_;
    count_copying_until(now, phase);
  }

 private:
  Status wait_half();
  Status wait_sent(Phase phase);
  Status gather_mirrors(std::chrono::steady_clock::time_point end);
  void say_mirror_room();
  Status compare_headers();
  Status refusal_of(const std::vector<int>& refusing);
  Status publishers_moved_on();
  Status end_reading();
  void end(Ending ending, const std::string& why);
  void post_done();
  Status fail_alone(const Status& why);
  Status break_off(StatusCode code, const std::string& message, std::vector<int> ranks);
  void raise_performance_info() const;
  Status to_status(WaitResult result, Phase phase);
  void log_wait(const WaitResult& result, Phase phase) const;
  std::string departure_text(const std::string& why) const;
  Status damaged(const std::string& expected) const;
  void count_time_until(std::chrono::nanoseconds now) noexcept;
  void count_copying_until(std::chrono::nanoseconds now, Phase next) noexcept;

  Session& session_;
  RollCall& roll_;
  CheckedRows checked_;
  MirrorDemand mirrors_;
  contract::Operator op_;
  std::chrono::milliseconds timeout_;
  std::optional<TensorView> performance_info_;
  std::chrono::nanoseconds entered_{0};        ///< its first phase since begin or resume; 0 between
  std::chrono::nanoseconds copying_since_{0};  ///< 0 where it does not copy
  window::Stamp stamp_ = 0;
  std::size_t half_ = 0;
  const int exceptions_ = std::uncaught_exceptions();  ///< when it was made
  bool begun_ = false;
  bool occupies_ = false;
  bool signalled_ = false;
  bool done_ = false;  ///< `done` is posted
  Ending ending_ = Ending::kOpen;
  std::int64_t history_ = 0;  ///< of the group when this call began
  window::CallHeader header_;
};

}  // namespace waybill::engine
