#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <string>
#include <thread>
#include <utility>

#include "base/process_start.h"
#include "sockets.h"
#include "support/processes.h"
#include "transport/process.h"

namespace waybill::transport {
namespace {

using namespace std::chrono_literals;
using testing::Processes;

/// A child that connects and then waits to be killed, and its handle.
struct Child {
  explicit Child(const std::string& address = new_address())
      : listener(std::move(*listen_at(address, 1))), processes(1, [&address](int) -> std::string {
          const Descriptor own_end = connect_to(address);
          while (true) {
            pause();
          }
        }) {
    auto accepted = accept_one(listener.get(), much_patience());
    EXPECT_TRUE(accepted.ok() && *accepted);
    connection = std::move(*accepted);
    handle = ProcessHandle::of_peer(connection.get(), 0);
  }

  Descriptor listener;
  Processes processes;
  Descriptor connection;
  ProcessHandle handle;
};

/// Waits until the process is a zombie, and leaves it one.
void wait_for_end(pid_t pid) {
  siginfo_t info{};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT), 0);
}

TEST(ProcessHandle, LivesAsLongAsItsProcess) {
  Child child;
  EXPECT_EQ(child.handle.pid(), child.processes.pid(0));
  EXPECT_FALSE(child.handle.has_ended());
  child.processes.send(0, SIGKILL);
  wait_for_end(child.handle.pid());
  EXPECT_TRUE(child.handle.has_ended()) << "a zombie has ended";
  ASSERT_TRUE(child.processes.join(30s));
  EXPECT_TRUE(child.handle.has_ended()) << "and so has a process that was waited for";
}

TEST(ProcessHandle, AStoppedProcessHasNotEnded) {
  Child child;
  child.processes.send(0, SIGSTOP);
  ASSERT_TRUE(child.processes.wait_stopped(0, 30s));
  EXPECT_FALSE(child.handle.has_ended());
}

TEST(ProcessHandle, ItsConnectionMayBeClosed) {
  Child child;
  child.connection = Descriptor();
  EXPECT_FALSE(child.handle.has_ended());
}

TEST(ProcessHandle, OfAPeerThatEndedBeforehandHasEnded) {
  const std::string address = new_address();
  const Descriptor listener = std::move(*listen_at(address, 1));
  Processes processes(1, [&](int) -> std::string {
    const Descriptor connection = connect_to(address);
    return "";
  });
  ASSERT_TRUE(processes.join(30s));
  auto accepted = accept_one(listener.get(), much_patience());
  ASSERT_TRUE(accepted.ok() && *accepted);
  EXPECT_TRUE(ProcessHandle::of_peer(accepted->get(), 0).has_ended());
}

TEST(ProcessHandle, MovesWithWhatItHolds) {
  Child child;
  ProcessHandle moved = std::move(child.handle);
  EXPECT_EQ(moved.pid(), child.processes.pid(0));
  child.processes.send(0, SIGKILL);
  wait_for_end(moved.pid());
  EXPECT_TRUE(moved.has_ended());
}

TEST(ProcessHandle, AReusedPidIsAnotherProcess) {
  const std::uint64_t start = process_start(getpid());
  ASSERT_GT(start, 0U);
  EXPECT_FALSE(ProcessHandle::of_pid(getpid(), start).has_ended());
  EXPECT_FALSE(ProcessHandle::of_pid(getpid(), 0).has_ended()) << "not known";
  EXPECT_TRUE(ProcessHandle::of_pid(getpid(), start - 1).has_ended());
}

TEST(ProcessHandle, OfAPidIsThatProcess) {
  Child child;
  const pid_t pid = child.processes.pid(0);
  const ProcessHandle handle = ProcessHandle::of_pid(pid, process_start(pid));
  EXPECT_FALSE(handle.has_ended());
  child.processes.send(0, SIGKILL);
  wait_for_end(pid);
  EXPECT_TRUE(handle.has_ended());
  ASSERT_TRUE(child.processes.join(30s));
  EXPECT_TRUE(ProcessHandle::of_pid(pid, 0).has_ended());
}

TEST(ProcessHandle, OfASocketEndsWithTheOtherEnd) {
  Child child;
  const ProcessHandle handle = ProcessHandle::of_socket(child.connection.get());
  child.connection = Descriptor();
  EXPECT_FALSE(handle.has_ended()) << "it keeps a duplicate";
  child.processes.send(0, SIGKILL);
  ASSERT_TRUE(child.processes.join(30s));
  EXPECT_TRUE(handle.has_ended());
}

TEST(ProcessHandle, AnEmptyOneNeverEnds) {
  const ProcessHandle handle;
  EXPECT_EQ(handle.pid(), 0);
  EXPECT_FALSE(handle.has_ended());
}

TEST(ProcessHandle, OfThisProcessLives) {
  const std::string address = new_address();
  const Descriptor listener = std::move(*listen_at(address, 1));
  const Descriptor connection = connect_to(address);
  const ProcessHandle self = ProcessHandle::of_peer(connection.get(), 0);
  EXPECT_EQ(self.pid(), getpid());
  EXPECT_FALSE(self.has_ended());
}

/// The ends of a connection whose peer's pid the kernel does not tell, as of a process in another
/// container.
struct Anonymous {
  Anonymous() {
    const Descriptor listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(address);
    auto* const generic = reinterpret_cast<sockaddr*>(&address);
    near = Descriptor(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    there = bind(listener.get(), generic, length) == 0 && listen(listener.get(), 1) == 0 &&
            getsockname(listener.get(), generic, &length) == 0 &&
            connect(near.get(), generic, length) == 0;
    far = Descriptor(there ? accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC) : -1);
  }
  bool there = false;
  Descriptor near;
  Descriptor far;
};

TEST(ProcessHandle, OfAProcessThatCannotBeSeenEndsWithItsConnection) {
  Anonymous connection;
  if (!connection.there) {
    GTEST_SKIP() << "no loopback device";
  }
  const ProcessHandle handle = ProcessHandle::of_peer(connection.near.get(), 0);
  EXPECT_EQ(handle.pid(), 0);
  EXPECT_FALSE(handle.has_ended());
  connection.near = Descriptor();
  EXPECT_FALSE(handle.has_ended()) << "it keeps a duplicate";
  connection.far = Descriptor();
  for (const Patience patience = much_patience(); !handle.has_ended() && !patience.expired();) {
    std::this_thread::sleep_for(1ms);
  }
  EXPECT_TRUE(handle.has_ended());
}

TEST(ProcessHandle, OfWhatIsNoSocketNeverEnds) {
  const ProcessHandle handle = ProcessHandle::of_peer(-1, 0);
  EXPECT_EQ(handle.pid(), 0);
  EXPECT_FALSE(handle.has_ended());
}

}  // namespace
}  // namespace waybill::transport
