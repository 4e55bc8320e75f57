// Messages of a rank of another host against the transport that receives them: bytes are written
// inside the mirror that they announce and nowhere else, and a mirror counts as arrived exactly
// when every byte of it that was sent has come.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
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
  head.kind = static_cast<MessageKind>(draw.in(0, 8));
  head.half = static_cast<std::uint32_t>(draw.wild(draw.in(0, 1)));
  head.stamp = static_cast<window::Stamp>(draw.in(1, 4));
  head.value = draw.wild(draw.in(0, 4096));
  head.at = draw.wild(draw.in(0, 4096));
  return head;
}

std::vector<std::byte> draw_body(Draw& draw, const MessageHead& head) {
  std::vector<std::byte> body(static_cast<std::size_t>(draw.in(0, 2048)), std::byte{7});
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

void check_slot(const transport::Transport& transport,
                const window::Window& window,
                std::size_t half,
                const Expected& expected) {
  const window::MirrorSlot& slot = transport.slot(0, kOther, half);
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
    if (counts && mirrored && mirror.stamp != head.stamp &&
        (head.kind != MessageKind::kPacked || body.size() >= sizeof(transport::PackedPiece))) {
      mirror = {head.stamp, 0, false, false};
    }
    if (counts && mirrored && head.kind != MessageKind::kCommit && !mirror.whole) {
      const std::int64_t right = right_bytes(head, body);
      mirror.bad = mirror.bad || right < 0;
      mirror.bytes += std::max<std::int64_t>(right, 0);
    }
    for (const std::size_t half : {0U, 1U}) {
      check_slot(remote, *own, half, expected[half]);
    }
    if (counts && head.kind == MessageKind::kCommit) {
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
