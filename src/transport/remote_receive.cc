// What messages of ranks of other hosts do here.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <utility>

#include "base/futex.h"
#include "transport/remote.h"

namespace waybill::transport {
namespace {

using window::CallHeader;
using window::ControlPage;
using window::Stamp;
using window::Word;

/// The word at this place of the page, where it is one that ranks tell each other of.
Word* told_word(ControlPage& page, std::int64_t at) noexcept {
  for (Word* word : {&page.signalled,
                     &page.done,
                     &page.left,
                     &page.reset.joined,
                     &page.reset.call,
                     &page.reset.list,
                     &page.reset.accepted}) {
    if (offset_in(page, *word) == at) {
      return word;
    }
  }
  return nullptr;
}

}  // namespace

void RemoteTransport::on_message(int from,
                                 std::span<const std::byte> head_bytes,
                                 std::span<const std::byte> body) noexcept {
  MessageHead head;
  if (from < 0 || from >= world_size() || !is_remote(from) || head_bytes.size() != sizeof(head)) {
    return;
  }
  std::memcpy(&head, head_bytes.data(), sizeof(head));
  Remote& known = remote(from);
  known.heard = Clock::now();
  head.half %= 2;
  switch (head.kind) {
    case MessageKind::kWord:
      store_word(from, head.at, static_cast<Stamp>(head.value));
      break;
    case MessageKind::kHeader:
      store_header(from, head, body);
      break;
    case MessageKind::kList:
      store_list(from, head, body);
      break;
    case MessageKind::kRows:
      if (std::byte* to =
              mirrors_.place(from, head, head.at, static_cast<std::int64_t>(body.size()))) {
        std::ranges::copy(body, to);
      }
      break;
    case MessageKind::kPacked:
      store_pieces(from, head, body);
      break;
    case MessageKind::kCommit:
      if (mirrors_.commit(from, head)) {
        wake(slot(options_.rank, from, head.half).arrived);
      }
      break;
    case MessageKind::kBeat:
      note_beat(*known.page, body);
      break;
  }
}

void RemoteTransport::store_word(int from, std::int64_t at, Stamp value) {
  ControlPage& page = *remote(from).page;
  Word* const word = told_word(page, at);
  if (word == nullptr) {
    return;
  }
  word->store(value);
  if (word != &page.signalled && word != &page.done) {
    wake_waiters_for(from);
    return;
  }
  window::fence_all();
  if (window_->control->asleep.value.load(std::memory_order_relaxed) != 0) {
    futex_wake_all(word->value);
  }
}

/// In the order in which Call::signal() stores: see Call::copy_header().
void RemoteTransport::store_header(int from,
                                   const MessageHead& head,
                                   std::span<const std::byte> body) {
  ControlPage& page = *remote(from).page;
  CallHeader header;
  if (body.size() < sizeof(header)) {
    return;
  }
  std::memcpy(&header, body.data(), sizeof(header));
  if (body.size() == sizeof(header) + sizeof(window::Refusal)) {
    std::memcpy(&page.refusals[head.half], body.data() + sizeof(header), sizeof(window::Refusal));
  }
  CallHeader& stored = page.headers[head.half];
  std::atomic_ref<Stamp> published(stored.stamp);
  published.store(0, std::memory_order_relaxed);
  window::fence_all();
  const Stamp stamp = std::exchange(header.stamp, 0);
  stored = header;
  published.store(stamp, std::memory_order_release);
  page.call.value.store(stamp, std::memory_order_relaxed);
  store_word(from, head.at, static_cast<Stamp>(head.value));
}

void RemoteTransport::store_list(int from,
                                 const MessageHead& head,
                                 std::span<const std::byte> body) {
  ControlPage& page = *remote(from).page;
  ListBody list;
  if (body.size() != sizeof(list)) {
    return;
  }
  std::memcpy(&list, body.data(), sizeof(list));
  for (std::size_t i = 0; i < list.members.size(); ++i) {
    page.reset.members[i].store(list.members[i]);
  }
  page.reset.incarnations.store(list.incarnations);
  store_word(from, head.at, static_cast<Stamp>(head.value));
}

void RemoteTransport::store_pieces(int from,
                                   const MessageHead& head,
                                   std::span<const std::byte> body) {
  PackedPiece piece;
  while (body.size() >= sizeof(piece)) {
    std::memcpy(&piece, body.data(), sizeof(piece));
    body = body.subspan(sizeof(piece));
    const auto bytes = static_cast<std::size_t>(std::max<std::int64_t>(piece.bytes, 0));
    if (bytes > body.size()) {
      return;
    }
    if (std::byte* to = mirrors_.place(from, head, piece.at, piece.bytes)) {
      std::ranges::copy(body.first(bytes), to);
    }
    body = body.subspan(bytes);
  }
}

void RemoteTransport::note_beat(ControlPage& page, std::span<const std::byte> body) {
  Beat beat;
  if (body.size() != sizeof(beat)) {
    return;
  }
  std::memcpy(&beat, body.data(), sizeof(beat));
  const std::chrono::nanoseconds now = Clock::now().time_since_epoch();
  page.phase.value.store(beat.phase, std::memory_order_relaxed);
  page.call.value.store(beat.call, std::memory_order_relaxed);
  page.phase_since.value.store(static_cast<std::uint64_t>(now.count() - beat.phase_ns),
                               std::memory_order_relaxed);
}

/// Of a slot: any rank of this host may sleep on it.
void RemoteTransport::wake(const Word& word) noexcept {
  window::fence_all();
  for (const int rank : here_) {
    if (peer(rank).control->asleep.value.load(std::memory_order_relaxed) != 0) {
      futex_wake_all(word.value);
      return;
    }
  }
}

/// This rank's thread, on whatever it sleeps: no other looks at these pages.
void RemoteTransport::wake_waiters_for(int rank) noexcept {
  window::fence_all();
  if (window_->control->asleep.value.load(std::memory_order_relaxed) == 0) {
    return;
  }
  const ControlPage& page = *remote(rank).page;
  futex_wake_all(page.signalled.value);
  futex_wake_all(page.done.value);
  for (const int agent : here_) {
    for (std::size_t half = 0; half < sendings_.size(); ++half) {
      futex_wake_all(slot(agent, rank, half).arrived.value);
    }
  }
}

}  // namespace waybill::transport
