#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>
#include <utility>

#include "base/descriptor.h"
#include "base/fork.h"
#include "base/futex.h"

namespace waybill {
namespace {

using namespace std::chrono_literals;

bool is_open(int fd) { return fcntl(fd, F_GETFD) >= 0; }

Descriptor any_descriptor() { return Descriptor(open("/dev/null", O_RDONLY | O_CLOEXEC)); }

TEST(Descriptor, ClosesWhatItOwns) {
  int fd = -1;
  {
    const Descriptor owner = any_descriptor();
    fd = owner.get();
    EXPECT_TRUE(owner);
    EXPECT_TRUE(is_open(fd));
  }
  EXPECT_FALSE(is_open(fd));
  EXPECT_FALSE(Descriptor());
}

TEST(Descriptor, MovesAndGivesAway) {
  Descriptor first = any_descriptor();
  const int fd = first.get();
  Descriptor second = std::move(first);
  EXPECT_EQ(second.get(), fd);
  Descriptor third;
  third = std::move(second);
  EXPECT_EQ(third.get(), fd);
  EXPECT_EQ(third.release(), fd);
  EXPECT_FALSE(third);
  EXPECT_TRUE(is_open(fd));
  close(fd);
}

TEST(ForkGeneration, ChangesInTheChildOnly) {
  const int before = fork_generation();
  const pid_t child = fork();
  if (child == 0) {
    _exit(fork_generation() == before ? 1 : 0);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(fork_generation(), before);
}

/// Whether a child has this descriptor open as something that can be written to and read again.
bool child_has_file(int fd) {
  const pid_t child = fork();
  if (child == 0) {
    char byte = 1;
    _exit(pwrite(fd, &byte, 1, 0) == 1 && pread(fd, &byte, 1, 0) == 1 ? 1 : 0);
  }
  int status = -1;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  return WEXITSTATUS(status) == 1;
}

TEST(KeptFromChildren, AChildHasSomethingElse) {
  const Descriptor file(memfd_create("waybill-test", MFD_CLOEXEC));
  EXPECT_TRUE(child_has_file(file.get()));
  {
    const KeptFromChildren kept(file.get());
    EXPECT_FALSE(child_has_file(file.get()));
    char byte = 1;
    EXPECT_EQ(pwrite(file.get(), &byte, 1, 0), 1);
    EXPECT_EQ(pread(file.get(), &byte, 1, 0), 1);
  }
  EXPECT_TRUE(child_has_file(file.get()));
}

TEST(Futex, ReturnsAtOnceWhenTheWordHasChanged) {
  const std::atomic<std::uint64_t> word{7};
  const auto begin = std::chrono::steady_clock::now();
  futex_wait(word, 6, 10s);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 5s);
}

TEST(Futex, EndsAtItsLimit) {
  const std::atomic<std::uint64_t> word{7};
  const auto begin = std::chrono::steady_clock::now();
  futex_wait(word, 7, 20ms);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 5s);
}

TEST(Futex, WaitsOnTheLowHalfAndIsWoken) {
  std::atomic<std::uint64_t> word{std::uint64_t{9} << 32 | 1};
  std::thread other([&] {
    std::this_thread::sleep_for(5ms);
    word.store(std::uint64_t{9} << 32 | 2);
    futex_wake_all(word);
  });
  while ((word.load() & 0xffffffffU) == 1) {
    futex_wait(word, 1, 10s);
  }
  other.join();
  EXPECT_EQ(word.load(), std::uint64_t{9} << 32 | 2);
}

}  // namespace
}  // namespace waybill
