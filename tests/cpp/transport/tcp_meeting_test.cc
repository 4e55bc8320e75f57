#include "transport/tcp_meeting.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "base/descriptor.h"
#include "support/ranks.h"
#include "waybill/group.h"

namespace waybill {
namespace {

using namespace std::chrono_literals;
using transport::Patience;
using transport::TcpMeeting;

/// An address of the loopback that nobody uses.
std::string free_address() {
  const Descriptor probe(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in place{};
  place.sin_family = AF_INET;
  place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t bytes = sizeof(place);
  bind(probe.get(), reinterpret_cast<sockaddr*>(&place), bytes);
  getsockname(probe.get(), reinterpret_cast<sockaddr*>(&place), &bytes);
  return "127.0.0.1:" + std::to_string(ntohs(place.sin_port));
}

Patience patience_of(std::chrono::milliseconds time) {
  return {std::chrono::steady_clock::now() + time, {}};
}

TEST(TcpMeeting, BringsTextsOfAnySizeToAll) {
  const std::string address = free_address();
  const std::string id = UniqueId::create().digits();
  constexpr int kRanks = 5;
  const auto results = testing::on_threads(kRanks, [&](std::size_t r) -> Status {
    const int rank = static_cast<int>(r);
    auto meeting = TcpMeeting::open(id, address, rank, kRanks, patience_of(20s));
    if (!meeting.ok()) {
      return meeting.status();
    }
    for (const std::size_t bytes : {0U, 1U, 100'000U}) {
      auto texts = meeting->all_gather(std::string(bytes * (r + 1), static_cast<char>('a' + rank)),
                                       patience_of(20s));
      if (!texts.ok()) {
        return texts.status();
      }
      for (std::size_t other = 0; other < kRanks; ++other) {
        EXPECT_EQ((*texts)[other],
                  std::string(bytes * (other + 1), static_cast<char>('a' + other)));
      }
    }
    return {};
  });
  testing::expect_all_ok(results);
}

TEST(TcpMeeting, NamesWhoDoesNotCome) {
  const std::string address = free_address();
  const std::string id = UniqueId::create().digits();
  const auto results = testing::on_threads(2, [&](std::size_t r) -> Status {
    // Rank 1 of 3 stays away.
    const int rank = r == 0 ? 0 : 2;
    auto meeting = TcpMeeting::open(id, address, rank, 3, patience_of(500ms));
    return meeting.ok() ? meeting->all_gather("", patience_of(5s)).status() : meeting.status();
  });
  EXPECT_EQ(results[0].code(), StatusCode::kTimeout);
  EXPECT_EQ(results[0].info().ranks, std::vector<int>{1});
  EXPECT_EQ(results[1].code(), StatusCode::kPeerLost);
  EXPECT_EQ(results[1].info().ranks, std::vector<int>{0});
  const auto alone = TcpMeeting::open(id, free_address(), 1, 2, patience_of(300ms)).status();
  EXPECT_EQ(alone.code(), StatusCode::kTimeout);
  EXPECT_EQ(alone.info().ranks, std::vector<int>{0});
}

TEST(TcpMeeting, TurnsStrangersAway) {
  const std::string address = free_address();
  const std::string id = UniqueId::create().digits();
  const auto results = testing::on_threads(3, [&](std::size_t r) -> Status {
    const int rank = r == 0 ? 0 : 1;
    if (r == 2) {  // of another group
      const auto theirs = UniqueId::create().digits();
      auto stranger = TcpMeeting::open(theirs, address, rank, 2, patience_of(2s));
      return stranger.ok() ? stranger->all_gather("x", patience_of(2s)).status()
                           : stranger.status();
    }
    std::this_thread::sleep_for(r == 1 ? 200ms : 0ms);
    auto meeting = TcpMeeting::open(id, address, rank, 2, patience_of(10s));
    return meeting.ok() ? meeting->all_gather("", patience_of(10s)).status() : meeting.status();
  });
  EXPECT_TRUE(results[0].ok()) << results[0].message();
  EXPECT_TRUE(results[1].ok()) << results[1].message();
  EXPECT_FALSE(results[2].ok());
}

TEST(TcpMeeting, RefusesAddressesThatCannotBe) {
  for (const char* address : {"", "nowhere", ":80", "127.0.0.1:", "[::1", "127.0.0.1:port"}) {
    const Status status =
        TcpMeeting::open(std::string(32, '0'), address, 1, 2, patience_of(100ms)).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << address;
  }
}

TEST(UniqueIds, CarryAnAddress) {
  const UniqueId id = UniqueId::create("[fe80::1]:29500");
  EXPECT_EQ(id.to_string(), id.digits() + "@[fe80::1]:29500");
  const auto again = UniqueId::from_string(id.to_string());
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->address(), "[fe80::1]:29500");
  EXPECT_EQ(again->digits(), id.digits());
  EXPECT_FALSE(UniqueId::from_string(id.digits() + "@").ok());
}

}  // namespace
}  // namespace waybill
