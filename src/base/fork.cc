#include "base/fork.h"

#include <pthread.h>

#include <atomic>

namespace waybill {
namespace {

std::atomic<int> generation{0};

const int kRegistered = pthread_atfork(nullptr, nullptr, [] { generation.fetch_add(1); });

}  // namespace

int fork_generation() noexcept {
  (void)kRegistered;
  return generation.load(std::memory_order_relaxed);
}

}  // namespace waybill
