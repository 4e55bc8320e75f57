#include "transport/messages.h"

#include <cstring>

namespace waybill::transport {
namespace {

using window::CallHeader;
using window::Change;
using window::Refusal;
using window::ResetList;
using window::WordName;

static_assert(sizeof(ResetList) <= sizeof(ChangeBytes));

/// Takes a T off the front of `body`; false where it is too short.
template <typename T>
bool take(std::span<const std::byte>& body, T& value) noexcept {
  if (body.size() < sizeof(T)) {
    return false;
  }
  std::memcpy(&value, body.data(), sizeof(T));
  body = body.subspan(sizeof(T));
  return true;
}

}  // namespace

ChangeMessage encode(const Change& change, ChangeBytes& room) noexcept {
  std::size_t size = 0;
  const auto put = [&](const auto* value) {
    if (value != nullptr) {
      std::memcpy(room.data() + size, value, sizeof(*value));
      size += sizeof(*value);
    }
  };
  put(change.header);
  put(change.text);
  put(change.list);
  return {{.kind = MessageKind::kChange,
           .at = static_cast<std::int64_t>(change.word),
           .value = static_cast<std::int64_t>(change.value)},
          {room.data(), size}};
}

std::optional<Change> decode(const MessageHead& head,
                             std::span<const std::byte> body,
                             ChangeBody& room) noexcept {
  if (head.at < 0 || head.at >= static_cast<std::int64_t>(window::kWords.size())) {
    return std::nullopt;
  }
  Change change{.word = static_cast<WordName>(head.at),
                .value = static_cast<window::Stamp>(head.value)};
  if (window::row_of(change.word).reach != window::Reach::kGroup) {
    return std::nullopt;
  }
  if (change.word == WordName::kSignalled && take(body, room.header)) {
    change.header = &room.header;
  }
  const bool may_say = change.word == WordName::kLeft || change.header != nullptr;
  if (may_say && take(body, room.text)) {
    change.text = &room.text;
  }
  if (change.word == WordName::kList) {
    if (!take(body, room.list)) {
      return std::nullopt;
    }
    change.list = &room.list;
  }
  return body.empty() ? std::optional(change) : std::nullopt;
}

}  // namespace waybill::transport
