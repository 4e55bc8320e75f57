#include "transport/sending.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "support/posts.h"
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

  /// The receiver has signalled the call, and the sender begins.
  void send(std::size_t half, const Parcel& parcel) {
    testing::post(window_->board, window::WordName::kSignalled, parcel.stamp);
    (void)sending_.begin(half, parcel, {});
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
    send(call % 2, parcel_of(data, cuts, window::stamp(1, call)));
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
  send(0, parcel_of(data, cuts, window::stamp(1, 2)));
  pump_to_the_end();
  EXPECT_LE(wire_.messages.size(), 3U);
  EXPECT_TRUE(receive(mirrors_, wire_.messages));
}

TEST_F(SendingTest, TheCommitWaitsUntilTheLastByteHasLeft) {
  const auto data = pattern(200'000);
  send(0, parcel_of(data, {200'000}, window::stamp(1, 2)));
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
  send(0, parcel_of(data, {5'000'000}, window::stamp(1, 2)));
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
  send(0, parcel_of(data, {100'000}, window::stamp(1, 2)));
  pump_to_the_end();
  ASSERT_TRUE(receive(mirrors_, wire_.messages));
  wire_.messages.clear();
  send(0, parcel_of(data, {100'000}, window::stamp(1, 4)));
  pump_to_the_end();
  wire_.messages.pop_back();  // the commit
  receive(mirrors_, wire_.messages);
  EXPECT_EQ(slot_of(*window_, 0).arrived.load(), 0U);
}

TEST_F(SendingTest, WrongSizesAreNotWrittenAndNotCounted) {
  MessageHead head{
      .kind = MessageKind::kRows, .half = 0, .stamp = window::stamp(1, 2), .value = 100};
  testing::post(window_->board, window::WordName::kSignalled, window::stamp(1, 1000));
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
  testing::post(window_->board, window::WordName::kSignalled, head.stamp);
  EXPECT_NE(mirrors_.place(kFrom, head, 0, 60), nullptr);
  head.at = 100;
  EXPECT_FALSE(mirrors_.commit(kFrom, head));
  EXPECT_EQ(slot_of(*window_, 1).arrived.load(), 0U);
}

TEST_F(SendingTest, WhatWasClaimedIsClaimedAgainAndLeavesAtOnce) {
  constexpr std::int64_t kGranule = window::kGranule;
  const auto data = pattern(100 * kGranule);
  window::Stamp sent = 0;
  const auto claim = [&](std::uint32_t call, std::int64_t granules, int agent, bool ended_well) {
    Parcel parcel = parcel_of(data, {granules * kGranule}, window::stamp(1, call));
    parcel.agent = agent;
    const LastCalls last = {sent, ended_well ? window::stamp(1, call - 2) : 0};
    sent = parcel.stamp;
    const Claim made = sending_.begin(0, parcel, last);
    return std::pair(made.granules, made.waits);
  };
  EXPECT_EQ(claim(2, 4, 0, true), std::pair(std::int64_t{4}, true)) << "nothing is held yet";
  EXPECT_EQ(claim(4, 4, 0, true), std::pair(std::int64_t{4}, false));
  EXPECT_EQ(claim(6, 3, 0, true), std::pair(std::int64_t{4}, false)) << "it may be 4 again";
  EXPECT_EQ(claim(8, 100, 0, true), std::pair(std::int64_t{100}, true));
  EXPECT_EQ(claim(10, 1, 0, true), std::pair(std::int64_t{1}, false)) << "much less";
  EXPECT_EQ(claim(12, 3, 2, true), std::pair(std::int64_t{3}, true)) << "another receiver";
  EXPECT_EQ(claim(14, 3, 2, false), std::pair(std::int64_t{3}, true)) << "the last call failed";
  EXPECT_EQ(claim(18, 3, 2, true), std::pair(std::int64_t{3}, false)) << "16 sent nothing";
  sent = window::stamp(1, 20);
  EXPECT_EQ(claim(22, 3, 2, true), std::pair(std::int64_t{3}, true)) << "20 sent, not this rank";
}

TEST_F(SendingTest, AClaimCountsEachGranuleOnce) {
  constexpr std::int64_t kGranule = window::kGranule;
  const auto data = pattern(8 * kGranule);
  Parcel parcel{0, window::stamp(1, 2), 8 * kGranule, {}};
  // Three rows in the first granule, one across the edge to the third, one in the last.
  for (const auto& [at, bytes] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {0, 10}, {20, 10}, {kGranule - 10, 10}, {2 * kGranule - 5, 10}, {7 * kGranule, 1}}) {
    parcel.extents.push_back({data.data() + at, at, bytes});
  }
  EXPECT_EQ(sending_.begin(0, parcel, {}).granules, 4);
}

/// Mirrors of granules, told what a receiver signals and what comes.
class MirrorsTest : public SendingTest {
 protected:
  static constexpr std::int64_t kGranule = window::kGranule;

  void signal(std::uint32_t call) {
    testing::post(window_->board, window::WordName::kSignalled, window::stamp(1, call));
  }
  void end(std::uint32_t call) {
    testing::post(window_->board, window::WordName::kDone, window::stamp(1, call));
  }
  void forbid_memory() {
    auto& budget = window::MemoryBudget::process();
    budget.set_limit(budget.reserved());
  }
  ~MirrorsTest() override { window::MemoryBudget::process().set_limit(std::nullopt); }

  /// Of `span` granules those that begin at `granules` are written. True where there was memory.
  bool comes(std::uint32_t call,
             int from,
             std::int64_t span,
             const std::vector<std::int64_t>& granules) {
    MessageHead head{.kind = MessageKind::kRows,
                     .half = call % 2,
                     .stamp = window::stamp(1, call),
                     .value = span * kGranule,
                     .claim = static_cast<std::int64_t>(granules.size())};
    for (const std::int64_t granule : granules) {
      if (std::byte* to = mirrors_.place(from, head, granule * kGranule, kGranule)) {
        std::memset(to, static_cast<int>(call) + from, kGranule);
        head.at += kGranule;
      }
    }
    EXPECT_EQ(mirrors_.commit(from, head), true);
    const std::int64_t table = window_->control->mirrors.load() - 1;
    const auto& slot = reinterpret_cast<const window::MirrorSlot*>(
        window_->pool.region().data() + table)[window::slot_index(from, call % 2)];
    const std::byte* mirror = window_->pool.region().data() + slot.offset.load();
    for (const std::int64_t granule :
         slot.bytes.load() < 0 ? std::vector<std::int64_t>() : granules) {
      EXPECT_EQ(mirror[granule * kGranule],
                static_cast<std::byte>(call + static_cast<unsigned>(from)));
    }
    return slot.bytes.load() == span * kGranule;
  }
};

TEST_F(MirrorsTest, MemoryIsTakenAfterTheSignalOnly) {
  EXPECT_FALSE(comes(2, 1, 3, {0, 1, 2}));
  EXPECT_EQ(mirrors_.room(0, window::stamp(1, 2)).left, 0) << "an error of all ranks";
  EXPECT_GT(mirrors_.room(0, window::stamp(1, 4)).left, 0) << "of this call only";
  signal(4);
  EXPECT_TRUE(comes(4, 1, 3, {0, 1, 2}));
  end(4);
  EXPECT_FALSE(comes(4, 2, 3, {0, 1, 2})) << "of a call that is over";
}

TEST_F(MirrorsTest, WhatIsHeldIsForWhoeverComes) {
  signal(2);
  EXPECT_TRUE(comes(2, 1, 4, {0, 1, 2, 3}));
  forbid_memory();
  EXPECT_TRUE(comes(4, 2, 4, {0, 1})) << "before the signal, too";
  EXPECT_TRUE(comes(4, 1, 4, {1, 3})) << "also apart from the others";
  EXPECT_EQ(mirrors_.room(0, window::stamp(1, 4)).held, 4);
  EXPECT_FALSE(comes(4, 0, 4, {2}));
  EXPECT_EQ(mirrors_.room(0, window::stamp(1, 4)).held, 0);
  EXPECT_EQ(mirrors_.room(1, window::stamp(1, 5)).held, 0) << "each half has its own";
}

TEST_F(MirrorsTest, WhatIsHeldStaysWhenMoreComes) {
  for (const std::uint32_t call : {2U, 4U, 6U}) {
    signal(call);
    for (int from = 0; from < 3; ++from) {
      EXPECT_TRUE(comes(call, from, 10 * call, {0, 5, 9}));
    }
    EXPECT_GE(mirrors_.room(0, window::stamp(1, call)).held, 9);
  }
  forbid_memory();
  for (int from = 0; from < 3; ++from) {
    EXPECT_TRUE(comes(8, from, 60, {1, 20, 59}));
  }
}

TEST_F(MirrorsTest, AClaimIsHeldAlsoWhereLessComes) {
  signal(2);
  MessageHead head{.kind = MessageKind::kRows,
                   .half = 0,
                   .stamp = window::stamp(1, 2),
                   .value = 8 * kGranule,
                   .claim = 5};
  ASSERT_NE(mirrors_.place(1, head, 0, kGranule), nullptr);
  head.at = kGranule;
  EXPECT_TRUE(mirrors_.commit(1, head));
  EXPECT_EQ(mirrors_.room(0, window::stamp(1, 2)).held, 1) << "it lies apart";
  signal(4);
  head.stamp = window::stamp(1, 4);
  ASSERT_NE(mirrors_.place(1, head, 0, kGranule), nullptr);
  EXPECT_TRUE(mirrors_.commit(1, head));
  EXPECT_EQ(mirrors_.room(0, window::stamp(1, 4)).held, 5);
}

}  // namespace
}  // namespace waybill::transport
