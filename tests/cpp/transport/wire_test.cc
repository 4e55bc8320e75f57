// What every wire has to do.
#include "transport/wire.h"

#include <algorithm>

#include "transport/wires.h"

namespace waybill::transport {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

enum class Kind { kLocal, kUcx };

class Wires : public ::testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    if (GetParam() == Kind::kUcx) {
      if (const std::string why = why_no_ucx(); !why.empty()) {
        GTEST_SKIP() << why;
      }
    }
  }

  static std::vector<std::unique_ptr<Wire>> make(int world_size) {
    return GetParam() == Kind::kUcx ? make_ucx_wires(world_size) : make_local_wires(world_size);
  }
};

INSTANTIATE_TEST_SUITE_P(All,
                         Wires,
                         ::testing::Values(Kind::kLocal, Kind::kUcx),
                         [](const auto& chosen) {
                           return chosen.param == Kind::kLocal ? "local" : "ucx";
                         });

TEST_P(Wires, MessagesOfEverySizeComeWhole) {
  auto ranks = drive(make(2));
  ASSERT_EQ(ranks.size(), 2U);
  std::vector<std::size_t> sizes = {0, 1, 63, 64, 1000, 2048, 4096, kWireBodyBytes};
  for (const std::size_t around : {8192U, 16384U, 32768U, 57344U}) {
    for (std::size_t size = around - 200; size <= std::min<std::size_t>(around + 50, 57344);
         size += 25) {
      sizes.push_back(size);
    }
  }
  std::atomic<std::int64_t> in_flight{0};
  std::vector<std::vector<std::byte>> bodies;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    bodies.push_back(pattern(sizes[i], static_cast<int>(i)));
    const auto head = pattern(i % (kWireHeadBytes + 1), static_cast<int>(i));
    ranks[0]->send(1, head, bodies.back(), &in_flight);
    ranks[0]->send(1, head, std::vector<std::byte>(bodies.back()));
  }
  const auto messages = ranks[1]->messages(2 * sizes.size());
  ASSERT_EQ(messages.size(), 2 * sizes.size());
  for (std::size_t m = 0; m < messages.size(); ++m) {
    const std::size_t i = m / 2;
    EXPECT_EQ(messages[m].from, 0);
    EXPECT_TRUE(messages[m].head == pattern(i % (kWireHeadBytes + 1), static_cast<int>(i))) << i;
    EXPECT_TRUE(messages[m].body == bodies[i]) << sizes[i];
  }
  EXPECT_TRUE(comes_true([&] { return in_flight == 0; }));
  EXPECT_TRUE(comes_true([&] { return ranks[0]->is_idle(); }));
}

TEST_P(Wires, ManyMessagesComeInOrder) {
  constexpr std::uint32_t kMany = 20000;
  auto ranks = drive(make(2));
  ASSERT_EQ(ranks.size(), 2U);
  const auto small = pattern(100, 0);
  const auto large = pattern(20000, 0);
  std::atomic<std::int64_t> in_flight{0};
  for (std::uint32_t i = 0; i < kMany; ++i) {
    if (i % 64 == 5) {
      ranks[0]->send(1, bytes_of(i), large, &in_flight);
    } else if (i % 16 == 3) {
      ranks[0]->send(1, bytes_of(i), large);
    } else if (i % 8 == 7) {
      ranks[0]->send(1, bytes_of(i), small, &in_flight);
    } else {
      ranks[0]->send(1, bytes_of(i));
    }
  }
  const auto messages = ranks[1]->messages(kMany);
  ASSERT_EQ(messages.size(), kMany);
  for (std::uint32_t i = 0; i < kMany; ++i) {
    ASSERT_EQ(value_of<std::uint32_t>(messages[i].head), i);
  }
  EXPECT_TRUE(comes_true([&] { return in_flight == 0; }));
}

/// More than the network holds, both ways at once: nobody may wait for the other.
TEST_P(Wires, BothDirectionsAtOnce) {
  constexpr std::size_t kMany = 1000;
  auto ranks = drive(make(2));
  ASSERT_EQ(ranks.size(), 2U);
  const auto body = pattern(kWireBodyBytes, 1);
  std::array<std::atomic<std::int64_t>, 2> in_flight{};
  std::atomic<int> wrong{0};
  for (auto& rank : ranks) {
    rank->keep = false;
  }
  for (std::size_t i = 0; i < kMany; ++i) {
    ranks[0]->send(1, bytes_of(i), body, &in_flight[0]);
    ranks[1]->send(0, bytes_of(i), body, &in_flight[1]);
  }
  for (std::size_t r = 0; r < 2; ++r) {
    EXPECT_TRUE(comes_true([&] { return ranks[r]->num_messages == kMany; }));
    EXPECT_TRUE(comes_true([&] { return in_flight[r] == 0; }));
    EXPECT_TRUE(ranks[r]->lost().empty());
  }
}

