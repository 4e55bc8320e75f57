// How a call ends: the four verbs, and waits that do not end well.

#include <array>
#include <cstdio>
#include <string>
#include <utility>

#include "base/errors.h"
#include "base/table.h"
#include "engine/call.h"
#include "engine/peer_news.h"
#include "transport/other_hosts.h"

namespace waybill::engine {
namespace {

static_assert(rows_are_in_order(kEndings, &EndingRow::ending));

const char* phase_text(Phase phase) {
  switch (phase) {
    case Phase::kWaitHalf:
      return "waiting until an earlier call's rows were read";
    case Phase::kWaitReaders:
      return "waiting until its rows were read";
    default:
      return "waiting for signals";
  }
}

}  // namespace

void Call::post_done() {
  if (!done_) {
    done_ = true;
    session_.standing().use(half_, roll_.members());
    session_.board().end_reading(stamp_);
  }
}

/// Does what the row of `ending` says, and posts `done`. A later ending may be a worse one.
void Call::end(Ending ending, const std::string& why) {
  const EndingRow& row = row_of(ending);
  ending_ = ending;
  if (row.needs_reset) {
    session_.need_reset(why);
  }
  if (row.cancels) {
    session_.shipment().cancel(stamp_);
  }
  if (row.leaves == Leaves::kThisCall) {
    // `left` before anything that this call published can be reused: readers look at it after
    // their reads (RollCall::stands).
    session_.leave(stamp_, departure_text(why));
  }
  post_done();
}

Status Call::refuse(Status why, Ending ending) {
  if (Status status = wait_half(); !status.ok()) {
    return why;  // the bad argument is the nearer cause; the group says that it needs a reset
  }
  header_.refused =
      ending == Ending::kRefusedElsewhere ? window::kFailedElsewhere : window::kRefusedArguments;
  session_.board().say(half_, why.info().argument, why.message());
  signal();
  end(ending, why.message());
  return why;
}

Status Call::finish() {
  WAYBILL_RETURN_IF_ERROR(end_reading());
  transport::OtherHosts* const others = session_.other_hosts();
  if (others != nullptr) {
    others->confirm(half_, stamp_, mirrors_.any());
  }
  if (others == nullptr || !others->needs_driver()) {
    return {};
  }
  // Where only calls move messages, no thread would take the rest of this rank's rows to other
  // hosts after it, nor what the wire got last.
  Status sent = wait_sent(Phase::kWaitReaders);
  others->end_drive(false);
  return sent;
}

/// The second look, then `done`.
Status Call::end_reading() {
  if (!roll_.stands(stamp_) || !session_.shipment().stands(roll_, stamp_)) {
    return publishers_moved_on();
  }
  const std::string damage =
      session_.options().checked ? checked_.find_damage(half_, session_.shipment()) : std::string();
  end(Ending::kDone, "");
  return damage.empty() ? Status() : fail_alone(damaged(damage));
}

Status Call::publishers_moved_on() {
  // A publisher that gave up may have done so because of a rank that ended.
  std::vector<int> gone = roll_.members();
  std::erase_if(gone,
                [this](int rank) { return rank == session_.rank() || !session_.is_gone(rank); });
  if (!gone.empty()) {
    return break_off(StatusCode::kPeerLost,
                     name_ranks(gone) + " ended while rows were read" + news_of(session_, gone),
                     gone);
  }
  const std::vector<int> left = roll_.left(stamp_);
  const std::string why = left.empty() ? "others went on without it" : departures(session_, left);
  return break_off(StatusCode::kInvalidState,
                   "expected every rank to stay until this rank had read its rows, but others gave "
                   "the call up meanwhile: " +
                       why,
                   left);
}

Status Call::fail(Ending ending, const Status& why) {
  switch (ending) {
    case Ending::kFailedTogether: {
      Status ended = finish();
      if (ended.ok()) {
        ending_ = ending;
      }
      return ended.ok() ? why : ended;
    }
    case Ending::kFailedAlone: {
      if (needs_reset()) {
        return why;
      }
      if (Status ended = done_ ? Status() : finish(); !ended.ok() && needs_reset()) {
        return ended;
      }
      return fail_alone(why);
    }
    default:
      if (!has_left()) {
        end(Ending::kBroken, why.message());
      }
      return why;
  }
}

/// After `done`: others may end the call well, since what this rank published stays readable.
Status Call::fail_alone(const Status& why) {
  ErrorInfo info = why.info();
  info.message += "; the other ranks may have completed this call, so the group needs a reset";
  end(Ending::kFailedAlone, info.message);
  return Status(std::move(info));
}

void Call::drop() {
  if (begun_ && !done_) {
    end(Ending::kGivenBack, "");
  }
}

Status Call::break_off(StatusCode code, const std::string& message, std::vector<int> ranks) {
  const std::string name = contract::name_of(op_);
  return fail(Ending::kBroken, error(code, name, "", name + ": " + message, std::move(ranks)));
}

Status Call::to_status(WaitResult result, Phase phase) {
  if (result.waited.count() > 0) {
    session_.meter().wait(result.waited);
  }
  if (session_.options().log && !result.slept_for.empty()) {
    log_wait(result, phase);
  }
  if (result.end == WaitEnd::kArrived) {
    return {};
  }
  const std::string when = std::string(" (") + phase_text(phase) + ", call " +
                           std::to_string(session_.standing().number()) + ", epoch " +
                           std::to_string(session_.standing().epoch()) + ", rank " +
                           std::to_string(session_.rank()) + ")";
  const std::vector<int>& ranks = result.ranks;
  const std::string who = ranks.empty() ? "" : name_ranks(ranks);
  switch (result.end) {
    case WaitEnd::kArrived:
      break;
    case WaitEnd::kTimeout:
      return break_off(StatusCode::kTimeout,
                       who + " did not come within " + std::to_string(timeout_.count()) + " ms" +
                           when + "; " + whereabouts_of(session_, ranks) + news_of(session_, ranks),
                       ranks);
    case WaitEnd::kLost:
      return break_off(
          StatusCode::kPeerLost, ends_of(session_, ranks) + when + news_of(session_, ranks), ranks);
    case WaitEnd::kMovedOn:
      return break_off(
          StatusCode::kInvalidState,
          "this rank was left behind: " + who + " went on after a reset without it" + when,
          {});
    case WaitEnd::kReset: {
      std::vector<int> left = ranks;
      std::erase_if(left, [this](int rank) {
        return window::epoch_of(session_.peer(rank).control->left.load()) !=
               session_.standing().epoch();
      });
      const std::string why = left.empty() ? "" : "; " + departures(session_, left);
      return break_off(
          StatusCode::kInvalidState, who + " called reset during this call" + why + when, {});
    }
    case WaitEnd::kLeft:
      return break_off(StatusCode::kInvalidState,
                       "expected every rank to go on, but " + departures(session_, ranks) + when,
                       ranks);
    case WaitEnd::kInterrupted:
      return break_off(StatusCode::kInterrupted, "interrupted" + when, {});
  }
  return {};
}

/// Who waited for whom, for people.
void Call::log_wait(const WaitResult& result, Phase phase) const {
  const double ms = static_cast<double>(result.waited.count()) / 1000;
  std::array<char, 64> waited{};
  std::snprintf(waited.data(), waited.size(), "%.1f ms", ms);
  session_.options().log("waybill: rank " + std::to_string(session_.rank()) + ": " +
                         contract::name_of(op_) + ", call " +
                         std::to_string(session_.standing().number()) + ", epoch " +
                         std::to_string(session_.standing().epoch()) + ": " + phase_text(phase) +
                         ": " + waited.data() + " for " + name_ranks(result.slept_for));
}

/// For the other ranks: which call of this rank, and why.
std::string Call::departure_text(const std::string& why) const {
  return "its call " + std::to_string(window::call_of(stamp_)) + " failed: " + why;
}

Status Call::cannot_be(const std::string& who) const {
  const std::string name = contract::name_of(op_);
  return error(StatusCode::kInternal,
               name,
               "",
               name + ": what " + who + " published cannot be (rank " +
                   std::to_string(session_.rank()) + ")");
}

Status Call::damaged(const std::string& expected) const {
  const std::string name = contract::name_of(op_);
  return error(StatusCode::kInternal,
               name,
               "",
               name + ": WAYBILL_CHECK: expected " + expected + " (call " +
                   std::to_string(session_.standing().number()) + ", rank " +
                   std::to_string(session_.rank()) + ")");
}

}  // namespace waybill::engine
