// The wire between processes, of which some are killed or stopped. Each uses the loopback device.
#include "transport/ucx/ucx_wire.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <thread>

#include "support/processes.h"

namespace waybill::transport {
namespace {

using std::chrono::duration_cast;
using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;
using testing::Processes;

constexpr seconds kLong{30};

/// Where the ranks leave their addresses for each other.
struct Board {
  struct Entry {
    std::array<char, 4000> address;
    std::atomic<std::size_t> bytes;
  };
  std::array<Entry, 4> entries;
  std::atomic<std::int64_t> killed_at_ms;
};

Board* make_board() {
  void* memory =
      mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return new (memory) Board();
}

std::int64_t now_ms() {
  return duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count();
}

struct Counter : WireListener {
  void on_message(int,
                  std::span<const std::byte>,
                  std::span<const std::byte> body) noexcept override {
    ++messages;
    for (const std::byte b : body.first(std::min<std::size_t>(body.size(), 8))) {
      wrong += b != std::byte{7} ? 1 : 0;
    }
  }
  void on_lost(int rank, const std::string& reason) noexcept override {
    lost.push_back(rank);
    why = reason;
    lost_at_ms = now_ms();
  }

  std::int64_t messages = 0;
  std::int64_t wrong = 0;
  std::vector<int> lost;
  std::string why;
  std::int64_t lost_at_ms = 0;
};

/// One process's end.
struct Rank {
  Rank(Board& board, int rank, int world_size) {
    auto opened = UcxWire::open(rank, world_size);
    if (!opened.ok()) {
      problem = opened.status().message();
      return;
    }
    wire = std::move(*opened);
    auto& mine = board.entries[static_cast<std::size_t>(rank)];
    std::memcpy(mine.address.data(), wire->address().data(), wire->address().size());
    mine.bytes = wire->address().size();
    std::vector<std::string> addresses;
    for (int r = 0; r < world_size; ++r) {
      auto& entry = board.entries[static_cast<std::size_t>(r)];
      while (entry.bytes == 0) {
        std::this_thread::yield();
      }
      addresses.emplace_back(entry.address.data(), entry.bytes);
    }
    const Status met = wire->connect(addresses, {steady_clock::now() + kLong, {}});
    problem = met.ok() ? "" : met.message();
    wire->listen(&counter);
  }

  /// Moves messages until it holds; false when it does not in time.
  template <typename Condition>
  bool run_until(const Condition& condition, milliseconds limit = kLong) {
    for (const auto end = steady_clock::now() + limit; !condition();) {
      if (steady_clock::now() > end) {
        return false;
      }
      if (!wire->progress()) {
        wire->wait(milliseconds(50));
      }
    }
    return true;
  }

  Counter counter;
  std::unique_ptr<UcxWire> wire;
  std::string problem;
};

/// The reason why there is no UCX here, from a child: a process that has used it must not fork.
std::string why_no_ucx() {
#ifdef __SANITIZE_THREAD__
  return "libucp is not built for the thread sanitizer";
#else
  Processes one(1, [](int) {
    auto wire = UcxWire::open(0, 1);
    return wire.ok() ? "" : wire.status().message();
  });
  return one.join(kLong) ? one.text(0) : "opening a wire took too long";
#endif
}

class UcxProcesses : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = why_no_ucx(); !why.empty()) {
      GTEST_SKIP() << why;
    }
    board_ = make_board();
  }
  void TearDown() override {
    if (board_ != nullptr) {
      munmap(board_, sizeof(Board));
    }
  }

  Board* board_ = nullptr;
};

