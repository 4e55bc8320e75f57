// Messages of a rank of another host against the transport that receives them: bytes are written
// inside the mirror that they announce and nowhere else, and a mirror counts as arrived exactly
// when every byte of it that was sent has come.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "drawing.h"
#include "transport/local.h"
#include "transport/remote.h"
#include "window/memory_budget.h"

namespace waybill::fuzz {
namespace {

using transport::bytes_of;
using transport::MessageHead;
using transport::MessageKind;

constexpr std::int64_t kWindowBytes = std::int64_t{4} << 20;
constexpr int kOther = 1;

/// Nobody is at its other end.
class EmptyWire final : public transport::Wire {
 public:
  void send(int,
            std::span<const std::byte>,
            std::span<const std::byte>,
            std::atomic<std::int64_t>* in_flight) override {
    if (in_flight != nullptr) {
      in_flight->fetch_sub(1);
    }
  }
  bool progress() override {
    for (const auto& [head, body] : std::exchange(coming, {})) {
      listener_->on_message(from, head, body);
    }
    return false;
  }
  bool is_idle() const noexcept override { return true; }
  void sever(int) override {}
  void wait(std::chrono::milliseconds) override {}
  void wake() noexcept override {}

  int from = kOther;
  std::vector<std::pair<std::vector<std::byte>, std::vector<std::byte>>> coming;
};

std::shared_ptr<window::Window> new_window(int rank) {
  window::WindowOptions options;
  options.identity = window::make_identity("fuzz", "fuzz", rank, 2);
  auto window = window::Window::create(kWindowBytes, window::MemoryBudget::process(), options);
  return window.ok() ? std::shared_ptr<window::Window>(std::move(*window)) : nullptr;
}

/// What has to hold of one mirror.
struct Expected {
  window::Stamp stamp = 0;
  std::int64_t bytes = 0;
  bool bad = false;
  bool whole = false;
};

MessageHead draw_head(Draw& draw) {
  MessageHead head;
  head.kind = static_cast<MessageKind>(draw.in(0, 6));
  head.half = static_cast<std::uint32_t>(draw.wild(draw.in(0, 1)));
  head.stamp = static_cast<window::Stamp>(draw.in(1, 4));
  head.value = draw.wild(draw.in(0, 4096));
  const bool names_word = head.kind == MessageKind::kChange;
  head.at = draw.wild(names_word ? draw.in(-1, static_cast<std::int64_t>(window::kWords.size()))
                                 : draw.in(0, 4096));
  return head;
}

/// A length that some change has, or any other.
std::size_t draw_change_length(Draw& draw) {
  constexpr std::size_t kLengths[] = {0,
                                      sizeof(window::CallHeader),
                                      sizeof(window::CallHeader) + sizeof(window::Refusal),
                                      sizeof(window::Refusal),
                                      sizeof(window::ResetList)};
  return draw.seldom() ? draw.index(2048) : kLengths[draw.index(std::size(kLengths))];
}

std::vector<std::byte> draw_body(Draw& draw, const MessageHead& head) {
  const std::size_t length = head.kind == MessageKind::kChange
                                 ? draw_change_length(draw)
                                 : static_cast<std::size_t>(draw.in(0, 2048));
  std::vector<std::byte> body(length, std::byte{7});
  if (head.kind == MessageKind::kPacked) {
    std::size_t at = 0;
    while (at + sizeof(transport::PackedPiece) <= body.size()) {
      const transport::PackedPiece piece{draw.wild(draw.in(0, 4096)), draw.wild(draw.in(0, 256))};
      std::memcpy(body.data() + at, &piece, sizeof(piece));
      at += sizeof(piece) + static_cast<std::size_t>(std::clamp<std::int64_t>(piece.bytes, 0, 256));
    }
  }
  return body;
}

/// False for a packed message without a whole piece: it says nothing of its mirror.
bool says_something(const MessageHead& head, const std::vector<std::byte>& body) {
  transport::PackedPiece first;
  if (head.kind != MessageKind::kPacked) {
    return true;
  }
  if (body.size() < sizeof(first)) {
    return false;
  }
  std::memcpy(&first, body.data(), sizeof(first));
  return first.bytes <= static_cast<std::int64_t>(body.size() - sizeof(first));
}

/// The bytes of a message that lie inside what its head announces; -1 where one does not.
std::int64_t right_bytes(const MessageHead& head, const std::vector<std::byte>& body) {
  const auto fits = [&](std::int64_t at, std::int64_t bytes) {
    return head.value >= 0 && head.value <= kWindowBytes && at >= 0 && bytes >= 0 &&
           bytes <= head.value && at <= head.value - bytes;
  };
  if (head.kind == MessageKind::kRows) {
    const auto bytes = static_cast<std::int64_t>(body.size());
    return fits(head.at, bytes) ? bytes : -1;
  }
  std::int64_t total = 0;
  std::size_t at = 0;
  transport::PackedPiece piece;
  while (at + sizeof(piece) <= body.size()) {
    std::memcpy(&piece, body.data() + at, sizeof(piece));
    at += sizeof(piece);
    const auto bytes = static_cast<std::size_t>(std::max<std::int64_t>(piece.bytes, 0));
    if (bytes > body.size() - at) {
      break;  // the rest of the message is no message
    }
    if (!fits(piece.at, piece.bytes)) {
      return -1;
    }
    total += piece.bytes;
    at += bytes;
  }
  return total;
}

void check_slot(const transport::OtherHosts& others,
                const window::Window& window,
                std::size_t half,
                const Expected& expected) {
  const window::MirrorSlot& slot = others.slot(0, kOther, half);
  const window::Stamp arrived = slot.arrived.load();
  expect(arrived == 0 || arrived == expected.stamp, "a mirror of another call counts");
  const std::int64_t bytes = slot.bytes.load();
  if (arrived != 0 && bytes >= 0) {
    expect(!expected.bad, "a mirror counts that holds bytes outside of it");
    const std::int64_t offset = slot.offset.load();
    expect(offset >= 0 && offset + bytes <= window.pool.region().size_bytes(),
           "a mirror outside of the pool");
  }
}

void run(Draw& draw) {
  const auto own = new_window(0);
  const auto other = new_window(kOther);
  expect(own != nullptr && other != nullptr, "no memory for windows");
  auto mirrors = transport::Mirrors::create(*own, 2);
  expect(mirrors.ok(), "no memory for mirrors");
  // Of most stamps this rank has signalled the call: it takes memory for what comes.
  own->board.replay({.word = window::WordName::kSignalled, .value = ~window::Stamp{0} / 2});
  auto wire = std::make_unique<EmptyWire>();
  EmptyWire& messages = *wire;
  const std::vector<transport::Greeting> greetings{{own->control->identity, false, "", ""},
                                                   {other->control->identity, false, "", ""}};
  transport::RemoteOptions options;
  options.hosts = {"here", "there"};
  options.progress_thread = false;
  transport::RemoteTransport remote(
      std::make_unique<transport::LocalTransport>(
          std::vector<std::shared_ptr<window::Window>>{own, other}, kWindowBytes),
      own,
      std::move(*mirrors),
      std::move(wire),
      greetings,
      options);
  std::array<Expected, 2> expected;
  for (int i = 0; i < 64 && !draw.ended(); ++i) {
    const MessageHead head = draw_head(draw);
    const auto body = draw_body(draw, head);
    auto head_bytes = bytes_of(head);
    head_bytes = head_bytes.first(draw.seldom() ? draw.index(sizeof(head)) : sizeof(head));
    messages.from = draw.wild_int(kOther);
    messages.coming.push_back({{head_bytes.begin(), head_bytes.end()}, body});
    remote.drive();
    const bool counts = messages.from == kOther && head_bytes.size() == sizeof(head);
    const bool mirrored = head.kind == MessageKind::kRows || head.kind == MessageKind::kPacked ||
                          head.kind == MessageKind::kCommit;
    Expected& mirror = expected[head.half % 2];
    if (counts && mirrored && head.stamp > mirror.stamp && says_something(head, body)) {
      mirror = {head.stamp, 0, false, false};
    }
    const bool over = head.stamp < mirror.stamp;  // what comes of an earlier call is dropped
    if (counts && mirrored && head.kind != MessageKind::kCommit && !mirror.whole && !over) {
      const std::int64_t right = right_bytes(head, body);
      mirror.bad = mirror.bad || right < 0;
      mirror.bytes += std::max<std::int64_t>(right, 0);
    }
    for (const std::size_t half : {0U, 1U}) {
      check_slot(remote, *own, half, expected[half]);
    }
    if (counts && head.kind == MessageKind::kCommit && !over) {
      mirror.whole = mirror.whole || mirror.bad || mirror.bytes == head.at;
      const window::MirrorSlot& slot = remote.slot(0, kOther, head.half % 2);
      const bool arrived = slot.arrived.load() == head.stamp && slot.bytes.load() >= 0;
      expect(!arrived || mirror.whole, "a mirror counts that is not whole");
    }
  }
}

}  // namespace
}  // namespace waybill::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  waybill::fuzz::Draw draw(data, size);
  waybill::fuzz::run(draw);
  return 0;
}
