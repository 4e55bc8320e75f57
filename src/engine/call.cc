#include "engine/call.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/errors.h"
#include "contract/elastic.h"
#include "numerics/kernels.h"
#include "transport/other_hosts.h"
#include "window/checks.h"
#include "window/texts.h"

namespace waybill::engine {

Call::~Call() {
  if (begun_ && !has_left() && (!done_ || is_thrown_out())) {
    // An exception ended the operator in the middle, or a setup goes without its teardown. What was
    // published in place may go with it.
    end(Ending::kBroken, "an operator was left in the middle");
  }
  if (row_of(ending_).leaves == Leaves::kNextCall) {
    session_.leave(stamp_ + 1, departure_text(session_.standing().why_reset()));
  }
  if (begun_) {
    count_time_until(session_.enter(Phase::kIdle, contract::Operator::kNone));
    if (transport::OtherHosts* const others = session_.other_hosts()) {
      others->hand_over();
    }
  }
  if (occupies_) {
    session_.standing().vacate();
  }
}

Status Call::begin() {
  const char* const name = contract::name_of(op_);
  WAYBILL_RETURN_IF_ERROR(session_.occupy(name));
  occupies_ = true;
  WAYBILL_RETURN_IF_ERROR(session_.check_usable(name));
  begun_ = true;
  Standing& standing = session_.standing();
  session_.shipment().clear();
  header_.completed = standing.completed();
  history_ = standing.history();
  standing.begin_call(op_);
  stamp_ = standing.stamp();
  half_ = window::half_of_call(stamp_);
  header_.stamp = stamp_;
  session_.board().begin_call(stamp_);
  // Until its own are known, a call has the members of the one before.
  roll_.set_members(standing.users(1 - half_));
  session_.meter().begin_call();
  enter(Phase::kCheck);
  return {};
}

Status Call::choose_members(const std::optional<TensorView>& elastic_info) {
  // Asking takes the pool's lock: not in every call.
  const std::int64_t damaged_outputs =
      session_.options().checked ? session_.pool().take_damaged() : 0;
  if (damaged_outputs > 0) {
    return damaged("outputs to be written within their bounds, got " +
                   std::to_string(damaged_outputs) + " that were written past their end");
  }
  auto elastic = contract::read_elastic(checker(), elastic_info);
  if (!elastic.ok()) {
    return elastic.status();
  }
  const int num_members = elastic->scaled ? elastic->num_ranks : session_.world_size();
  std::vector<int> missing;
  for (int i = 0; i < num_members; ++i) {
    if (session_.standing().is_absent(elastic->members[i])) {
      missing.push_back(elastic->members[i]);
    }
  }
  if (!missing.empty()) {
    const std::string name = contract::name_of(op_);
    return error(StatusCode::kInvalidState,
                 name,
                 "",
                 name +
                     ": expected a call among the ranks of the last reset, got one that includes " +
                     name_ranks(missing) + " (rank " + std::to_string(session_.rank()) + ")",
                 missing);
  }
  roll_.set_members(elastic->members, num_members);
  return {};
}

void Call::suspend() {
  // Nobody waits now: what the setup published moves by itself.
  if (transport::OtherHosts* const others = session_.other_hosts()) {
    others->end_drive(false);
  }
  count_time_until(session_.enter(Phase::kSignalled, op_));
  occupies_ = false;
  session_.standing().vacate();
}

Status Call::resume(contract::Operator op) {
  WAYBILL_RETURN_IF_ERROR(session_.occupy(contract::name_of(op)));
  occupies_ = true;
  op_ = op;
  return {};
}

/// Publishing, pulling and summing, where the phase that begins ends them.
void Call::count_copying_until(std::chrono::nanoseconds now, Phase next) noexcept {
  const bool copies = next == Phase::kPublish || next == Phase::kPublishRows ||
                      next == Phase::kPull || next == Phase::kPullRows;
  if (copying_since_.count() != 0 && !copies) {
    session_.meter().add_time_copying(now - copying_since_);
    copying_since_ = std::chrono::nanoseconds{0};
  } else if (copying_since_.count() == 0 && copies) {
    copying_since_ = now;
  }
}

void Call::count_time_until(std::chrono::nanoseconds now) noexcept {
  count_copying_until(now, Phase::kIdle);
  if (entered_.count() != 0) {
    session_.meter().add_time_in_calls(now - entered_);
    entered_ = std::chrono::nanoseconds{0};
  }
}

Status Call::make_output(Tensor& output,
                         DType dtype,
                         const Dims& shape,
                         std::optional<std::int64_t> written_bytes) {
  auto made = session_.make_tensor(contract::name_of(op_), dtype, shape, written_bytes);
  if (made.ok()) {
    output = std::move(*made);
  }
  return made.status();
}

Status Call::wait_half() {
  // The last call that used this half; its members read it.
  const Standing& standing = session_.standing();
  const window::Stamp last = window::stamp(standing.epoch(), standing.number() - 2);
  enter(Phase::kWaitHalf);
  Status status = to_status(wait_for(session_,
                                     WordWait{.word = &window::ControlPage::done,
                                              .target = last,
                                              .ranks = standing.users(half_),
                                              .timeout = timeout_,
                                              .ended_is_arrived = true}),
                            Phase::kWaitHalf);
  return status.ok() ? wait_sent(Phase::kWaitHalf) : status;
}

/// Waits until nothing of this call's half is needed any more by what is on its way.
Status Call::wait_sent(Phase phase) {
  transport::OtherHosts* const others = session_.other_hosts();
  if (others == nullptr || others->is_sent(half_)) {
    return {};
  }
  WaitResult result = wait_until_sent(session_, half_, timeout_);
  if (result.end == WaitEnd::kTimeout) {
    result.ranks = roll_.members();
    std::erase_if(result.ranks, [&](int rank) {
      return others->is_sent_to(half_, session_.transport().host_of(rank));
    });
  }
  return to_status(std::move(result), phase);
}

Status Call::reserve_half(std::int64_t bytes, std::int64_t num_rows) {
  window::Region& region = session_.window().halves[half_];
  const std::int64_t wanted =
      session_.options().checked ? window::CheckedTail::of(bytes, num_rows).end : bytes;
  Status status = region.commit(0, wanted);
  if (status.code() == StatusCode::kOutOfMemory) {
    session_.pool().trim();  // free ranges of the pool keep their pages until somebody needs them
    status = region.commit(0, wanted);
  }
  return session_.in_context(contract::name_of(op_), std::move(status));
}

Result<std::byte*> Call::open_half(std::int64_t bytes) {
  WAYBILL_RETURN_IF_ERROR(wait_half());
  enter(Phase::kPublish);
  if (Status status = reserve_half(bytes, header_.num_rows); !status.ok()) {
    return refuse(std::move(status));
  }
  window::Region& region = session_.window().halves[half_];
  if (session_.options().checked) {
    const auto tail = window::CheckedTail::of(bytes, header_.num_rows);
    region.fill(0, region.committed_bytes(), window::kPoison);
    window::write_canary(region.data() + tail.canary.offset);
    header_.checked_end = bytes;
  }
  return region.data();
}

void Call::compare_failures(const Call& first) noexcept {
  history_ += static_cast<std::int64_t>(first.session_.standing().failures()) -
              static_cast<std::int64_t>(session_.standing().failures());
}

void Call::explain_limit(const std::string& text) { session_.board().say(half_, "", text); }

std::string Call::limit_text(int member) const { return roll_.limit_text(member, half_); }

void Call::signal(Describe describe) {
  const std::byte* const half = session_.window().halves[half_].data();
  if (header_.checked_end >= 0 && header_.refused == 0) {
    checked_.seal(session_.window().halves[half_].data(), header_);
  }
  // Also of a call that is refused before its agreement is known.
  header_.agreement[contract::Agreed::kOperator] = static_cast<std::int64_t>(op_);
  header_.agreement[contract::Agreed::kHistory] = history_;
  numerics::stream_fence();  // rows are there before they are sent
  if (describe && header_.refused == 0 && session_.other_hosts() != nullptr) {
    say_mirror_room();
  }
  session_.shipment().send(roll_, header_, half, describe);
  numerics::stream_fence();  // rows are there before the word that says so
  signalled_ = true;
  session_.board().signal(header_);
  enter(Phase::kSignalled);
}

/// Says in the header what this rank has for what it receives for its host.
void Call::say_mirror_room() {
  const transport::MirrorRoom room = session_.other_hosts()->mirror_room(half_, stamp_);
  if (!MirrorDemand::say(room, header_) && header_.says_limit == 0) {
    header_.says_limit = 1;
    explain_limit(session_.pool().describe_shortage(0));
  }
}

Status Call::gather() {
  enter(Phase::kWaitSignals);
  const auto end = std::chrono::steady_clock::now() + timeout_;
  auto& waited = roll_.waited_us();
  std::fill(waited.begin(), waited.end(), 0);
  Status status = to_status(wait_for(session_,
                                     WordWait{.word = &window::ControlPage::signalled,
                                              .target = stamp_,
                                              .ranks = roll_.members(),
                                              .timeout = timeout_,
                                              .waited_us = &waited}),
                            Phase::kWaitSignals);
  raise_performance_info();
  if (!status.ok()) {
    return status;
  }
  if (const int rank = roll_.read(stamp_); rank >= 0) {
    return break_off(StatusCode::kInvalidState,
                     "expected every rank at the same call, got rank " + std::to_string(rank) +
                         " at a later one than this rank's call " +
                         std::to_string(window::call_of(stamp_)) +
                         ": elastic_info left this rank out of some (rank " +
                         std::to_string(session_.rank()) + ")",
                     {rank});
  }
  status = compare_headers();
  const bool alike = status.ok();
  bool fits = true;
  if (alike && session_.other_hosts() != nullptr) {
    status = mirrors_.check(checker(), half_);
    fits = status.ok();
    if (fits) {
      status = gather_mirrors(end);
    }
  }
  if (status.ok() && session_.options().checked && !checked_.tails_are_sane(half_)) {
    status = cannot_be("a rank");
  }
  if (!status.ok() && !has_left()) {
    if (alike && fits) {
      return fail(Ending::kFailedAlone, status);
    }
    // Where all find that ranks differ, or that one has too little memory, nobody waits for rows.
    Status ended = end_reading();
    return ended.ok() ? status : ended;
  }
  enter(Phase::kPull);
  return status;
}

void Call::raise_performance_info() const {
  if (!performance_info_) {
    return;
  }
  // The one argument that an operator writes to.
  auto* values = static_cast<std::int64_t*>(const_cast<void*>(performance_info_->data));
  const std::int64_t stride = performance_info_->strides[0];
  for (int rank = 0; rank < session_.world_size(); ++rank) {
    const std::int64_t waited = roll_.waited_us()[static_cast<std::size_t>(rank)];
    values[rank * stride] = std::max(values[rank * stride], waited);
  }
}

Status Call::compare_headers() {
  if (roll_.agree(header_.agreement)) {
    return {};
  }
  contract::Comparison found = roll_.compare(checker());
  if (found.out_of_step) {
    return fail(Ending::kBroken, found.status);
  }
  const std::vector<int> refusing = roll_.refusing();
  return refusing.empty() ? std::move(found.status) : refusal_of(refusing);
}

/// The error that the refusals of others are for this rank.
Status Call::refusal_of(const std::vector<int>& refusing) {
  const window::Refusal& first = session_.peer(refusing.front()).control->refusals[half_];
  const std::string why = name_ranks(refusing) + ": " + window::read_text(first.text);
  if (roll_.refused_elsewhere()) {
    return break_off(StatusCode::kInvalidState,
                     "expected every rank to go on, got a failure of another group of " + why,
                     refusing);
  }
  const std::string name = contract::name_of(op_);
  return error(StatusCode::kMismatch,
               name,
               window::read_text(first.argument),
               name + ": expected arguments that every rank accepts, got a refusal of " + why,
               refusing);
}

/// Waits for what members of other hosts published, until `end`.
Status Call::gather_mirrors(std::chrono::steady_clock::time_point end) {
  Shipment& shipment = session_.shipment();
  shipment.expect(roll_);
  const auto left =
      std::chrono::ceil<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
  WAYBILL_RETURN_IF_ERROR(to_status(
      wait_for(
          session_,
          ArrivalWait{.target = stamp_, .timeout = std::max(left, std::chrono::milliseconds(1))}),
      Phase::kWaitSignals));
  if (!shipment.stands(roll_, stamp_)) {
    return break_off(StatusCode::kInvalidState,
                     "expected what other hosts sent to arrive, but they gave the call up or went "
                     "on without this rank (rank " +
                         std::to_string(session_.rank()) + ")",
                     {});
  }
  return session_.in_context(contract::name_of(op_), shipment.attach(roll_, stamp_));
}

Status Call::wait_readers(const std::vector<int>& readers) {
  enter(Phase::kWaitReaders);
  std::vector<int>& here = session_.lend_readers_here();
  here = readers;
  std::erase_if(here, [this](int rank) { return session_.transport().is_remote(rank); });
  Status status = to_status(wait_for(session_,
                                     WordWait{.word = &window::ControlPage::done,
                                              .target = stamp_,
                                              .ranks = here,
                                              .timeout = timeout_}),
                            Phase::kWaitReaders);
  return status.ok() ? wait_sent(Phase::kWaitReaders) : status;
}

}  // namespace waybill::engine
