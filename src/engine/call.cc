#include "engine/call.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "base/errors.h"

namespace waybill::engine {
namespace {

using window::stamp;

template <std::size_t N>
void copy_text(std::array<char, N>& destination, const std::string& text) {
  const std::size_t length = std::min(text.size(), N - 1);
  std::memcpy(destination.data(), text.data(), length);
  destination[length] = '\0';
}

template <std::size_t N>
std::string read_text(const std::array<char, N>& source) {
  return {source.data(), strnlen(source.data(), N)};
}

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

Call::~Call() {
  if (begun_ && !done_) {
    end();
  }
  if (begun_) {
    session_.enter(Phase::kIdle, contract::Operator::kNone);
    session_.busy.store(false, std::memory_order_release);
  }
}

Status Call::begin() {
  const char* const name = contract::name_of(op_);
  if (Status status = session_.occupy(name); !status.ok()) {
    return status;
  }
  if (Status status = session_.check_usable(name); !status.ok()) {
    session_.busy.store(false, std::memory_order_release);
    return status;
  }
  if (!session_.absent.empty()) {
    session_.busy.store(false, std::memory_order_release);
    return error(StatusCode::kInvalidState,
                 name,
                 "",
                 std::string(name) +
                     ": expected a call among the ranks of the last reset, got one "
                     "that includes " +
                     name_ranks(session_.absent) + " (rank " + std::to_string(session_.rank()) +
                     ")",
                 session_.absent);
  }
  begun_ = true;
  stamp_ = stamp(session_.epoch, ++session_.number);
  half_ = session_.number % 2;
  header_.stamp = stamp_;
  {
    const std::lock_guard lock(session_.stats_mutex);
    ++session_.counted.calls;
  }
  enter(Phase::kCheck);
  return {};
}

Status Call::wait_half() {
  // The last call that used this half. Its readers are all ranks of the group.
  const window::Stamp last = stamp(session_.epoch, session_.number - 2);
  enter(Phase::kWaitHalf);
  return to_status(wait_for(session_,
                            {.word = &window::ControlPage::done,
                             .target = last,
                             .ranks = session_.everyone(),
                             .timeout = session_.options().timeout,
                             .ended_is_arrived = true}),
                   Phase::kWaitHalf);
}

Status Call::refuse(Status why) {
  if (Status status = wait_half(); !status.ok()) {
    return why;  // the bad argument is the nearer cause; the group says that it needs a reset
  }
  header_.refused = 1;
  copy_text(header_.refusal_argument, why.info().argument);
  copy_text(header_.refusal_text, why.message());
  signal();
  end();
  return why;
}

Result<std::byte*> Call::open_half(std::int64_t bytes) {
  if (Status status = wait_half(); !status.ok()) {
    return status;
  }
  enter(Phase::kPublish);
  window::Region& region = session_.window().halves[half_];
  Status status = region.commit(0, bytes);
  if (status.code() == StatusCode::kOutOfMemory) {
    session_.pool().trim();  // free ranges of the pool keep their pages until somebody needs them
    status = region.commit(0, bytes);
  }
  if (!status.ok()) {
    return refuse(session_.in_context(contract::name_of(op_), std::move(status)));
  }
  return region.data();
}

void Call::signal() {
  session_.page().headers[half_] = header_;
  numerics::stream_fence();
  session_.post(session_.page().signalled, stamp_);
  enter(Phase::kSignalled);
}

Status Call::gather() {
  enter(Phase::kWaitSignals);
  Status status = to_status(wait_for(session_,
                                     {.word = &window::ControlPage::signalled,
                                      .target = stamp_,
                                      .ranks = session_.everyone(),
                                      .timeout = session_.options().timeout}),
                            Phase::kWaitSignals);
  if (!status.ok()) {
    return status;
  }
  auto& headers = session_.scratch().headers;
  headers.resize(static_cast<std::size_t>(session_.world_size()));
  for (int r = 0; r < session_.world_size(); ++r) {
    std::memcpy(&headers[static_cast<std::size_t>(r)],
                &session_.peer(r).control->headers[half_],
                sizeof(window::CallHeader));
  }
  status = compare_headers();
  if (!status.ok()) {
    Status ended = finish();
    return ended.ok() ? status : ended;
  }
  enter(Phase::kPull);
  return {};
}

Status Call::compare_headers() {
  const auto& headers = session_.scratch().headers;
  std::vector<int> refusing;
  auto& agreements = session_.scratch().agreements;
  agreements.clear();
  for (const window::CallHeader& header : headers) {
    if (header.refused != 0) {
      refusing.push_back(static_cast<int>(agreements.size()));
    }
    agreements.push_back(header.agreement);
  }
  if (!refusing.empty()) {
    const window::CallHeader& first = headers[static_cast<std::size_t>(refusing.front())];
    const std::string name = contract::name_of(op_);
    return error(StatusCode::kMismatch,
                 name,
                 read_text(first.refusal_argument),
                 name + ": expected arguments that every rank accepts, got a refusal of " +
                     name_ranks(refusing) + ": " + read_text(first.refusal_text),
                 refusing);
  }
  return contract::compare(checker(), agreements);
}

bool Call::still_valid() const {
  window::fence_reads();
  for (int r = 0; r < session_.world_size(); ++r) {
    const window::ControlPage& page = *session_.peer(r).control;
    const window::Stamp left = page.left.load();
    if (left == stamp_ || window::epoch_of(left) > session_.epoch ||
        window::epoch_of(page.signalled.load()) > session_.epoch) {
      return false;
    }
  }
  return true;
}

Status Call::finish() {
  if (!still_valid()) {
    // A publisher that gave up may have done so because of a rank that ended.
    std::vector<int> ended;
    for (const int r : session_.everyone()) {
      if (r != session_.rank() && session_.transport().has_ended(r)) {
        ended.push_back(r);
      }
    }
    const std::string who = name_ranks(ended);
    return ended.empty()
               ? fail(StatusCode::kInvalidState,
                      "expected every rank to stay until this rank had read its rows, but others "
                      "gave the call up meanwhile: this rank was too slow and needs a reset",
                      {})
               : fail(StatusCode::kPeerLost, who + " ended while rows were read", ended);
  }
  end();
  return {};
}

Status Call::wait_readers(const std::vector<int>& readers) {
  enter(Phase::kWaitReaders);
  return to_status(wait_for(session_,
                            {.word = &window::ControlPage::done,
                             .target = stamp_,
                             .ranks = readers,
                             .timeout = session_.options().timeout}),
                   Phase::kWaitReaders);
}

Status Call::abandon(const Status& why) {
  Status ended = finish();
  return ended.ok() ? why : ended;
}

void Call::end() {
  done_ = true;
  session_.post(session_.page().done, stamp_);
}

Status Call::to_status(WaitResult result, Phase phase) {
  if (result.waited.count() > 0) {
    const std::lock_guard lock(session_.stats_mutex);
    session_.counted.wait_total_us += result.waited.count();
  }
  if (result.end == WaitEnd::kArrived) {
    return {};
  }
  const std::string when = std::string(" (") + phase_text(phase) + ", call " +
                           std::to_string(session_.number) + ", epoch " +
                           std::to_string(session_.epoch) + ", rank " +
                           std::to_string(session_.rank()) + ")";
  const std::string who = result.ranks.empty() ? "" : name_ranks(result.ranks);
  switch (result.end) {
    case WaitEnd::kArrived:
      return {};
    case WaitEnd::kTimeout:
      return fail(StatusCode::kTimeout,
                  who + " did not come within " +
                      std::to_string(session_.options().timeout.count()) + " ms" + when,
                  std::move(result.ranks));
    case WaitEnd::kLost: {
      const char* text =
          result.ranks.size() == 1 ? " has ended its process" : " have ended their processes";
      return fail(StatusCode::kPeerLost, who + text + when, std::move(result.ranks));
    }
    case WaitEnd::kMovedOn:
      return fail(StatusCode::kInvalidState,
                  "this rank was left behind: " + who + " went on after a reset without it" + when,
                  {});
    case WaitEnd::kReset:
      return fail(StatusCode::kInvalidState, who + " called reset during this call" + when, {});
    case WaitEnd::kInterrupted:
      return fail(StatusCode::kInterrupted, "interrupted" + when, {});
  }
  return {};
}

Status Call::fail(StatusCode code, std::string message, std::vector<int> ranks) {
  failed_ = true;
  const std::string name = contract::name_of(op_);
  message = name + ": " + message;
  session_.reset_needed = message;
  // `left` before anything that this call published can be reused; see finish() of the readers.
  session_.post(session_.page().left, stamp_);
  numerics::stream_fence();
  end();
  return error(code, name, "", std::move(message), std::move(ranks));
}

}  // namespace waybill::engine
