#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>

#include "transport/wire.h"
#include "window/board.h"
#include "window/control.h"

namespace waybill::transport {

/// What ranks of different hosts say to each other. Numbers as this machine has them: ranks compare
/// their layout versions when they meet.
enum class MessageKind : std::uint32_t {
  kChange = 1,  ///< a rank made a Change of its control page (encode(), decode())
  kRows,        ///< body: bytes of a mirror from `at` on
  kPacked,      ///< body: pieces, each a PackedPiece and its bytes
  kCommit,      ///< `at` bytes of the mirror have been sent: it is whole
  kBeat,        ///< this rank lives; body: Beat
};

/// In kRows, kPacked and kCommit `half` and `stamp` say which mirror is meant, `value` is its size,
/// and `claim` how many granules of memory its sender claims for it (transport/sending.h). In
/// kChange `at` is the WordName and `value` what was stored.
struct MessageHead {
  MessageKind kind{};
  std::uint32_t half = 0;
  window::Stamp stamp = 0;
  std::int64_t at = 0;
  std::int64_t value = 0;
  std::int64_t claim = 0;
};
static_assert(sizeof(MessageHead) <= kWireHeadBytes && std::is_trivially_copyable_v<MessageHead>);

struct PackedPiece {
  std::int64_t at;
  std::int64_t bytes;
};

/// Where a rank is, for people.
struct Beat {
  std::uint64_t phase = 0;
  std::uint64_t call = 0;
  std::int64_t phase_ns = 0;  ///< how long it has been there
};

template <typename T>
std::span<const std::byte> bytes_of(const T& value) noexcept {
  static_assert(std::is_trivially_copyable_v<T>);
  return {reinterpret_cast<const std::byte*>(&value), sizeof(T)};
}

/// Room for the body of a change: a header and a text, or a list.
using ChangeBytes = std::array<std::byte, sizeof(window::CallHeader) + sizeof(window::Refusal)>;

struct ChangeMessage {
  MessageHead head;
  std::span<const std::byte> body;
};
/// The message that tells of `change`, with its body in `room`.
ChangeMessage encode(const window::Change& change, ChangeBytes& room) noexcept;

/// What a change that was told announces.
struct ChangeBody {
  window::CallHeader header;
  window::Refusal text;
  window::ResetList list;
};
/// The change that a message tells of, with what it announces in `room`; nothing where no rank can
/// have sent the message.
std::optional<window::Change> decode(const MessageHead& head,
                                     std::span<const std::byte> body,
                                     ChangeBody& room) noexcept;

}  // namespace waybill::transport
