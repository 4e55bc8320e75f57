#include "transport/socket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "sockets.h"
#include "support/processes.h"

namespace waybill::transport {
namespace {

using namespace std::chrono_literals;
using testing::Processes;

constexpr uid_t kNobody = 65534;

/// Two ends of a connection.
struct Connection {
  Descriptor caller;
  Descriptor called;
};

Connection connect_pair() {
  const std::string address = new_address();
  auto listener = listen_at(address, 1);
  EXPECT_TRUE(listener.ok());
  Connection connection;
  connection.caller = connect_to(address);
  auto accepted = accept_one(listener->get(), much_patience());
  EXPECT_TRUE(accepted.ok() && *accepted);
  connection.called = std::move(*accepted);
  return connection;
}

template <std::size_t N>
std::array<std::byte, N> bytes_from(unsigned first) {
  std::array<std::byte, N> bytes{};
  for (std::size_t i = 0; i < N; ++i) {
    bytes[i] = static_cast<std::byte>(first + i);
  }
  return bytes;
}

/// A memory file that holds one byte.
Descriptor file_with(std::byte content) {
  Descriptor file(memfd_create("waybill-test", MFD_CLOEXEC));
  EXPECT_EQ(write(file.get(), &content, 1), 1);
  return file;
}

std::byte content_of(const Descriptor& file) {
  std::byte content{};
  EXPECT_EQ(pread(file.get(), &content, 1, 0), 1);
  return content;
}

TEST(Socket, MessagesKeepTheirBoundaries) {
  const Connection connection = connect_pair();
  const auto first = bytes_from<40>(1);
  const auto second = bytes_from<3>(200);
  ASSERT_TRUE(send_message(connection.caller.get(), first, {}).ok());
  ASSERT_TRUE(send_message(connection.caller.get(), second, {}).ok());
  std::array<std::byte, 40> got_first{};
  std::array<std::byte, 3> got_second{};
  ASSERT_TRUE(receive_message(connection.called.get(), got_first, nullptr, much_patience()).ok());
  ASSERT_TRUE(receive_message(connection.called.get(), got_second, nullptr, much_patience()).ok());
  EXPECT_EQ(got_first, first);
  EXPECT_EQ(got_second, second);
}

TEST(Socket, DescriptorsTravelInOrder) {
  const Connection connection = connect_pair();
  std::array<Descriptor, kPassedFiles> sent;
  std::array<int, kPassedFiles> numbers{};
  for (std::size_t i = 0; i < kPassedFiles; ++i) {
    sent[i] = file_with(static_cast<std::byte>(10 + i));
    numbers[i] = sent[i].get();
  }
  const auto greeting = bytes_from<8>(0);
  ASSERT_TRUE(send_message(connection.called.get(), greeting, numbers).ok());
  sent = {};  // they are in the message
  std::array<std::byte, 8> got{};
  std::array<Descriptor, kPassedFiles> received;
  ASSERT_TRUE(receive_message(connection.caller.get(), got, &received, much_patience()).ok());
  EXPECT_EQ(got, greeting);
  for (std::size_t i = 0; i < kPassedFiles; ++i) {
    ASSERT_TRUE(received[i]);
    EXPECT_EQ(content_of(received[i]), static_cast<std::byte>(10 + i));
    EXPECT_NE(fcntl(received[i].get(), F_GETFD) & FD_CLOEXEC, 0);
  }
}

TEST(Socket, DescriptorsThatNobodyWantsAreClosed) {
  const Connection connection = connect_pair();
  const Descriptor file = file_with(std::byte{1});
  const std::array<int, 1> numbers = {file.get()};
  const auto greeting = bytes_from<1>(0);
  ASSERT_TRUE(send_message(connection.caller.get(), greeting, numbers).ok());
  const Descriptor probe_before(dup(file.get()));
  std::array<std::byte, 1> got{};
  ASSERT_TRUE(receive_message(connection.called.get(), got, nullptr, much_patience()).ok());
  // The next free number is still free: nothing was left open.
  const Descriptor probe_after(dup(file.get()));
  EXPECT_EQ(probe_after.get(), probe_before.get() + 1);
}

TEST(Socket, AMessageOfAnotherSizeIsAnotherVersion) {
  for (const bool longer : {false, true}) {
    const Connection connection = connect_pair();
    const auto sent = bytes_from<16>(0);
    ASSERT_TRUE(
        send_message(connection.caller.get(), std::span(sent).first(longer ? 16 : 4), {}).ok());
    std::array<std::byte, 8> got{};
    const Status status = receive_message(connection.called.get(), got, nullptr, much_patience());
    EXPECT_EQ(status.code(), StatusCode::kMismatch);
    EXPECT_NE(status.message().find("another version"), std::string::npos);
  }
}

TEST(Socket, AnEndThatIsGoneIsNoticed) {
  Connection connection = connect_pair();
  connection.caller = Descriptor();
  std::array<std::byte, 8> bytes{};
  EXPECT_EQ(receive_message(connection.called.get(), bytes, nullptr, much_patience()).code(),
            StatusCode::kPeerLost);
  EXPECT_EQ(send_message(connection.called.get(), bytes, {}).code(), StatusCode::kPeerLost);
}

TEST(Socket, WaitingEndsAtTheDeadline) {
  const Connection connection = connect_pair();
  std::array<std::byte, 8> bytes{};
  EXPECT_EQ(receive_message(connection.called.get(), bytes, nullptr, patience_for(5ms)).code(),
            StatusCode::kTimeout);
  auto listener = listen_at(new_address(), 1);
  ASSERT_TRUE(listener.ok());
  const auto accepted = accept_one(listener->get(), patience_for(5ms));
  ASSERT_TRUE(accepted.ok());
  EXPECT_FALSE(*accepted);
}

TEST(Socket, WaitingEndsWhenTheProgramWantsIt) {
  const Connection connection = connect_pair();
  Patience patience = much_patience();
  int asked = 0;
  patience.interrupted = [&asked] { return ++asked == 2; };
  std::array<std::byte, 8> bytes{};
  EXPECT_EQ(receive_message(connection.called.get(), bytes, nullptr, patience).code(),
            StatusCode::kInterrupted);
  EXPECT_EQ(asked, 2);
}

TEST(Socket, AnAddressHasOneListener) {
  const std::string address = new_address();
  {
    auto listener = listen_at(address, 1);
    ASSERT_TRUE(listener.ok());
    const Status second = listen_at(address, 1).status();
    EXPECT_EQ(second.code(), StatusCode::kInvalidState);
    EXPECT_EQ(second.info().argument, "rank");
  }
  EXPECT_TRUE(listen_at(address, 1).ok());
}

TEST(Socket, NobodyListeningIsNoError) {
  const auto connection = try_connect(new_address());
  ASSERT_TRUE(connection.ok());
  EXPECT_FALSE(*connection);
}

TEST(Socket, AFullQueueIsToldAtOnce) {
  const std::string address = new_address();
  auto listener = listen_at(address, 1);
  ASSERT_TRUE(listener.ok());
  std::vector<Descriptor> queue;
  bool full = false;
  while (!full) {
    auto connection = try_connect(address, &full);
    ASSERT_TRUE(connection.ok());
    EXPECT_EQ(static_cast<bool>(*connection), !full);
    queue.push_back(std::move(*connection));
    ASSERT_LT(queue.size(), 100U);
  }
  ASSERT_TRUE(accept_one(listener->get(), much_patience()).ok());
  EXPECT_TRUE(*try_connect(address, &full));
  EXPECT_FALSE(full);
}

TEST(Socket, AddressesAreNotInTheFileSystem) {
  const std::string address = new_address();
  auto listener = listen_at(address, 1);
  ASSERT_TRUE(listener.ok());
  std::ifstream table("/proc/net/unix");
  std::string line;
  bool found = false;
  while (std::getline(table, line)) {
    found = found || line.find("@" + address) != std::string::npos;
  }
  EXPECT_TRUE(found);
  struct stat file{};
  EXPECT_NE(stat(address.c_str(), &file), 0);
}

TEST(Socket, AProcessOfThisUserIsTrusted) {
  const Connection connection = connect_pair();
  EXPECT_TRUE(peer_is_trusted(connection.called.get()));
  EXPECT_TRUE(peer_is_trusted(connection.caller.get()));
  const Descriptor file = file_with(std::byte{0});
  EXPECT_FALSE(peer_is_trusted(file.get()));
}

TEST(Socket, AProcessOfAnotherUserIsNot) {
  if (geteuid() != 0) {
    GTEST_SKIP() << "only root can become somebody else";
  }
  const std::string address = new_address();
  auto listener = listen_at(address, 1);
  ASSERT_TRUE(listener.ok());
  Processes stranger(1, [&](int) -> std::string {
    if (setresuid(kNobody, kNobody, kNobody) != 0) {
      return "cannot";
    }
    const Descriptor connection = connect_to(address);
    std::array<std::byte, 1> byte{};
    const Status end = receive_message(connection.get(), byte, nullptr, much_patience());
    // Root is trusted by everybody.
    return std::string(peer_is_trusted(connection.get()) ? "trusts " : "distrusts ") +
           name_of(end.code());
  });
  {
    auto connection = accept_one(listener->get(), much_patience());
    ASSERT_TRUE(connection.ok() && *connection);
    EXPECT_FALSE(peer_is_trusted(connection->get()));
  }
  ASSERT_TRUE(stranger.join(30s));
  EXPECT_EQ(stranger.text(0), "trusts PeerLost");
}

TEST(Socket, WhatTheSystemRefusesIsNamedWithItsReason) {
  std::array<int, 2> ends{};
  ASSERT_EQ(pipe(ends.data()), 0);
  const Descriptor reader(ends[0]);
  const Descriptor writer(ends[1]);
  const std::byte byte{1};
  ASSERT_EQ(write(writer.get(), &byte, 1), 1);
  std::byte got{};
  const auto expect_internal = [](const Status& status, const std::string& text) {
    EXPECT_EQ(status.code(), StatusCode::kInternal);
    EXPECT_EQ(status.message(), text);
  };
  expect_internal(send_message(writer.get(), {&byte, 1}, {}),
                  "connect: sendmsg: Socket operation on non-socket");
  expect_internal(receive_message(reader.get(), {&got, 1}, nullptr, much_patience()),
                  "connect: recvmsg: Socket operation on non-socket");
  expect_internal(accept_one(reader.get(), much_patience()).status(),
                  "connect: accept: Socket operation on non-socket");
}

TEST(Socket, AcceptingEndsWhenTheProgramWantsIt) {
  const Descriptor listener = std::move(*listen_at(new_address(), 1));
  Patience patience = much_patience();
  patience.interrupted = [] { return true; };
  EXPECT_EQ(accept_one(listener.get(), patience).status().code(), StatusCode::kInterrupted);
}

}  // namespace
}  // namespace waybill::transport