TEST_P(Wires, AllToAll) {
  constexpr int kRanks = 4;
  constexpr std::uint32_t kMany = 300;
  auto ranks = drive(make(kRanks));
  ASSERT_EQ(ranks.size(), static_cast<std::size_t>(kRanks));
  const auto body = pattern(9000, 3);
  std::atomic<std::int64_t> in_flight{0};
  for (std::uint32_t i = 0; i < kMany; ++i) {
    for (int from = 0; from < kRanks; ++from) {
      for (int to = 0; to < kRanks; ++to) {
        if (from != to) {
          ranks[static_cast<std::size_t>(from)]->send(to, bytes_of(i), body, &in_flight);
        }
      }
    }
  }
  for (auto& rank : ranks) {
    std::vector<std::uint32_t> next(kRanks);
    const auto messages = rank->messages((kRanks - 1) * kMany);
    ASSERT_EQ(messages.size(), (kRanks - 1) * kMany);
    for (const auto& message : messages) {
      EXPECT_EQ(value_of<std::uint32_t>(message.head),
                next[static_cast<std::size_t>(message.from)]++);
      EXPECT_TRUE(message.body == body);
    }
  }
  EXPECT_TRUE(comes_true([&] { return in_flight == 0; }));
}

TEST_P(Wires, AnswersMayBeSentFromInside) {
  constexpr std::uint32_t kMany = 2000;
  auto wires = make(2);
  ASSERT_EQ(wires.size(), 2U);
  Driven caller(std::move(wires[0]));
  Driven answerer(std::move(wires[1]));
  answerer.keep = false;
  {
    const std::lock_guard<std::mutex> lock(answerer.mutex());
    answerer.answer = [](Wire& wire, int from, std::span<const std::byte> head) {
      wire.send(from, head, {}, nullptr);
    };
  }
  for (std::uint32_t i = 0; i < kMany; ++i) {
    caller.send(1, bytes_of(i));
  }
  const auto messages = caller.messages(kMany);
  ASSERT_EQ(messages.size(), kMany);
  for (std::uint32_t i = 0; i < kMany; ++i) {
    ASSERT_EQ(value_of<std::uint32_t>(messages[i].head), i);
  }
}

TEST_P(Wires, SeveredIsOverAtOnce) {
  const auto body = pattern(kWireBodyBytes, 0);  // stays as long as the wires
  auto ranks = drive(make(3));
  ASSERT_EQ(ranks.size(), 3U);
  ranks[1]->stop();
  std::atomic<std::int64_t> in_flight{0};
  {
    const std::lock_guard<std::mutex> lock(ranks[0]->mutex());
    in_flight = 2000;
    for (std::uint32_t i = 0; i < 2000; ++i) {
      ranks[0]->wire().send(1, bytes_of(i), body, &in_flight);
    }
    EXPECT_GT(in_flight, 0);
    ranks[0]->wire().sever(1);
    EXPECT_EQ(in_flight, 0);
  }
  const auto nothing = pattern(100, 0);
  ranks[0]->send(1, {}, nothing, &in_flight);
  EXPECT_EQ(in_flight, 0);
  ranks[0]->sever(1);

  EXPECT_TRUE(comes_true([&] {
    (void)ranks[1]->wire().progress();
    return !ranks[1]->lost().empty();
  }));
  EXPECT_EQ(ranks[1]->lost(), std::vector<int>{0});
  // What came before it came whole.
  const auto whole = pattern(kWireBodyBytes, 0);
  for (const auto& message : ranks[1]->messages(0)) {
    EXPECT_TRUE(message.body == whole);
  }

  ranks[0]->send(2, bytes_of(7));
  EXPECT_EQ(ranks[2]->messages(1).size(), 1U);
  EXPECT_TRUE(ranks[0]->lost().empty());
  EXPECT_TRUE(ranks[2]->lost().empty());
}

TEST_P(Wires, TheOtherEndOfASeveredConnectionIsTold) {
  for (const int severing : {0, 1}) {
    auto ranks = drive(make(2));
    ASSERT_EQ(ranks.size(), 2U);
    auto& other = ranks[static_cast<std::size_t>(1 - severing)];
    ranks[static_cast<std::size_t>(severing)]->sever(1 - severing);
    EXPECT_TRUE(comes_true([&] { return !other->lost().empty(); }));
    EXPECT_EQ(other->lost(), std::vector<int>{severing});
    EXPECT_TRUE(ranks[static_cast<std::size_t>(severing)]->lost().empty());
  }
}

