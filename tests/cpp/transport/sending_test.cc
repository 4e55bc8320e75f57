#include "transport/sending.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "transport/mirrors.h"
#include "window/memory_budget.h"

namespace waybill::transport {
namespace {

constexpr std::int64_t kWindowBytes = std::int64_t{32} << 20;
constexpr int kFrom = 1;

struct Message {
  MessageHead head;
  std::vector<std::byte> body;
};

/// Keeps what is sent; bodies with in_flight stay borrowed until let_go().
class KeepingWire final : public Wire {
 public:
  void send(int,
            std::span<const std::byte> head,
            std::span<const std::byte> body,
            std::atomic<std::int64_t>* in_flight) override {
    Message message;
    ASSERT_EQ(head.size(), sizeof(message.head));
    ASSERT_LE(body.size(), kWireBodyBytes);
    std::memcpy(&message.head, head.data(), head.size());
    message.body.assign(body.begin(), body.end());
    messages.push_back(std::move(message));
    if (in_flight != nullptr) {
      borrowed.push_back(in_flight);
    }
  }
  bool progress() override { return false; }
  bool is_idle() const noexcept override { return borrowed.empty(); }
  void sever(int) override {}
  void wait(std::chrono::milliseconds) override {}
  void wake() noexcept override {}
  void let_go() {
    for (auto* count : borrowed) {
      count->fetch_sub(1);
    }
    borrowed.clear();
  }

  std::vector<Message> messages;
  std::vector<std::atomic<std::int64_t>*> borrowed;
};

std::vector<std::byte> pattern(std::int64_t bytes) {
  std::vector<std::byte> data(static_cast<std::size_t>(bytes));
  for (std::size_t i = 0; i < data.size(); ++i) {
    data[i] = static_cast<std::byte>(i * 131 + i / 251);
  }
  return data;
}

std::unique_ptr<window::Window> make_window() {
  return std::move(*window::Window::create(kWindowBytes, window::MemoryBudget::process()));
}

/// What a receiver does with the messages; false when the mirror did not become whole.
bool receive(Mirrors& mirrors, const std::vector<Message>& messages) {
  bool whole = false;
  for (const Message& message : messages) {
    const std::byte* body = message.body.data();
    auto left = static_cast<std::int64_t>(message.body.size());
    if (message.head.kind == MessageKind::kRows) {
      if (std::byte* to = mirrors.place(kFrom, message.head, message.head.at, left)) {
        std::memcpy(to, body, message.body.size());
      }
    } else if (message.head.kind == MessageKind::kPacked) {
      PackedPiece piece;
      while (left > 0) {
        std::memcpy(&piece, body, sizeof(piece));
        body += sizeof(piece);
        if (std::byte* to = mirrors.place(kFrom, message.head, piece.at, piece.bytes)) {
          std::memcpy(to, body, static_cast<std::size_t>(piece.bytes));
        }
        body += piece.bytes;
        left -= static_cast<std::int64_t>(sizeof(piece)) + piece.bytes;
      }
    } else if (message.head.kind == MessageKind::kCommit) {
      whole = mirrors.commit(kFrom, message.head);
    }
  }
  return whole;
}

const window::MirrorSlot& slot_of(const window::Window& window, std::size_t half) {
  const std::int64_t table = window.control->mirrors.load() - 1;
  return reinterpret_cast<const window::MirrorSlot*>(window.pool.region().data() +
                                                     table)[window::slot_index(kFrom, half)];
}

class SendingTest : public ::testing::Test {
 protected:
  SendingTest() : window_(make_window()), mirrors_(*Mirrors::create(*window_, 3)) {}

  Parcel parcel_of(const std::vector<std::byte>& data,
                   const std::vector<std::int64_t>& cuts,
                   window::Stamp stamp) {
    Parcel parcel{0, stamp, static_cast<std::int64_t>(data.size()), {}};
    std::int64_t begin = 0;
    for (const std::int64_t end : cuts) {
      parcel.extents.push_back({data.data() + begin, begin, end - begin});
      begin = end;
    }
    return parcel;
  }

  void pump_to_the_end() {
    while (!sending_.has_ended()) {
      sending_.pump(wire_);
      wire_.let_go();
    }
  }