TEST_F(UcxProcesses, AllTalkToAll) {
  constexpr int kRanks = 4;
  constexpr std::int64_t kMany = 400;
  Processes ranks(kRanks, [this](int r) -> std::string {
    Rank rank(*board_, r, kRanks);
    if (!rank.problem.empty()) {
      return rank.problem;
    }
    const std::vector<std::byte> body(kWireBodyBytes, std::byte{7});
    std::atomic<std::int64_t> in_flight{0};
    for (std::int64_t i = 0; i < kMany; ++i) {
      for (int to = 0; to < kRanks; ++to) {
        if (to != r) {
          ++in_flight;
          rank.wire->send(to, {}, body, &in_flight);
        }
      }
    }
    const bool came = rank.run_until(
        [&] { return rank.counter.messages == (kRanks - 1) * kMany && rank.wire->is_idle(); });
    // Who leaves is lost to those who still wait, but only after its last words.
    return came && rank.counter.wrong == 0 ? "" : "did not get all";
  });
  ASSERT_TRUE(ranks.join(2 * kLong));
  for (int r = 0; r < kRanks; ++r) {
    EXPECT_EQ(ranks.text(r), "");
  }
}

/// Rank 1 is killed: rank 0 hears of it within 2 s, whatever it was doing.
class Killed : public UcxProcesses, public ::testing::WithParamInterface<const char*> {};

INSTANTIATE_TEST_SUITE_P(While,
                         Killed,
                         ::testing::Values("idle", "sending", "receiving"),
                         [](const auto& chosen) { return std::string(chosen.param); });

TEST_P(Killed, IsNoticed) {
  const std::string doing = GetParam();
  Processes ranks(2, [this, &doing](int r) -> std::string {
    Rank rank(*board_, r, 2);
    if (!rank.problem.empty()) {
      return rank.problem;
    }
    const std::vector<std::byte> body(kWireBodyBytes, std::byte{7});
    std::atomic<std::int64_t> in_flight{0};
    const bool sends = doing == (r == 0 ? "sending" : "receiving");
    Processes::shared().step[static_cast<std::size_t>(r)] = 1;
    const bool lost = rank.run_until([&] {
      for (int i = 0; sends && i < 100 && in_flight < 100; ++i) {
        ++in_flight;
        rank.wire->send(1 - r, {}, body, &in_flight);
      }
      return !rank.counter.lost.empty();
    });
    if (!lost || rank.counter.lost != std::vector<int>{1} || in_flight != 0) {
      return "not noticed";
    }
    const std::int64_t late = rank.counter.lost_at_ms - board_->killed_at_ms;
    return late < 2000 && rank.counter.wrong == 0 ? "" : "late: " + std::to_string(late) + " ms";
  });
  ASSERT_TRUE(ranks.wait_step(0, 1, kLong));
  ASSERT_TRUE(ranks.wait_step(1, 1, kLong));
  std::this_thread::sleep_for(milliseconds(200));
  board_->killed_at_ms = now_ms();
  ranks.send(1, SIGKILL);
  ASSERT_TRUE(ranks.join(0, kLong));
  EXPECT_EQ(ranks.text(0), "");
}

TEST_F(UcxProcesses, AStoppedRankIsNotLost) {
  Processes ranks(2, [this](int r) -> std::string {
    Rank rank(*board_, r, 2);
    if (!rank.problem.empty()) {
      return rank.problem;
    }
    auto& step = Processes::shared().step;
    const std::vector<std::byte> body(kWireBodyBytes, std::byte{7});
    std::atomic<std::int64_t> in_flight{0};
    step[static_cast<std::size_t>(r)] = 1;
    if (r == 1) {
      return rank.run_until([&] { return rank.counter.messages == 500; }) ? "" : "got too few";
    }
    (void)rank.run_until([&] { return step[0] == 2; });
    for (int i = 0; i < 500; ++i) {
      ++in_flight;
      rank.wire->send(1, {}, body, &in_flight);
    }
    (void)rank.run_until([&] { return !rank.counter.lost.empty(); }, seconds(4));
    if (!rank.counter.lost.empty()) {
      return "lost: " + rank.counter.why;
    }
    step[0] = 3;
    // A body that is not borrowed any more may still be in the wire, which a rank that ends takes
    // with it.
    const bool sent = rank.run_until([&] { return in_flight == 0 && rank.wire->is_idle(); });
    return sent ? "" : "did not send";
  });
  ASSERT_TRUE(ranks.wait_step(0, 1, kLong));
  ASSERT_TRUE(ranks.wait_step(1, 1, kLong));
  ranks.send(1, SIGSTOP);
  ASSERT_TRUE(ranks.wait_stopped(1, kLong));
  Processes::shared().step[0] = 2;
  ASSERT_TRUE(ranks.wait_step(0, 3, kLong));
  ranks.send(1, SIGCONT);
  ASSERT_TRUE(ranks.join(kLong));
  EXPECT_EQ(ranks.text(0), "");
  EXPECT_EQ(ranks.text(1), "");
}

