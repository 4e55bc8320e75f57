// What messages of ranks of other hosts do here.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>

#include "base/futex.h"
#include "transport/remote.h"

namespace waybill::transport {

using window::ControlPage;
using window::Word;

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
    case MessageKind::kChange: {
      ChangeBody room;
      if (const auto change = decode(head, body, room)) {
        known.board.replay(*change);
      }
      break;
    }
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
      note_beat(known, body);
      break;
  }
}

void RemoteTransport::Remote::on_post(const window::Change& change) noexcept {
  if (!window::is_slept_on(change.word)) {
    owner.wake_waiters_for(rank);
    return;
  }
  window::fence_all();
  if (owner.window_->control->asleep.value.load(std::memory_order_relaxed) != 0) {
    futex_wake_all(window::word_of(page, change.word).value);
  }
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

void RemoteTransport::note_beat(Remote& from, std::span<const std::byte> body) {
  Beat beat;
  if (body.size() != sizeof(beat)) {
    return;
  }
  std::memcpy(&beat, body.data(), sizeof(beat));
  const std::chrono::nanoseconds now = Clock::now().time_since_epoch();
  from.board.enter(beat.phase, now - std::chrono::nanoseconds(beat.phase_ns));
  from.board.begin_call(beat.call);
}

/// Wakes whoever sleeps on `word`, which is that of a slot: any rank of this host may.
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
  const ControlPage& page = remote(rank).page;
  futex_wake_all(page.signalled.value);
  futex_wake_all(page.done.value);
  for (const int agent : here_) {
    for (std::size_t half = 0; half < sendings_.size(); ++half) {
      futex_wake_all(slot(agent, rank, half).arrived.value);
    }
  }
}

}  // namespace waybill::transport
