// How wires of UCX meet, and what they leave alone.
#include <csignal>

#include "transport/wires.h"

namespace waybill::transport {
namespace {

class UcxMeshes : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = why_no_ucx(); !why.empty()) {
      GTEST_SKIP() << why;
    }
  }

  static std::unique_ptr<UcxWire> open(int rank, int world_size) {
    auto wire = UcxWire::open(rank, world_size);
    EXPECT_TRUE(wire.ok()) << wire.status().message();
    return wire.ok() ? std::move(*wire) : nullptr;
  }
  static Patience little() { return patience_for(std::chrono::milliseconds(200)); }
};

TEST_F(UcxMeshes, OneRankIsAlone) {
  auto wire = open(0, 1);
  EXPECT_TRUE(wire->connect({wire->address()}, little()).ok());
  std::atomic<std::int64_t> in_flight{3};
  for (const int nobody : {-1, 0, 1}) {
    wire->send(nobody, {}, {}, &in_flight);
    wire->sever(nobody);
  }
  EXPECT_EQ(in_flight, 0);
  EXPECT_TRUE(wire->is_idle());
}

TEST_F(UcxMeshes, AddressesOfOthersAreRefused) {
  auto wire = open(0, 2);
  auto second = open(1, 2);
  auto stranger = open(1, 3);
  const std::string& mine = wire->address();
  for (const auto& addresses : {std::vector<std::string>{mine},
                                {mine, second->address(), ""},
                                {mine, mine},
                                {mine, "short"},
                                {mine, stranger->address()},
                                {mine, second->address().substr(0, 20)}}) {
    const Status status = wire->connect(addresses, little());
    EXPECT_EQ(status.code(), StatusCode::kMismatch) << status.message();
  }
}

TEST_F(UcxMeshes, TheImpatientNameWhoIsMissingAndMayGoOn) {
  auto first = open(0, 3);
  auto second = open(1, 3);
  auto third = open(2, 3);
  const std::vector<std::string> all = {first->address(), second->address(), third->address()};
  const auto results = testing::on_threads(
      2, [&](std::size_t r) { return (r == 0 ? first : second)->connect(all, little()); });
  for (const Status& status : results) {
    EXPECT_EQ(status.code(), StatusCode::kTimeout);
    EXPECT_EQ(status.info().ranks, std::vector<int>{2}) << status.message();
  }
  Patience interrupted = much_patience();
  interrupted.interrupted = [] { return true; };
  EXPECT_EQ(first->connect(all, interrupted).code(), StatusCode::kInterrupted);

  const std::array<UcxWire*, 3> wires = {first.get(), second.get(), third.get()};
  testing::expect_all_ok(testing::on_threads(
      3, [&](std::size_t r) { return wires[r]->connect(all, much_patience()); }));
}

TEST_F(UcxMeshes, WhoIsGoneIsNamed) {
  auto first = open(0, 2);
  auto second = open(1, 2);
  const std::vector<std::string> all = {first->address(), second->address()};
  second.reset();
  const Status status = first->connect(all, much_patience());
  EXPECT_EQ(status.code(), StatusCode::kPeerLost) << status.message();
  EXPECT_EQ(status.info().ranks, std::vector<int>{1});
}

TEST_F(UcxMeshes, ARankThatCameBackHasANewAddress) {
  auto first = open(0, 2);
  auto second = open(1, 2);
  std::vector<std::string> all = {first->address(), second->address()};
  testing::expect_all_ok(testing::on_threads(
      2, [&](std::size_t r) { return (r == 0 ? first : second)->connect(all, much_patience()); }));
  first->sever(1);
  const Status old = first->connect(all, little());
  EXPECT_EQ(old.code(), StatusCode::kInvalidState) << old.message();

  second = open(1, 2);
  all[1] = second->address();
  testing::expect_all_ok(testing::on_threads(
      2, [&](std::size_t r) { return (r == 0 ? first : second)->connect(all, much_patience()); }));
  Driven receiver(std::move(second));
  Driven sender(std::move(first));
  sender.send(1, bytes_of(5));
  EXPECT_EQ(receiver.messages(1).size(), 1U);
}

/// What came while connect() still waited for others is not lost.
TEST_F(UcxMeshes, EarlyMessagesAreKept) {
  auto first = open(0, 3);
  auto second = open(1, 3);
  auto third = open(2, 3);
  const std::vector<std::string> all = {first->address(), second->address(), third->address()};
  std::atomic<bool> sent{false};
  const auto results = testing::on_threads(3, [&](std::size_t r) -> Status {
    if (r == 0) {
      return first->connect(all, much_patience());
    }
    if (r == 1) {
      if (Status status = second->connect({all[0], "", ""}, much_patience()); !status.ok()) {
        return status;
      }
      second->send(0, bytes_of(9), {}, nullptr);
      while (!second->is_idle()) {
        (void)second->progress();
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      sent = true;
      return {};
    }
    (void)comes_true([&] { return sent.load(); });
    return third->connect({all[0], "", ""}, much_patience());
  });
  testing::expect_all_ok(results);
  Driven receiver(std::move(first));
  const auto messages = receiver.messages(1);
  ASSERT_EQ(messages.size(), 1U);
  EXPECT_EQ(value_of<int>(messages[0].head), 9);
}

TEST_F(UcxMeshes, SignalsStayAsTheyWere) {
  auto wires = make_ucx_wires(2);
  for (const int number : {SIGILL, SIGSEGV, SIGBUS, SIGFPE, SIGABRT, SIGALRM, SIGPIPE, SIGUSR1}) {
    struct sigaction action{};
    ASSERT_EQ(sigaction(number, nullptr, &action), 0);
#ifndef __SANITIZE_ADDRESS__
    EXPECT_EQ(action.sa_handler, SIG_DFL) << number;
#endif
  }
}

}  // namespace
}  // namespace waybill::transport
