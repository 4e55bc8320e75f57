#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace waybill::window {

/// A point in the life of a group: epoch in the high half, call number in the low half, which is
/// the futex word. Words only grow.
using Stamp = std::uint64_t;

constexpr Stamp stamp(std::uint32_t epoch, std::uint32_t call) noexcept {
  return static_cast<Stamp>(epoch) << 32 | call;
}
constexpr std::uint32_t epoch_of(Stamp value) noexcept {
  return static_cast<std::uint32_t>(value >> 32);
}
constexpr std::uint32_t call_of(Stamp value) noexcept { return static_cast<std::uint32_t>(value); }
/// Which of the two halves, headers and refusals a call uses.
constexpr std::size_t half_of_call(Stamp call) noexcept { return call_of(call) % 2; }

#if defined(__SANITIZE_THREAD__)
#define WAYBILL_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define WAYBILL_TSAN 1
#endif
#endif

#ifdef WAYBILL_TSAN
/// Called before every step that other ranks can see: tests put delays there.
inline std::atomic<void (*)()> before_step{nullptr};

inline void step() noexcept {
  if (auto* const hook = before_step.load(std::memory_order_relaxed)) {
    hook();
  }
}
#else
inline void step() noexcept {}
#endif

/// One word of a control page, alone on its cache line. Its owner writes, everybody reads.
struct alignas(64) Word {
  std::atomic<Stamp> value{0};

  Stamp load() const noexcept {
    step();
    return value.load(std::memory_order_acquire);
  }
  void store(Stamp next) noexcept {
    step();
    value.store(next, std::memory_order_release);
  }
};
static_assert(std::atomic<Stamp>::is_always_lock_free && sizeof(Word) == 64);

/// Full fence. ThreadSanitizer does not know fences: there a read-modify-write takes its place.
inline void fence_all() noexcept {
  step();
#ifdef WAYBILL_TSAN
  thread_local std::atomic<int> word{0};
  word.fetch_add(1, std::memory_order_seq_cst);
#else
  std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
}

/// Orders earlier reads of published rows before later reads of words.
inline void fence_reads() noexcept {
#ifdef WAYBILL_TSAN
  fence_all();
#else
  std::atomic_thread_fence(std::memory_order_acquire);
#endif
}

}  // namespace waybill::window
