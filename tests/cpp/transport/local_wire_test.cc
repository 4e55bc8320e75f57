// What tests can do to the links between wires of threads. No threads are needed for that.
#include "transport/local_wire.h"

#include "transport/wires.h"

namespace waybill::transport {
namespace {

using std::chrono::milliseconds;

struct Recorder : WireListener {
  void on_message(int from,
                  std::span<const std::byte> head,
                  std::span<const std::byte>) noexcept override {
    numbers.push_back(value_of<int>(head));
    senders.push_back(from);
  }
  void on_lost(int rank, const std::string& why) noexcept override {
    lost.push_back(rank);
    EXPECT_FALSE(why.empty());
  }

  std::vector<int> numbers;
  std::vector<int> senders;
  std::vector<int> lost;
};

class LocalWires : public ::testing::Test {
 protected:
  void SetUp() override {
    for (std::size_t r = 0; r < 2; ++r) {
      wires_[r]->listen(&got_[r]);
    }
  }

  /// Everything that can happen at once.
  void run() {
    while (wires_[0]->progress() | wires_[1]->progress()) {
    }
  }
  void send(int number) {
    in_flight_.fetch_add(1);
    wires_[0]->send(1, bytes_of(number), body_, &in_flight_);
  }

  LocalLinks links_{2};
  std::vector<std::unique_ptr<Wire>> wires_ = make_local_wires(links_);
  std::array<Recorder, 2> got_;
  std::atomic<std::int64_t> in_flight_{0};
  std::vector<std::byte> body_ = pattern(100, 0);
};

TEST_F(LocalWires, BodiesAreBorrowedUntilALaterProgress) {
  send(1);
  EXPECT_EQ(in_flight_, 1);
  EXPECT_FALSE(wires_[0]->is_idle());
  (void)wires_[1]->progress();
  EXPECT_EQ(in_flight_, 1);
  EXPECT_TRUE(wires_[0]->progress());
  EXPECT_EQ(in_flight_, 0);
  EXPECT_TRUE(wires_[0]->is_idle());
  EXPECT_TRUE(wires_[1]->progress());
  EXPECT_EQ(got_[1].numbers, std::vector<int>{1});
  EXPECT_EQ(got_[1].senders, std::vector<int>{0});
}

TEST_F(LocalWires, AHeldDirectionKeepsBodiesBorrowed) {
  links_.hold(0, 1);
  send(1);
  run();
  EXPECT_EQ(in_flight_, 1);
  EXPECT_TRUE(got_[1].numbers.empty());
  const int back = 2;
  wires_[1]->send(0, bytes_of(back), {}, nullptr);
  run();
  EXPECT_EQ(got_[0].numbers, std::vector<int>{2});
  links_.hold(0, 1, false);
  run();
  EXPECT_EQ(in_flight_, 0);
  EXPECT_EQ(got_[1].numbers, std::vector<int>{1});
}

TEST_F(LocalWires, ADelayedMessageComesLaterAndInOrder) {
  links_.delay(0, 1, milliseconds(50));
  send(1);
  run();
  links_.delay(0, 1, milliseconds(0));
  send(2);
  run();
  EXPECT_EQ(in_flight_, 0);
  EXPECT_TRUE(got_[1].numbers.empty());
  const auto start = std::chrono::steady_clock::now();
  EXPECT_TRUE(comes_true([this] {
    wires_[1]->wait(kLong);
    run();
    return got_[1].numbers.size() == 2;
  }));
  EXPECT_LT(std::chrono::steady_clock::now() - start, kLong / 2);
  EXPECT_EQ(got_[1].numbers, (std::vector<int>{1, 2}));
}

TEST_F(LocalWires, SwallowedAndDroppedMessagesNeverCome) {
  links_.swallow(0, 1);
  send(1);
  run();
  links_.swallow(0, 1, false);
  links_.hold(0, 1);
  send(2);
  run();
  EXPECT_EQ(in_flight_, 1);
  links_.drop_in_flight(0, 1);
  EXPECT_EQ(in_flight_, 0);
  links_.hold(0, 1, false);
  send(3);
  run();
  EXPECT_EQ(got_[1].numbers, std::vector<int>{3});
  EXPECT_TRUE(got_[0].lost.empty() && got_[1].lost.empty());
}

TEST_F(LocalWires, ACutIsToldAtBothEndsAfterWhatHasLeft) {
  send(1);
  (void)wires_[0]->progress();
  links_.hold(0, 1);
  send(2);
  links_.cut(0, 1);
  EXPECT_EQ(in_flight_, 0);
  links_.cut(1, 0);
  (void)wires_[1]->progress();
  EXPECT_EQ(got_[1].numbers, std::vector<int>{1});
  EXPECT_EQ(got_[1].lost, std::vector<int>{0});
  run();
  EXPECT_EQ(got_[0].lost, std::vector<int>{1});
  send(3);
  EXPECT_EQ(in_flight_, 0);
  run();
  EXPECT_EQ(got_[1].numbers, std::vector<int>{1});
  EXPECT_EQ(got_[0].lost.size() + got_[1].lost.size(), 2U);
}

TEST_F(LocalWires, ARankThatDoesNotExistTakesNothing) {
  in_flight_ = 2;
  wires_[0]->send(2, {}, body_, &in_flight_);
  wires_[0]->send(-1, {}, body_, &in_flight_);
  EXPECT_EQ(in_flight_, 0);
  wires_[0]->sever(2);
  wires_[0]->sever(-1);
}

}  // namespace
}  // namespace waybill::transport