  std::unique_ptr<window::Window> window_;
  Mirrors mirrors_;
  KeepingWire wire_;
  Sending sending_;
};

TEST_F(SendingTest, BytesArriveWhereTheyBelongInPiecesOfAnySize) {
  const auto data = pattern(3'000'000);
  // Smaller than a message, larger than several, empty ones between them.
  const std::vector<std::int64_t> cuts{10, 10, 5'000, 40'000, 1'500'000, 1'500'001, 3'000'000};
  for (std::uint32_t call = 1; call < 5; ++call) {
    sending_.begin(call % 2, parcel_of(data, cuts, window::stamp(1, call)));
    pump_to_the_end();
    ASSERT_TRUE(receive(mirrors_, wire_.messages));
    wire_.messages.clear();
    const window::MirrorSlot& slot = slot_of(*window_, call % 2);
    EXPECT_EQ(slot.arrived.load(), window::stamp(1, call));
    ASSERT_GE(slot.bytes.load(), 3'000'000);
    EXPECT_EQ(
        std::memcmp(window_->pool.region().data() + slot.offset.load(), data.data(), data.size()),
        0);
  }
}

TEST_F(SendingTest, SmallPiecesTravelTogether) {
  const auto data = pattern(64'000);
  std::vector<std::int64_t> cuts;
  for (std::int64_t end = 64; end <= 64'000; end += 64) {
    cuts.push_back(end);
  }
  sending_.begin(0, parcel_of(data, cuts, window::stamp(1, 2)));
  pump_to_the_end();
  EXPECT_LE(wire_.messages.size(), 3U);
  EXPECT_TRUE(receive(mirrors_, wire_.messages));
}

TEST_F(SendingTest, TheCommitWaitsUntilTheLastByteHasLeft) {
  const auto data = pattern(200'000);
  sending_.begin(0, parcel_of(data, {200'000}, window::stamp(1, 2)));
  sending_.pump(wire_);
  for (int i = 0; i < 3; ++i) {
    sending_.pump(wire_);
    EXPECT_NE(wire_.messages.back().head.kind, MessageKind::kCommit);
  }
  EXPECT_FALSE(sending_.has_ended());
  wire_.let_go();
  sending_.pump(wire_);
  EXPECT_EQ(wire_.messages.back().head.kind, MessageKind::kCommit);
  EXPECT_TRUE(sending_.has_ended());
}

TEST_F(SendingTest, WhatIsCancelledNeverCounts) {
  const auto data = pattern(5'000'000);
  sending_.begin(0, parcel_of(data, {5'000'000}, window::stamp(1, 2)));
  sending_.pump(wire_);
  EXPECT_LT(wire_.messages.size(), 60U);  // the wire holds a part at a time
  sending_.cancel();
  sending_.pump(wire_);
  EXPECT_FALSE(sending_.has_ended());  // bytes are still borrowed
  pump_to_the_end();
  EXPECT_FALSE(receive(mirrors_, wire_.messages));
  EXPECT_EQ(slot_of(*window_, 0).arrived.load(), 0U);
}

TEST_F(SendingTest, AMirrorThatIsWrittenAgainDoesNotCountMeanwhile) {
  const auto data = pattern(100'000);
  sending_.begin(0, parcel_of(data, {100'000}, window::stamp(1, 2)));
  pump_to_the_end();
  ASSERT_TRUE(receive(mirrors_, wire_.messages));
  wire_.messages.clear();
  sending_.begin(0, parcel_of(data, {100'000}, window::stamp(1, 4)));
  pump_to_the_end();
  wire_.messages.pop_back();  // the commit
  receive(mirrors_, wire_.messages);
  EXPECT_EQ(slot_of(*window_, 0).arrived.load(), 0U);
}

TEST_F(SendingTest, WrongSizesAreNotWrittenAndNotCounted) {
  MessageHead head{
      .kind = MessageKind::kRows, .half = 0, .stamp = window::stamp(1, 2), .value = 100};
  EXPECT_NE(mirrors_.place(kFrom, head, 0, 100), nullptr);
  for (const auto& [at, bytes] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {-1, 10}, {0, 101}, {91, 10}, {0, -5}, {std::int64_t{1} << 62, std::int64_t{1} << 62}}) {
    head.stamp += 2;
    EXPECT_EQ(mirrors_.place(kFrom, head, at, bytes), nullptr) << at << " " << bytes;
  }
  head.stamp += 2;
  head.value = kWindowBytes * 2;
  EXPECT_EQ(mirrors_.place(kFrom, head, 0, 8), nullptr);
  MessageHead commit = head;
  commit.at = 8;
  EXPECT_TRUE(mirrors_.commit(kFrom, commit));  // readers are told that there is no memory
  EXPECT_LT(slot_of(*window_, 0).bytes.load(), 0);
}

TEST_F(SendingTest, BytesThatAreMissingDoNotCount) {
  MessageHead head{
      .kind = MessageKind::kRows, .half = 1, .stamp = window::stamp(1, 3), .value = 100};
  EXPECT_NE(mirrors_.place(kFrom, head, 0, 60), nullptr);
  head.at = 100;
  EXPECT_FALSE(mirrors_.commit(kFrom, head));
  EXPECT_EQ(slot_of(*window_, 1).arrived.load(), 0U);
}

}  // namespace
}  // namespace waybill::transport
