#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "contract/operators.h"
#include "engine/session.h"
#include "engine/wait.h"
#include "waybill/status.h"
#include "window/control.h"

namespace waybill::engine {

/// One numbered call of a group, from its start to `done`. Every path out of it leaves the protocol
/// in order: a call that is dropped without finish() posts `done` like one that failed locally.
///
///   begin -> (refuse) | open_half -> signal -> gather -> reads -> finish -> (wait_readers)
class Call {
 public:
  Call(Session& session, contract::Operator op) noexcept : session_(session), op_(op) {}
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  ~Call();

  /// Takes the next number. On kInvalidState the call never was.
  Status begin();
  /// Publishes that this rank's arguments are bad and gives `why` back. Waits for nobody but, when
  /// the half it needs is still read, its readers.
  Status refuse(Status why);

  /// The half of this call, free to be written, with `bytes` reserved.
  Result<std::byte*> open_half(std::int64_t bytes);
  /// What signal() publishes; filled by the operator.
  window::CallHeader& header() noexcept { return header_; }
  /// Makes all that was written readable. After this peers may read until they post `done`.
  void signal();
  /// Waits for the signal of every rank, copies the headers into scratch and compares them.
  Status gather();
  /// Ends the reading: kInvalidState when a publisher moved on meanwhile (nothing that was read may
  /// be used), else posts `done`.
  Status finish();
  /// Waits until `readers` have read the rows that were published in place. After finish().
  Status wait_readers(const std::vector<int>& readers);
  /// This rank alone failed after its signal: ends the reading and gives `why` back.
  Status abandon(const Status& why);

  /// True after a timeout, a loss, an interrupt or a reset: the group needs a reset.
  bool has_failed() const noexcept { return failed_; }

  const window::CallHeader& header_of(int rank) const noexcept {
    return session_.scratch().headers[static_cast<std::size_t>(rank)];
  }
  /// Start of the half of this call at `rank`.
  const std::byte* half_of(int rank) const noexcept { return session_.peer(rank).halves[half_]; }
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
  void enter(Phase phase) { session_.enter(phase, op_); }

 private:
  Status wait_half();
  Status to_status(WaitResult result, Phase phase);
  Status fail(StatusCode code, std::string message, std::vector<int> ranks);
  Status compare_headers();
  bool still_valid() const;
  void end();

  Session& session_;
  const contract::Operator op_;
  window::Stamp stamp_ = 0;
  std::size_t half_ = 0;
  bool begun_ = false;
  bool done_ = false;
  bool failed_ = false;
  window::CallHeader header_;
};

}  // namespace waybill::engine