/// A child that a rank forks leaves the wire alone, and does not hide the rank's end.
TEST_F(UcxProcesses, AChildOfARankLeavesTheWireAlone) {
  Processes ranks(2, [this](int r) -> std::string {
    Rank rank(*board_, r, 2);
    if (!rank.problem.empty()) {
      return rank.problem;
    }
    if (r == 1) {
      return rank.run_until([&] { return rank.counter.messages == 2; }) ? "" : "got too few";
    }
    Processes child(1, [&rank](int) -> std::string {
      std::atomic<std::int64_t> in_flight{1};
      rank.wire->send(1, {}, {}, &in_flight);
      const bool moved = rank.wire->progress();
      rank.wire->sever(1);
      rank.wire->wait(milliseconds(1));
      rank.wire.reset();
      const auto another = UcxWire::open(0, 2);
      return in_flight == 0 && !moved && !another.ok() ? "" : "used UCX";
    });
    rank.wire->send(1, {}, {}, nullptr);
    const bool ended = child.join(kLong);
    rank.wire->send(1, {}, {}, nullptr);
    const bool sent = rank.run_until([&] { return !rank.counter.lost.empty(); });
    return ended && sent ? child.text(0) : "no end";
  });
  ASSERT_TRUE(ranks.join(kLong));
  EXPECT_EQ(ranks.text(0), "");
  EXPECT_EQ(ranks.text(1), "");
}

TEST_F(UcxProcesses, WhoDoesNotComeIsNamed) {
  Processes ranks(3, [this](int r) -> std::string {
    auto opened = UcxWire::open(r, 3);
    if (!opened.ok()) {
      return opened.status().message();
    }
    auto& step = Processes::shared().step;
    auto& entry = board_->entries[static_cast<std::size_t>(r)];
    const std::string& mine = (*opened)->address();
    std::memcpy(entry.address.data(), mine.data(), mine.size());
    entry.bytes = mine.size();
    if (r != 0) {
      // Has a wire, but does not connect, and ends.
      while (step[0] == 0) {
        std::this_thread::sleep_for(milliseconds(1));
      }
      return "";
    }
    std::vector<std::string> addresses;
    for (auto& each : board_->entries) {
      while (addresses.size() < 3 && each.bytes == 0) {
        std::this_thread::yield();
      }
      if (addresses.size() < 3) {
        addresses.emplace_back(each.address.data(), each.bytes);
      }
    }
    const Status late =
        (*opened)->connect(addresses, {steady_clock::now() + milliseconds(300), {}});
    if (late.code() != StatusCode::kTimeout || late.info().ranks != std::vector<int>{1, 2}) {
      return "first: " + late.message();
    }
    step[0] = 1;
    const Status gone = (*opened)->connect(addresses, {steady_clock::now() + kLong, {}});
    return gone.code() == StatusCode::kPeerLost ? "" : "then: " + gone.message();
  });
  ASSERT_TRUE(ranks.join(kLong));
  EXPECT_EQ(ranks.text(0), "");
}

}  // namespace
}  // namespace waybill::transport
