#include "transport/lobby.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "sockets.h"
#include "transport/hello.h"
#include "waybill/version.h"
#include "window/memory_budget.h"
#include "window/window.h"

namespace waybill::transport {
namespace {

constexpr std::int64_t kWindowBytes = 4 * window::kGranule;
constexpr int kWorldSize = 3;

/// What greets as one rank of a group.
struct Member {
  Member(int rank, bool rejoining)
      : window(std::move(*window::Window::create(
            kWindowBytes,
            window::MemoryBudget::process(),
            {.identity = window::make_identity("", "", rank, kWorldSize)}))),
        greeter(std::move(*Greeter::create(*window, rank, kWorldSize, kWindowBytes, rejoining))) {}

  std::unique_ptr<window::Window> window;
  Greeter greeter;
};

/// A rank with a lobby of its own.
std::unique_ptr<Lobby> lobby_of(const std::string& id, int rank, bool rejoining) {
  Member member(rank, rejoining);
  return std::make_unique<Lobby>(
      id, std::move(member.greeter), std::move(*listen_at(address_of(id, rank), 4)));
}

TEST(Lobby, WhoComesBackIsMetByThoseItCalls) {
  const std::string id = UniqueId::create().to_string();
  const auto old = lobby_of(id, 0, false);
  const auto fresh = lobby_of(id, 1, true);
  EXPECT_EQ(old->waiting(), std::vector<int>{});
  EXPECT_EQ(fresh->call({0, 2}), 1) << "nobody listens as rank 2";
  EXPECT_EQ(fresh->call({0, 2}), 1) << "rank 0 has been called";
  EXPECT_EQ(old->waiting(), std::vector<int>{1});
  EXPECT_EQ(old->waiting(), std::vector<int>{1});

  std::vector<Arrival> arrived = old->take();
  ASSERT_EQ(arrived.size(), 1U);
  EXPECT_EQ(arrived[0].rank, 1);
  EXPECT_TRUE(arrived[0].rejoining);
  EXPECT_EQ(arrived[0].peer.window_bytes, kWindowBytes);
  EXPECT_NE(arrived[0].peer.incarnation, 0U);
  for (const Descriptor& file : arrived[0].peer.files) {
    EXPECT_TRUE(file);
  }
  EXPECT_TRUE(old->take().empty());
  EXPECT_TRUE(fresh->take().empty()) << "rank 0 has not answered yet";

  EXPECT_TRUE(old->answer(arrived[0]));
  const std::vector<Arrival> answers = fresh->take();
  ASSERT_EQ(answers.size(), 1U);
  EXPECT_EQ(answers[0].rank, 0);
  EXPECT_FALSE(answers[0].rejoining);
  EXPECT_TRUE(fresh->answer(answers[0])) << "it has this rank's greeting";
}

TEST(Lobby, KeepsWhoeverIsPutBackAsLongAsItWaits) {
  const std::string id = UniqueId::create().to_string();
  const auto old = lobby_of(id, 0, false);
  auto fresh = lobby_of(id, 1, true);
  fresh->call({0});
  old->put_back(std::move(old->take().at(0)));
  EXPECT_EQ(old->waiting(), std::vector<int>{1});
  std::vector<Arrival> arrived = old->take();
  ASSERT_EQ(arrived.size(), 1U);
  fresh.reset();
  EXPECT_FALSE(old->answer(arrived[0]));
  old->put_back(std::move(arrived[0]));
  EXPECT_TRUE(old->take().empty());
}

TEST(Lobby, DoesNotCountWhoeverWentAway) {
  const std::string id = UniqueId::create().to_string();
  const auto old = lobby_of(id, 0, false);
  auto fresh = lobby_of(id, 1, true);
  fresh->call({0});
  EXPECT_EQ(old->waiting(), std::vector<int>{1});
  fresh.reset();
  EXPECT_EQ(old->waiting(), std::vector<int>{});
}

TEST(Lobby, PassesOverGreetingsThatMeanNothing) {
  const std::string id = UniqueId::create().to_string();
  const auto old = lobby_of(id, 0, false);
  const Member first_time(1, false);
  const Member own_rank(0, true);
  const Member comes_back(2, true);
  const auto connect_and = [&](const Greeter* greeter) {
    Descriptor connection = connect_to(address_of(id, 0));
    EXPECT_TRUE(greeter == nullptr || greeter->greet(connection.get()).ok());
    return connection;
  };
  std::vector<Descriptor> connections;
  connections.push_back(connect_and(&first_time.greeter));
  connections.push_back(connect_and(&own_rank.greeter));
  connections.push_back(connect_and(nullptr));
  const std::array<std::byte, 3> noise{};
  EXPECT_TRUE(send_message(connections.back().get(), noise, {}).ok());
  connections.push_back(connect_and(nullptr));
  EXPECT_EQ(old->waiting(), std::vector<int>{});
  EXPECT_TRUE(comes_back.greeter.greet(connections.back().get()).ok()) << "a slow one";
  EXPECT_EQ(old->waiting(), std::vector<int>{2});
}

TEST(Lobby, AnAnswerOfAnotherRankIsNotTaken) {
  const std::string id = UniqueId::create().to_string();
  const Descriptor listener = std::move(*listen_at(address_of(id, 0), 4));
  const auto fresh = lobby_of(id, 1, true);
  EXPECT_EQ(fresh->call({0}), 1);
  auto connection = accept_one(listener.get(), much_patience());
  ASSERT_TRUE(connection.ok() && *connection);
  EXPECT_TRUE(Member(2, false).greeter.greet(connection->get()).ok());
  EXPECT_TRUE(fresh->take().empty());
}

/// What rank 0 of three says of a greeting.
Status status_of(const Hello& hello, std::size_t bytes = sizeof(Hello)) {
  const std::string address = new_address();
  const Descriptor listener = std::move(*listen_at(address, 1));
  const Descriptor caller = connect_to(address);
  auto callee = accept_one(listener.get(), much_patience());
  EXPECT_TRUE(callee.ok() && *callee);
  const auto whole = std::as_bytes(std::span(&hello, 1));
  EXPECT_TRUE(send_message(caller.get(), whole.first(bytes), {}).ok());
  PeerHandle peer;
  return Member(0, false).greeter.read(callee->get(), peer, much_patience()).status();
}

Hello good_hello() {
  Hello hello;
  hello.rank = 1;
  hello.world_size = kWorldSize;
  const std::string version = version_string();
  std::copy(version.begin(), version.end(), hello.version.begin());
  return hello;
}

TEST(Greeting, IsReadWhenItIsOfThisVersion) {
  EXPECT_TRUE(status_of(good_hello()).ok()) << status_of(good_hello()).message();
}

TEST(Greeting, OfSomethingElseSaysSo) {
  Hello hello = good_hello();
  hello.magic[0] = '?';
  EXPECT_EQ(status_of(hello).message(),
            "connect: expected a greeting of Waybill, got something else from a process");
}

TEST(Greeting, OfAnotherVersionNamesIt) {
  Hello hello = good_hello();
  hello.layout_version = 99;
  Status status = status_of(hello);
  EXPECT_EQ(status.code(), StatusCode::kMismatch);
  EXPECT_NE(status.message().find("got version " + std::string(version_string()) +
                                  " (layout 99) from rank 1"),
            std::string::npos)
      << status.message();
  EXPECT_EQ(status.info().ranks, std::vector<int>{1});
  // Shorter than this version's, before and behind its version.
  status = status_of(hello, offsetof(Hello, version));
  EXPECT_NE(status.message().find("got another version (layout 99) from a process"),
            std::string::npos)
      << status.message();
  status = status_of(hello, offsetof(Hello, rank));
  EXPECT_NE(status.message().find("got version " + std::string(version_string()) +
                                  " (layout 99) from a process"),
            std::string::npos)
      << status.message();
}

TEST(Greeting, OfAnotherGroupNamesTheRank) {
  for (const auto& [rank, world_size] : {std::pair{1, 4}, {3, 3}, {-1, 3}}) {
    Hello hello = good_hello();
    hello.rank = rank;
    hello.world_size = world_size;
    const Status status = status_of(hello);
    EXPECT_EQ(status.code(), StatusCode::kMismatch);
    EXPECT_EQ(status.info().argument, "world_size");
    EXPECT_NE(status.message().find("expected ranks below world_size 3, got world_size " +
                                    std::to_string(world_size)),
              std::string::npos)
        << status.message();
  }
}

}  // namespace
}  // namespace waybill::transport
