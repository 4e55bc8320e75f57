#include "engine/call.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>

#include "base/errors.h"
#include "base/published.h"
#include "engine/whereabouts.h"

namespace waybill::engine {
namespace {

template <std::size_t N>
void copy_text(std::array<char, N>& destination, const std::string& text) {
  const std::size_t length = std::min(text.size(), N - 1);
  std::memcpy(destination.data(), text.data(), length);
  destination[length] = '\0';
}

template <std::size_t N>
std::string read_text(const std::array<char, N>& source) {
  std::string text(source.data(), strnlen(source.data(), N));
  // A peer's bytes become part of a message; a text that was cut may end within a letter.
  std::replace_if(text.begin(), text.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return text;
}

}  // namespace

Call::~Call() {
  close();
  if (begun_) {
    count_time_until(session_.enter(Phase::kIdle, contract::Operator::kNone));
    session_.transport().hand_over();
  }
  if (occupies_) {
    session_.busy.store(false, std::memory_order_release);
  }
}

Status Call::begin() {
  const char* const name = contract::name_of(op_);
  WAYBILL_RETURN_IF_ERROR(session_.occupy(name));
  occupies_ = true;
  WAYBILL_RETURN_IF_ERROR(session_.check_usable(name));
  begun_ = true;
  session_.scratch().agents.clear();
  stamp_ = window::stamp(session_.epoch, ++session_.number);
  half_ = session_.number % 2;
  header_.stamp = stamp_;
  session_.page().call.value.store(stamp_, std::memory_order_relaxed);
  // Until its own are known, a call has the members of the one before.
  session_.scratch().members = session_.half_users[1 - half_];
  {
    const std::lock_guard lock(session_.stats_mutex);
    ++session_.counted.calls;
  }
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
  std::vector<int>& members = session_.scratch().members;
  std::vector<int> missing;
  const int num_members = elastic->scaled ? elastic->num_ranks : session_.world_size();
  for (int i = 0; i < num_members; ++i) {
    const int rank = elastic->members[i];
    if (std::find(session_.absent.begin(), session_.absent.end(), rank) != session_.absent.end()) {
      missing.push_back(rank);
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
  members.resize(static_cast<std::size_t>(num_members));
  for (int i = 0; i < num_members; ++i) {
    members[static_cast<std::size_t>(i)] = elastic->members[i];
  }
  return {};
}

void Call::close() {
  if (begun_ && !done_) {
    end();
  }
}

void Call::suspend() {
  // Nobody waits now: what the setup published moves by itself.
  session_.transport().end_drive(false);
  count_time_until(session_.enter(Phase::kSignalled, op_));
  occupies_ = false;
  session_.busy.store(false, std::memory_order_release);
}

/// Publishing, pulling and summing, where the phase that begins ends them.
void Call::count_copying_until(std::chrono::nanoseconds now, Phase next) noexcept {
  const bool copies = next == Phase::kPublish || next == Phase::kPublishRows ||
                      next == Phase::kPull || next == Phase::kPullRows;
  if (copying_since_.count() != 0 && !copies) {
    session_.copying_ns.fetch_add((now - copying_since_).count(), std::memory_order_relaxed);
    copying_since_ = std::chrono::nanoseconds{0};
  } else if (copying_since_.count() == 0 && copies) {
    copying_since_ = now;
  }
}

void Call::count_time_until(std::chrono::nanoseconds now) noexcept {
  count_copying_until(now, Phase::kIdle);
  if (entered_.count() != 0) {
    session_.in_call_ns.fetch_add((now - entered_).count(), std::memory_order_relaxed);
    entered_ = std::chrono::nanoseconds{0};
  }
}

Status Call::resume(contract::Operator op) {
  WAYBILL_RETURN_IF_ERROR(session_.occupy(contract::name_of(op)));
  occupies_ = true;
  op_ = op;
  return {};
}

Status Call::wait_half() {
  // The last call that used this half; its members read it.
  const window::Stamp last = window::stamp(session_.epoch, session_.number - 2);
  enter(Phase::kWaitHalf);
  Status status = to_status(wait_for(session_,
                                     {.word = &window::ControlPage::done,
                                      .target = last,
                                      .ranks = session_.half_users[half_],
                                      .timeout = timeout_,
                                      .ended_is_arrived = true}),
                            Phase::kWaitHalf);
  return status.ok() ? wait_sent(Phase::kWaitHalf) : status;
}

void Call::publish_refusal(const Status& why, std::uint32_t kind) {
  header_.refused = kind;
  window::Refusal& refusal = session_.page().refusals[half_];
  copy_text(refusal.argument, why.info().argument);
  copy_text(refusal.text, why.message());
  signal();
}

Status Call::refuse(Status why) {
  if (Status status = wait_half(); !status.ok()) {
    return why;  // the bad argument is the nearer cause; the group says that it needs a reset
  }
  publish_refusal(why, window::kRefusedArguments);
  end();
  return why;
}

Status Call::give_up(Status why) {
  if (Status status = wait_half(); !status.ok()) {
    return why;
  }
  publish_refusal(why, window::kFailedElsewhere);
  session_.reset_needed = why.message();
  failed_ = true;
  end();
  return why;
}

void Call::poison(const Status& why) {
  failed_ = true;
  session_.reset_needed = why.message();
  session_.transport().cancel(half_);
  session_.post(session_.page().left, stamp_);
  numerics::stream_fence();
}

Result<std::byte*> Call::open_half(std::int64_t bytes) {
  if (Status status = wait_half(); !status.ok()) {
    return status;
  }
  enter(Phase::kPublish);
  window::Region& region = session_.window().halves[half_];
  const bool checked = session_.options().checked;
  const auto tail = window::CheckedTail::of(bytes, header_.num_rows);
  const std::int64_t wanted = checked ? tail.end : bytes;
  Status status = region.commit(0, wanted);
  if (status.code() == StatusCode::kOutOfMemory) {
    session_.pool().trim();  // free ranges of the pool keep their pages until somebody needs them
    status = region.commit(0, wanted);
  }
  if (!status.ok()) {
    return refuse(session_.in_context(contract::name_of(op_), std::move(status)));
  }
  if (checked) {
    region.fill(0, region.committed_bytes(), window::kPoison);
    window::write_canary(region.data() + tail.canary.offset);
    header_.checked_end = bytes;
  }
  return region.data();
}

void Call::signal(Describe describe) {
  if (header_.checked_end >= 0 && header_.refused == 0) {
    write_checksums();
  }
  // A rank that takes this rank for a member of another call may be reading the header: it looks at
  // the stamp before and after.
  window::CallHeader& page = session_.page().headers[half_];
  std::atomic_ref<window::Stamp> published(page.stamp);
  published.store(0, std::memory_order_relaxed);
  window::fence_all();
  header_.stamp = 0;
  window::step();
  page = header_;
  header_.stamp = stamp_;
  window::step();
  published.store(stamp_, std::memory_order_release);
  numerics::stream_fence();
  if (session_.transport().spans_hosts()) {
    send_to_hosts(describe);
  }
  session_.post(session_.page().signalled, stamp_);
  enter(Phase::kSignalled);
}

/// False when the header is of another call.
bool Call::copy_header(int rank, window::CallHeader& header) const {
  const window::CallHeader& page = session_.peer(rank).control->headers[half_];
  window::step();
  std::memcpy(&header, &page, sizeof(header));
  window::step();
  window::fence_reads();
  // Peers map the page read-only; an atomic load does not write.
  std::atomic_ref<window::Stamp> published(const_cast<window::Stamp&>(page.stamp));
  return header.stamp == stamp_ && published.load(std::memory_order_acquire) == stamp_;
}

Status Call::gather() {
  enter(Phase::kWaitSignals);
  const auto end = std::chrono::steady_clock::now() + timeout_;
  auto& waited = session_.scratch().waited_us;
  std::fill(waited.begin(), waited.end(), 0);
  Status status = to_status(wait_for(session_,
                                     {.word = &window::ControlPage::signalled,
                                      .target = stamp_,
                                      .ranks = session_.scratch().members,
                                      .timeout = timeout_,
                                      .waited_us = &waited}),
                            Phase::kWaitSignals);
  update_performance();
  if (!status.ok()) {
    return status;
  }
  auto& headers = session_.scratch().headers;
  headers.resize(session_.scratch().members.size());
  for (const int rank : session_.scratch().members) {
    fetch_ahead(&session_.peer(rank).control->headers[half_], sizeof(window::CallHeader));
  }
  for (int i = 0; i < num_members(); ++i) {
    if (!copy_header(rank_of(i), headers[static_cast<std::size_t>(i)])) {
      return fail(StatusCode::kInvalidState,
                  "expected every rank at the same call, got rank " + std::to_string(rank_of(i)) +
                      " at a later one than this rank's call " + std::to_string(session_.number) +
                      ": elastic_info left this rank out of some (rank " +
                      std::to_string(session_.rank()) + ")",
                  {rank_of(i)});
    }
  }
  status = compare_headers();
  const bool alike = status.ok();
  if (alike && session_.transport().spans_hosts()) {
    status = gather_mirrors(end);
  }
  if (status.ok() && session_.options().checked && !tails_are_sane()) {
    status = corrupt("a rank");
  }
  if (!status.ok() && !failed_) {
    // Where ranks differ nobody waits for rows.
    Status ended = alike ? finish() : end_reading();
    return ended.ok() ? status : ended;
  }
  enter(Phase::kPull);
  return status;
}

void Call::update_performance() const {
  if (!performance_info_) {
    return;
  }
  // The one argument that an operator writes to.
  auto* values = static_cast<std::int64_t*>(const_cast<void*>(performance_info_->data));
  const std::int64_t stride = performance_info_->strides[0];
  for (int rank = 0; rank < session_.world_size(); ++rank) {
    const std::int64_t waited = session_.scratch().waited_us[static_cast<std::size_t>(rank)];
    values[rank * stride] = std::max(values[rank * stride], waited);
  }
}

Status Call::compare_headers() {
  const auto& headers = session_.scratch().headers;
  if (std::all_of(headers.begin(), headers.end(), [this](const window::CallHeader& header) {
        return header.refused == 0 && header.agreement == header_.agreement;
      })) {
    return {};
  }
  std::vector<int> refusing;
  bool gave_up = false;
  auto& agreements = session_.scratch().agreements;
  agreements.clear();
  for (const window::CallHeader& header : headers) {
    if (header.refused != 0) {
      refusing.push_back(rank_of(static_cast<int>(agreements.size())));
      gave_up = gave_up || header.refused == window::kFailedElsewhere;
    }
    agreements.push_back(header.agreement);
  }
  if (refusing.empty()) {
    return contract::compare(checker(), agreements, session_.scratch().members);
  }
  const window::Refusal& first = session_.peer(refusing.front()).control->refusals[half_];
  const std::string why = name_ranks(refusing) + ": " + read_text(first.text);
  if (gave_up) {
    return fail(StatusCode::kInvalidState,
                "expected every rank to go on, got a failure of another group of " + why,
                refusing);
  }
  const std::string name = contract::name_of(op_);
  return error(StatusCode::kMismatch,
               name,
               read_text(first.argument),
               name + ": expected arguments that every rank accepts, got a refusal of " + why,
               refusing);
}

bool Call::still_valid() const {
  window::fence_reads();
  for (const int r : session_.scratch().members) {
    const window::ControlPage& page = *session_.peer(r).control;
    const window::Stamp left = page.left.load();
    if (left == stamp_ || window::epoch_of(left) > session_.epoch ||
        window::epoch_of(page.signalled.load()) > session_.epoch) {
      return false;
    }
  }
  return !session_.transport().spans_hosts() || mirrors_stand();
}

Status Call::finish() {
  WAYBILL_RETURN_IF_ERROR(end_reading());
  // Where only calls move messages, nobody would take the rest of this rank's rows to other hosts.
  return session_.transport().needs_driver() ? wait_sent(Phase::kWaitReaders) : Status();
}

Status Call::end_reading() {
  if (!still_valid()) {
    // A publisher that gave up may have done so because of a rank that ended.
    std::vector<int> ended;
    for (const int r : session_.scratch().members) {
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
               : fail(StatusCode::kPeerLost,
                      who + " ended while rows were read" + news_of(ended),
                      ended);
  }
  Status checked = session_.options().checked ? check_members() : Status();
  end();
  return checked;
}

Status Call::wait_readers(const std::vector<int>& readers) {
  enter(Phase::kWaitReaders);
  std::vector<int>& here = session_.scratch().waiting_here;
  here = readers;
  std::erase_if(here, [this](int rank) { return session_.transport().is_remote(rank); });
  Status status = to_status(wait_for(session_,
                                     {.word = &window::ControlPage::done,
                                      .target = stamp_,
                                      .ranks = here,
                                      .timeout = timeout_}),
                            Phase::kWaitReaders);
  return status.ok() ? wait_sent(Phase::kWaitReaders) : status;
}

Status Call::abandon(const Status& why) {
  Status ended = finish();
  return ended.ok() ? why : ended;
}

Status Call::corrupt(const std::string& who) const {
  const std::string name = contract::name_of(op_);
  return error(StatusCode::kInternal,
               name,
               "",
               name + ": what " + who + " published cannot be (rank " +
                   std::to_string(session_.rank()) + ")");
}

void Call::end() {
  done_ = true;
  session_.half_users[half_] = session_.scratch().members;
  session_.post(session_.page().done, stamp_);
}

}  // namespace waybill::engine