TEST_P(Wires, ALostRankIsToldOnce) {
  auto ranks = drive(make(3));
  ASSERT_EQ(ranks.size(), 3U);
  const auto body = pattern(kWireBodyBytes, 0);
  std::atomic<std::int64_t> in_flight{0};
  ranks[1]->stop();
  for (std::uint32_t i = 0; i < 1000; ++i) {
    ranks[0]->send(1, bytes_of(i), body, &in_flight);
  }
  ranks[1]->destroy();
  EXPECT_TRUE(comes_true([&] { return !ranks[0]->lost().empty() && !ranks[2]->lost().empty(); }));
  EXPECT_EQ(in_flight, 0);
  EXPECT_FALSE(ranks[0]->why().empty());
  ranks[0]->send(1, {}, body, &in_flight);
  EXPECT_EQ(in_flight, 0);
  ranks[0]->send(2, bytes_of(7));
  EXPECT_EQ(ranks[2]->messages(1).size(), 1U);
  EXPECT_EQ(ranks[0]->lost(), std::vector<int>{1});
  EXPECT_EQ(ranks[2]->lost(), std::vector<int>{1});
}

/// Who leaves when its wire is idle leaves nothing behind, also when the network was full.
TEST_P(Wires, LastWordsComeBeforeTheLoss) {
  constexpr std::uint32_t kMany = 500;
  for (const std::size_t bytes : {std::size_t{0}, kWireBodyBytes}) {
    auto ranks = drive(make(2));
    ASSERT_EQ(ranks.size(), 2U);
    const auto body = pattern(bytes, 0);
    std::atomic<std::int64_t> in_flight{0};
    for (std::uint32_t i = 0; i < kMany; ++i) {
      ranks[1]->send(0, bytes_of(i), body, &in_flight);
    }
    EXPECT_TRUE(comes_true([&] { return ranks[1]->is_idle(); }));
    EXPECT_EQ(in_flight, 0);
    ranks[1]->destroy();
    EXPECT_TRUE(comes_true([&] { return !ranks[0]->lost().empty(); }));
    const auto messages = ranks[0]->messages(kMany);
    ASSERT_EQ(messages.size(), kMany);
    EXPECT_TRUE(messages.back().body == body);
  }
}

TEST_P(Wires, AMessageEndsASleep) {
  auto wires = make(2);
  ASSERT_EQ(wires.size(), 2U);
  Driven sleeper(std::move(wires[1]));
  Driven sender(std::move(wires[0]));
  std::vector<milliseconds> times;
  for (std::size_t i = 0; i < 100; ++i) {
    std::this_thread::sleep_for(std::chrono::microseconds(i * 37 % 3000));
    const auto start = steady_clock::now();
    sender.send(1, bytes_of(i));
    ASSERT_TRUE(comes_true([&] { return sleeper.num_messages > i; }));
    times.push_back(std::chrono::duration_cast<milliseconds>(steady_clock::now() - start));
  }
  std::sort(times.begin(), times.end());
  EXPECT_LT(times[50], milliseconds(20));
  EXPECT_LT(times.back(), milliseconds(2000));
}

/// wait() in one thread, progress() in another that may take what would have ended the sleep.
TEST_P(Wires, NoWakeUpIsLostToAnotherThread) {
  constexpr std::uint32_t kRounds = 500;
  auto wires = make(2);
  ASSERT_EQ(wires.size(), 2U);
  Driven one(std::move(wires[0]));
  Driven other(std::move(wires[1]));
  std::atomic<bool> over{false};
  std::thread helper([&] {
    while (!over) {
      for (Driven* each : {&one, &other}) {
        const std::lock_guard<std::mutex> lock(each->mutex());
        (void)each->wire().progress();
      }
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  });
  for (std::uint32_t i = 0; i < kRounds; ++i) {
    one.send(1, bytes_of(i));
    EXPECT_TRUE(comes_true([&] { return other.num_messages > i; }));
    other.send(0, bytes_of(i));
    EXPECT_TRUE(comes_true([&] { return one.num_messages > i; }));
  }
  over = true;
  helper.join();
}

TEST_P(Wires, WakeEndsASleepAndIsRemembered) {
  auto wires = make(2);
  ASSERT_EQ(wires.size(), 2U);
  Wire& wire = *wires[0];
  while (wire.progress()) {
  }
  const auto start = steady_clock::now();
  wire.wake();
  wire.wait(kLong);
  for (int i = 0; i < 20; ++i) {
    std::thread waker([&] {
      std::this_thread::sleep_for(milliseconds(2));
      wire.wake();
    });
    wire.wait(kLong);
    waker.join();
  }
  EXPECT_LT(steady_clock::now() - start, kLong / 2);
  while (wire.progress()) {
  }
  const auto quiet = steady_clock::now();
  wire.wait(milliseconds(0));
  wire.wait(milliseconds(0));
  wire.wait(milliseconds(150));
  EXPECT_LT(steady_clock::now() - quiet, kLong / 2);
}

}  // namespace
}  // namespace waybill::transport
