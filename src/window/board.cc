#include "window/board.h"

#include <atomic>
#include <cstring>

#include "base/table.h"
#include "window/texts.h"

namespace waybill::window {
namespace {

static_assert(rows_are_in_order(kWords, &WordRow::name));
static_assert(rows_are_in_order(kSteps, &StepRow::step));

constexpr std::uint64_t pack(std::uint32_t high, std::uint32_t low) noexcept {
  return static_cast<std::uint64_t>(high) << 32 | low;
}

constexpr std::uint64_t pack(std::uint32_t attempt, ResetStage stage) noexcept {
  return pack(attempt, static_cast<std::uint32_t>(stage));
}

}  // namespace

/// A store that the table of steps knows, into a word of this host.
template <Step kStep, WordName kName>
void Board::store(Stamp value) noexcept {
  static_assert(stores(kStep, kName));
  word(kName).store(value);
}

/// The same into a word that other hosts hear of.
template <Step kStep, WordName kName>
void Board::post(Change change) noexcept {
  static_assert(stores(kStep, kName) && row_of(kName).reach == Reach::kGroup);
  change.word = kName;
  word(kName).store(change.value);
  tell(change);
}

void Board::begin(const Identity& identity, bool newcomer) noexcept {
  page_->identity = identity;
  if (newcomer) {
    page_->newcomer.store(1);
  } else {
    page_->signalled.store(stamp(1, 0));
    page_->done.store(stamp(1, 0));
  }
}

void Board::publish_mirrors(std::int64_t offset) noexcept {
  page_->mirrors.store(offset + 1, std::memory_order_release);
}

void Board::say(std::size_t half, std::string_view argument, std::string_view text) noexcept {
  copy_text(page_->refusals[half].argument, argument);
  copy_text(page_->refusals[half].text, text);
}

/// A rank that takes the owner for a member of another call may be reading the header: it looks at
/// the stamp before and after (read_header).
void Board::write_header(const CallHeader& header) noexcept {
  static_assert(offsetof(CallHeader, stamp) == 0);
  CallHeader& stored = page_->headers[half_of_call(header.stamp)];
  std::atomic_ref<Stamp> published(stored.stamp);
  published.store(0, std::memory_order_relaxed);
  fence_all();
  step();
  std::memcpy(reinterpret_cast<std::byte*>(&stored) + sizeof(Stamp),
              reinterpret_cast<const std::byte*>(&header) + sizeof(Stamp),
              sizeof(CallHeader) - sizeof(Stamp));
  step();
  published.store(header.stamp, std::memory_order_release);
}

void Board::signal(const CallHeader& header) noexcept {
  write_header(header);
  const bool says = header.refused != 0 || header.says_limit != 0;
  post<Step::kSignal, WordName::kSignalled>(
      {.value = header.stamp,
       .header = &header,
       .text = says ? &page_->refusals[half_of_call(header.stamp)] : nullptr});
}

void Board::end_reading(Stamp call) noexcept {
  post<Step::kEndReading, WordName::kDone>({.value = call});
}

void Board::leave(Stamp from, std::string_view why) noexcept {
  copy_text(page_->departure.text, why);
  post<Step::kLeave, WordName::kLeft>({.value = from, .text = &page_->departure});
}

void Board::forgo_setup(std::uint32_t epoch) noexcept {
  post<Step::kForgoSetup, WordName::kLeft>({.value = stamp(epoch + 1, 0)});
}

void Board::release() noexcept { post<Step::kRelease, WordName::kReleased>({.value = 1}); }

void Board::join(std::uint32_t attempt, std::uint32_t last_call) noexcept {
  post<Step::kJoin, WordName::kResetCall>({.value = last_call});
  post<Step::kJoin, WordName::kJoined>({.value = pack(attempt, ResetStage::kGathering)});
}

void Board::write_list(const ResetList& list) noexcept {
  for (std::size_t i = 0; i < list.members.size(); ++i) {
    step();
    page_->reset.members[i].store(list.members[i]);
  }
  page_->reset.incarnations.store(list.incarnations);
}

void Board::close(std::uint32_t attempt, const ResetList& list) noexcept {
  static_assert(stores(Step::kClose, WordName::kMembers) &&
                stores(Step::kClose, WordName::kIncarnations));
  write_list(list);
  post<Step::kClose, WordName::kList>({.value = pack(attempt, list.call), .list = &list});
}

void Board::accept(std::uint32_t attempt, int closer) noexcept {
  const auto accepted = static_cast<std::uint32_t>(closer + 1);
  post<Step::kAccept, WordName::kAccepted>({.value = pack(attempt, accepted)});
  post<Step::kAccept, WordName::kJoined>({.value = pack(attempt, ResetStage::kClosed)});
}

void Board::begin_epoch(std::uint32_t attempt, Stamp start) noexcept {
  store<Step::kBeginEpoch, WordName::kNewcomer>(0);
  // Whoever sees that the attempt was concluded sees the new epoch.
  post<Step::kBeginEpoch, WordName::kSignalled>({.value = start});
  post<Step::kBeginEpoch, WordName::kDone>({.value = start});
  post<Step::kBeginEpoch, WordName::kJoined>({.value = pack(attempt, ResetStage::kConcluded)});
}

void Board::give_up_reset(std::uint32_t attempt) noexcept {
  post<Step::kGiveUpReset, WordName::kJoined>({.value = pack(attempt, ResetStage::kGaveUp)});
}

void Board::sleep(std::size_t missing, int first) noexcept {
  page_->waits_for.value.store(
      static_cast<std::uint64_t>(missing) << 32 | static_cast<std::uint32_t>(first + 1),
      std::memory_order_relaxed);
  step();
  static_assert(stores(Step::kSleep, WordName::kAsleep));
  page_->asleep.value.store(1, std::memory_order_seq_cst);
  fence_all();
}

void Board::wake() noexcept {
  page_->asleep.value.store(0, std::memory_order_relaxed);
  page_->waits_for.value.store(0, std::memory_order_relaxed);
}

void Board::begin_call(Stamp call) noexcept {
  page_->call.value.store(call, std::memory_order_relaxed);
}

void Board::enter(std::uint64_t phase, std::chrono::nanoseconds since) noexcept {
  page_->phase.value.store(phase, std::memory_order_relaxed);
  page_->phase_since.value.store(static_cast<std::uint64_t>(since.count()),
                                 std::memory_order_relaxed);
}

void Board::replay(const Change& change) noexcept {
  if (row_of(change.word).reach != Reach::kGroup) {
    return;
  }
  if (change.text != nullptr) {
    Refusal& text = change.header != nullptr ? page_->refusals[half_of_call(change.header->stamp)]
                                             : page_->departure;
    text = *change.text;
  }
  if (change.header != nullptr) {
    write_header(*change.header);
    begin_call(change.header->stamp);
  }
  if (change.list != nullptr) {
    write_list(*change.list);
  }
  word(change.word).store(change.value);
  tell(change);
}

}  // namespace waybill::window
