#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "transport/wire.h"
#include "window/control.h"

namespace waybill::transport {

/// What ranks of different hosts say to each other. Numbers as this machine has them: ranks compare
/// their layout versions when they meet.
enum class MessageKind : std::uint32_t {
  kWord = 1,  ///< `value` was stored in the word at `at` of the control page
  kHeader,    ///< body: CallHeader and, where it is refused, Refusal
  kList,      ///< body: ListBody, and `value` in the word `list`
  kRows,      ///< body: bytes of a mirror from `at` on
  kPacked,    ///< body: pieces, each a PackedPiece and its bytes
  kCommit,    ///< `at` bytes of the mirror have been sent: it is whole
  kBeat,      ///< this rank lives; body: Beat
};

/// Of those about a mirror: `half` and `stamp` say which, `value` its size.
struct MessageHead {
  MessageKind kind{};
  std::uint32_t half = 0;
  window::Stamp stamp = 0;
  std::int64_t at = 0;
  std::int64_t value = 0;
};
static_assert(sizeof(MessageHead) <= kWireHeadBytes && std::is_trivially_copyable_v<MessageHead>);

struct PackedPiece {
  std::int64_t at;
  std::int64_t bytes;
};

struct ListBody {
  std::uint64_t incarnations = 0;
  std::array<std::uint64_t, window::kMaxRanks / 64> members{};
};

/// Where a rank is, for people.
struct Beat {
  std::uint64_t phase = 0;
  std::uint64_t call = 0;
  std::int64_t phase_ns = 0;  ///< how long it has been there
};

/// Names a word in messages.
inline std::int64_t offset_in(const window::ControlPage& page, const window::Word& word) noexcept {
  return reinterpret_cast<const std::byte*>(&word) - reinterpret_cast<const std::byte*>(&page);
}

template <typename T>
std::span<const std::byte> bytes_of(const T& value) noexcept {
  static_assert(std::is_trivially_copyable_v<T>);
  return {reinterpret_cast<const std::byte*>(&value), sizeof(T)};
}

}  // namespace waybill::transport
