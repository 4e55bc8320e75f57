#include "base/fork.h"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>

namespace waybill {
namespace {

std::atomic<int> generation{0};

/// Descriptors + 1; 0 is a free place. More than there are groups in a process; one that finds no
/// place is inherited like any other.
std::array<std::atomic<int>, 256> kept{};

/// In the child, where only system calls are safe.
void replace_kept() {
  const int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (nothing < 0) {
    return;
  }
  for (const std::atomic<int>& place : kept) {
    if (const int fd = place.load(std::memory_order_relaxed) - 1; fd >= 0) {
      dup3(nothing, fd, O_CLOEXEC);
    }
  }
  close(nothing);
}

const int kRegistered = pthread_atfork(nullptr, nullptr, [] {
  generation.fetch_add(1);
  replace_kept();
});

}  // namespace

int fork_generation() noexcept {
  (void)kRegistered;
  return generation.load(std::memory_order_relaxed);
}

KeptFromChildren::KeptFromChildren(int fd) noexcept {
  (void)kRegistered;
  for (std::size_t i = 0; fd >= 0 && place_ < 0 && i < kept.size(); ++i) {
    int unused = 0;
    if (kept[i].compare_exchange_strong(unused, fd + 1)) {
      place_ = static_cast<int>(i);
    }
  }
}

KeptFromChildren::~KeptFromChildren() {
  if (place_ >= 0) {
    kept[static_cast<std::size_t>(place_)].store(0);
  }
}

}  // namespace waybill
