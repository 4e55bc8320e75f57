#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/process_start.h"
#include "sockets.h"
#include "support/processes.h"
#include "transport/rendezvous.h"
#include "transport/shm.h"
#include "window/memory_budget.h"
#include "window/window.h"

namespace waybill::transport {
namespace {

using namespace std::chrono_literals;
using testing::Processes;
using window::kGranule;

constexpr std::int64_t kWindowBytes = 4 * kGranule;
constexpr auto kLimit = 30s;
constexpr uid_t kNobody = 65534;

RendezvousOptions options_for(const std::string& id,
                              int rank,
                              int world_size,
                              std::chrono::milliseconds limit = kLimit) {
  return {id, rank, world_size, kWindowBytes, std::chrono::steady_clock::now() + limit, {}, {}, {}};
}

std::unique_ptr<window::Window> make_window() {
  auto window = window::Window::create(kWindowBytes, window::MemoryBudget::process());
  EXPECT_TRUE(window.ok());
  return std::move(*window);
}

std::string text_of(const Status& status) {
  std::string text = name_of(status.code());
  for (const int rank : status.ok() ? std::vector<int>{} : status.info().ranks) {
    text += " " + std::to_string(rank);
  }
  return text;
}

std::string meet_alone(const std::string& id, int rank, int world_size) {
  const auto window = make_window();
  return text_of(meet(*window, options_for(id, rank, world_size)).status());
}

void set_step(int place) { Processes::shared().step[static_cast<std::size_t>(place)] = 1; }

void wait_step(int place) {
  for (const Patience patience = much_patience();
       Processes::shared().step[static_cast<std::size_t>(place)] == 0 && !patience.expired();) {
    std::this_thread::sleep_for(1ms);
  }
}

TEST(Meeting, PeersReadEachOthersWindowsAndCannotWriteThem) {
  const std::string id = UniqueId::create().to_string();
  Processes ranks(2, [&](int rank) -> std::string {
    const auto window = make_window();
    if (!window->halves[0].commit(0, 10).ok()) {
      return "no memory";
    }
    window->halves[0].data()[9] = static_cast<std::byte>(50 + rank);
    window->board.enter(static_cast<std::uint64_t>(60 + rank), 0ns);
    auto handles = meet(*window, options_for(id, rank, 2));
    if (!handles.ok()) {
      return handles.status().message();
    }
    const int other = 1 - rank;
    const int file = handles->handles[static_cast<std::size_t>(other)].files[1].get();
    void* writable = mmap(nullptr, kGranule, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (writable != MAP_FAILED || ftruncate(file, 0) == 0) {
      return "the file can be written";
    }
    auto transport = ShmTransport::create(std::move(handles->handles), rank, *window, kWindowBytes);
    if (!transport.ok()) {
      return transport.status().message();
    }
    const PeerMemory& peer = (*transport)->peer(other);
    const bool good = peer.halves[0][9] == static_cast<std::byte>(50 + other) &&
                      peer.control->phase.load() == static_cast<std::uint64_t>(60 + other) &&
                      peer.window_bytes == kWindowBytes &&
                      (*transport)->peer(rank).control == window->control;
    const bool alive = !(*transport)->has_ended(other);
    set_step(rank);
    wait_step(other);
    return good && alive ? "good" : "bad";
  });
  ASSERT_TRUE(ranks.join(kLimit));
  EXPECT_EQ(ranks.text(0), "good");
  EXPECT_EQ(ranks.text(1), "good");
}

TEST(Meeting, WhatADeadRankPublishedCanBeRead) {
  const std::string id = UniqueId::create().to_string();
  Processes ranks(2, [&](int rank) -> std::string {
    const auto window = make_window();
    if (!window->halves[1].commit(0, 1).ok()) {
      return "no memory";
    }
    window->halves[1].data()[0] = static_cast<std::byte>(70 + rank);
    auto handles = meet(*window, options_for(id, rank, 2));
    if (!handles.ok()) {
      return handles.status().message();
    }
    if (rank == 1) {
      return "left";
    }
    auto transport = ShmTransport::create(std::move(handles->handles), rank, *window, kWindowBytes);
    for (const Patience patience = much_patience(); !(*transport)->has_ended(1);) {
      if (patience.expired()) {
        return "never ended";
      }
      std::this_thread::sleep_for(1ms);
    }
    return (*transport)->peer(1).halves[1][0] == std::byte{71} ? "good" : "bad";
  });
  ASSERT_TRUE(ranks.join(kLimit));
  EXPECT_EQ(ranks.text(0), "good");
}

TEST(Meeting, AStrangerIsTurnedAwayAndTheOthersGoOn) {
  if (geteuid() != 0) {
    GTEST_SKIP() << "only root can become somebody else";
  }
  const std::string id = UniqueId::create().to_string();
  constexpr int kStranger = 2;
  Processes processes(3, [&](int place) -> std::string {
    if (place != kStranger) {
      if (place == 1) {
        wait_step(kStranger);
      }
      return meet_alone(id, place, 2);
    }
    if (setresuid(kNobody, kNobody, kNobody) != 0) {
      return "cannot";
    }
    const Descriptor connection = connect_to(address_of(id, 0));
    std::array<std::byte, 64> answer{};
    std::array<Descriptor, kPassedFiles> files;
    const Status status = receive_message(connection.get(), answer, &files, much_patience());
    set_step(kStranger);
    return std::string(name_of(status.code())) + (files[0] ? " with files" : "");
  });
  ASSERT_TRUE(processes.join(kLimit));
  EXPECT_EQ(processes.text(kStranger), "PeerLost");
  EXPECT_EQ(processes.text(0), "Ok");
  EXPECT_EQ(processes.text(1), "Ok");
}

TEST(Meeting, AProcessThatConnectsAndGoesIsPassedOver) {
  const std::string id = UniqueId::create().to_string();
  constexpr int kVisitor = 2;
  Processes processes(3, [&](int place) -> std::string {
    if (place != kVisitor) {
      if (place == 1) {
        wait_step(kVisitor);
      }
      return meet_alone(id, place, 2);
    }
    {
      const Descriptor connection = connect_to(address_of(id, 0));
    }
    set_step(kVisitor);
    return "";
  });
  ASSERT_TRUE(processes.join(kLimit));
  EXPECT_EQ(processes.text(0), "Ok");
  EXPECT_EQ(processes.text(1), "Ok");
}

TEST(Meeting, AProcessThatComesBackTooEarlyIsPassedOver) {
  const std::string id = UniqueId::create().to_string();
  constexpr int kEarly = 2;
  Processes processes(3, [&](int place) -> std::string {
    if (place != kEarly) {
      if (place == 1) {
        wait_step(kEarly);
      }
      return meet_alone(id, place, 2);
    }
    const auto window = make_window();
    const auto greeter = Greeter::create(*window, 1, 2, kWindowBytes, true);
    const Descriptor connection = connect_to(address_of(id, 0));
    const Status sent = greeter->greet(connection.get());
    std::array<std::byte, 64> answer{};
    const Status status = receive_message(connection.get(), answer, nullptr, much_patience());
    set_step(kEarly);
    return text_of(sent) + " " + name_of(status.code());
  });
  ASSERT_TRUE(processes.join(kLimit));
  EXPECT_EQ(processes.text(kEarly), "Ok PeerLost");
  EXPECT_EQ(processes.text(0), "Ok");
  EXPECT_EQ(processes.text(1), "Ok");
}

TEST(Meeting, AGreetingOfAnotherVersionIsAnError) {
  const std::string id = UniqueId::create().to_string();
  Processes processes(2, [&](int place) -> std::string {
    if (place == 0) {
      return meet_alone(id, 0, 2);
    }
    const Descriptor connection = connect_to(address_of(id, 0));
    const std::array<std::byte, 5> greeting{};
    return name_of(send_message(connection.get(), greeting, {}).code());
  });
  ASSERT_TRUE(processes.join(kLimit));
  EXPECT_EQ(processes.text(0), "Mismatch");
}

TEST(Meeting, NamesTheVersionOfTheLibrary) {
  const std::string id = UniqueId::create().to_string();
  Processes processes(2, [&](int place) -> std::string {
    if (place == 0) {
      const auto window = make_window();
      return meet(*window, options_for(id, 0, 2)).status().message();
    }
    const Descriptor connection = connect_to(address_of(id, 0));
    Hello hello;
    hello.version = {'9', '.', '8', '.', '7'};
    hello.rank = 1;
    hello.world_size = 2;
    return name_of(send_message(connection.get(), std::as_bytes(std::span(&hello, 1)), {}).code());
  });
  ASSERT_TRUE(processes.join(kLimit));
  EXPECT_NE(processes.text(0).find("got version 9.8.7"), std::string::npos) << processes.text(0);
  EXPECT_NE(processes.text(0).find("from rank 1"), std::string::npos) << processes.text(0);
}

TEST(Meeting, NoticesTheEndOfARankThatHadCome) {
  const std::string id = UniqueId::create().to_string();
  Processes processes(2, [&](int place) -> std::string {
    if (place == 1) {
      meet_alone(id, 1, 3);  // killed while it waits for rank 2
      return "";
    }
    set_step(0);
    return meet_alone(id, 0, 3);
  });
  ASSERT_TRUE(processes.wait_step(0, 1, kLimit));
  std::this_thread::sleep_for(100ms);
  processes.send(1, SIGKILL);
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_TRUE(processes.join(0, kLimit));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 10s);
  EXPECT_EQ(processes.text(0), "PeerLost 1");
}

TEST(Meeting, NoticesTheEndOfARankThatNeverCame) {
  const std::string id = UniqueId::create().to_string();
  Processes gone(1, [](int) -> std::string { return std::to_string(process_start(getpid())); });
  ASSERT_TRUE(gone.join(kLimit));
  const ProcessId ended{gone.pid(0), std::stoull(gone.text(0))};
  const ProcessId living{getpid(), process_start(getpid())};
  auto options = options_for(id, 0, 3);
  options.processes = {living, living, ended};
  const auto window = make_window();
  EXPECT_EQ(text_of(meet(*window, options).status()), "PeerLost 2");
}

TEST(Meeting, OfOneRankNeedsNobody) {
  EXPECT_EQ(meet_alone(UniqueId::create().to_string(), 0, 1), "Ok");
}

/// Rank `rank` of three meets others; place 1 is a process that says what it likes. What the rank
/// says of that.
std::string meet_beside(int rank, const std::function<std::string(const std::string& id)>& other) {
  const std::string id = UniqueId::create().to_string();
  Processes processes(2, [&](int place) -> std::string {
    if (place == 1) {
      return other(id);
    }
    const auto window = make_window();
    const Status status = meet(*window, options_for(id, rank, 3)).status();
    set_step(0);
    return status.message();
  });
  EXPECT_TRUE(processes.join(kLimit));
  return processes.text(0);
}

Greeter greeter_of(const window::Window& window, int rank, bool rejoining = false) {
  return std::move(*Greeter::create(window, rank, 3, kWindowBytes, rejoining));
}

TEST(Meeting, ACallerOfALowerRankIsAnError) {
  const std::string text = meet_beside(1, [](const std::string& id) -> std::string {
    const auto window = make_window();
    const Descriptor connection = connect_to(address_of(id, 1));
    (void)greeter_of(*window, 0).greet(connection.get());
    wait_step(0);
    return "";
  });
  EXPECT_EQ(text, "connect: expected ranks above 1, got rank 0");
}

TEST(Meeting, ACallerThatComesBackIsTurnedAway) {
  // Its connection ends; the rank waits on for the others.
  const std::string text = meet_beside(0, [](const std::string& id) -> std::string {
    const auto window = make_window();
    const Descriptor connection = connect_to(address_of(id, 0));
    (void)greeter_of(*window, 1, true).greet(connection.get());
    std::array<std::byte, 1> byte{};
    const StatusCode end = receive_message(connection.get(), byte, nullptr, much_patience()).code();
    const Descriptor again = connect_to(address_of(id, 0));
    (void)greeter_of(*window, 0).greet(again.get());
    wait_step(0);
    return end == StatusCode::kPeerLost ? "" : name_of(end);
  });
  EXPECT_EQ(text, "connect: expected ranks above 0, got rank 0");
}

TEST(Meeting, AnAnswerOfAnotherRankIsAnError) {
  const std::string text = meet_beside(1, [](const std::string& id) -> std::string {
    const auto window = make_window();
    const Descriptor listener = std::move(*listen_at(address_of(id, 0), 1));
    auto connection = accept_one(listener.get(), much_patience());
    (void)greeter_of(*window, 2).greet((*connection).get());
    wait_step(0);
    return "";
  });
  EXPECT_EQ(text, "connect: expected rank 0, got rank 2");
}

/// Two ranks; once they have greeted each other the other one does `then` in place of confirming.
Status meet_one_that(const std::function<void(Descriptor& connection)>& then) {
  const std::string id = UniqueId::create().to_string();
  Processes processes(1, [&](int) -> std::string {
    const auto window = make_window();
    Descriptor connection = connect_to(address_of(id, 0));
    const Greeter greeter = std::move(*Greeter::create(*window, 1, 2, kWindowBytes, false));
    const bool greeted = greeter.greet(connection.get()).ok();
    PeerHandle peer;
    const Status answered = greeter.read(connection.get(), peer, much_patience()).status();
    then(connection);
    return greeted ? answered.message() : "gone";
  });
  const auto window = make_window();
  Status status = meet(*window, options_for(id, 0, 2, 3s)).status();
  set_step(1);
  EXPECT_TRUE(processes.join(kLimit));
  EXPECT_EQ(processes.text(0), "ok");
  return status;
}

TEST(Meeting, WhoHangsUpBeforeItIsOverDidNotCome) {
  const Status status = meet_one_that([](Descriptor& connection) {
    connection = Descriptor();
    wait_step(1);
  });
  EXPECT_EQ(status.code(), StatusCode::kTimeout);
  EXPECT_EQ(status.message(), "connect: timed out in the rendezvous: rank 1 of 2 did not come");
}

TEST(Meeting, WhoStaysSilentBeforeItIsOverDidNotCome) {
  const Status status = meet_one_that([](Descriptor&) { wait_step(1); });
  EXPECT_EQ(status.code(), StatusCode::kTimeout);
  EXPECT_EQ(status.info().ranks, std::vector<int>{1});
}

TEST(Meeting, WhoEndsBeforeItIsOverIsLost) {
  const Status status = meet_one_that([](Descriptor&) {});
  EXPECT_EQ(status.code(), StatusCode::kPeerLost);
  EXPECT_EQ(status.message(), "connect: rank 1 has ended its process (in the rendezvous, rank 0)");
}

TEST(MeetingPlace, HasToBeWritable) {
  const auto options = options_for(UniqueId::create().to_string(), 0, 2);
  const Status status = meet_at("/proc/no/such/folder", options).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.info().argument, "path");
  EXPECT_EQ(status.message(),
            "connect: argument path: expected a place to write, got /proc/no/such/folder: "
            "No such file or directory");
}

TEST(MeetingPlace, WaitingForItEndsWhenTheProgramWantsIt) {
  auto options = options_for(UniqueId::create().to_string(), 1, 2);
  options.interrupted = [] { return true; };
  EXPECT_EQ(meet_at("/proc/no/such/folder", options).status().code(), StatusCode::kInterrupted);
}

}  // namespace
}  // namespace waybill::transport
