#include "support/processes.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <new>
#include <thread>

#ifdef WAYBILL_COVERAGE
extern "C" void __gcov_dump();  // gcov.h lacks the extern "C" in GCC 12
#endif

namespace waybill::testing {
namespace {

using Clock = std::chrono::steady_clock;

bool wait_until(std::chrono::milliseconds limit, const std::function<bool()>& done) {
  const auto end = Clock::now() + limit;
  while (!done()) {
    if (Clock::now() > end) {
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

/// _exit() runs nothing that has to happen at the end of a program, so the counts of a coverage
/// build are written here. A child that became another user cannot write them.
[[noreturn]] void end_child([[maybe_unused]] uid_t parent) {
#ifdef WAYBILL_COVERAGE
  if (geteuid() == parent) {
    __gcov_dump();
  }
#endif
  _exit(0);
}

}  // namespace

Processes::Shared& Processes::shared() {
  static Shared* memory = [] {
    void* address =
        mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (address == MAP_FAILED) {
      std::abort();
    }
    return new (address) Shared();
  }();
  return *memory;
}

Processes::Processes(int count, const std::function<std::string(int)>& body)
    : ended_(static_cast<std::size_t>(count)), stopped_(static_cast<std::size_t>(count)) {
  new (&shared()) Shared();
  const uid_t user = geteuid();
  for (int rank = 0; rank < count; ++rank) {
    const pid_t pid = fork();
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      const std::string text = body(rank);
      auto& place = shared().text[static_cast<std::size_t>(rank)];
      std::memcpy(place.data(), text.c_str(), std::min(text.size() + 1, place.size() - 1));
      end_child(user);
    }
    pids_.push_back(pid);
  }
}

Processes::~Processes() {
  for (std::size_t r = 0; r < pids_.size(); ++r) {
    if (ended_[r] == 0) {
      kill(pids_[r], SIGKILL);
      waitpid(pids_[r], nullptr, 0);
    }
  }
}

bool Processes::reap(int rank) {
  const auto r = static_cast<std::size_t>(rank);
  int status = 0;
  if (ended_[r] == 0 && waitpid(pids_[r], &status, WNOHANG | WUNTRACED | WCONTINUED) == pids_[r]) {
    stopped_[r] = WIFSTOPPED(status) ? 1 : 0;
    ended_[r] = WIFEXITED(status) || WIFSIGNALED(status) ? 1 : 0;
  }
  return ended_[r] != 0;
}

bool Processes::join(int rank, std::chrono::milliseconds limit) {
  return wait_until(limit, [&] { return reap(rank); });
}

bool Processes::join(std::chrono::milliseconds limit) {
  const auto end = Clock::now() + limit;
  for (std::size_t r = 0; r < pids_.size(); ++r) {
    if (!join(static_cast<int>(r),
              std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()))) {
      return false;
    }
  }
  return true;
}

bool Processes::wait_stopped(int rank, std::chrono::milliseconds limit) {
  return wait_until(limit, [&] {
    (void)reap(rank);
    return stopped_[static_cast<std::size_t>(rank)] != 0;
  });
}

bool Processes::wait_step(int rank, int value, std::chrono::milliseconds limit) {
  return wait_until(limit,
                    [&] { return shared().step[static_cast<std::size_t>(rank)].load() >= value; });
}

void Processes::send(int rank, int signal) { kill(pid(rank), signal); }

std::string Processes::text(int rank) const {
  return shared().text[static_cast<std::size_t>(rank)].data();
}

}  // namespace waybill::testing
