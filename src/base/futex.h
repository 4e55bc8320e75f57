#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <bit>
#include <chrono>
#include <climits>
#include <cstdint>
#include <ctime>

namespace waybill {

/// The low half of a 64-bit word, on which the kernel waits.
inline const std::uint32_t* futex_half(const std::atomic<std::uint64_t>& word) noexcept {
  static_assert(std::endian::native == std::endian::little);
  return reinterpret_cast<const std::uint32_t*>(&word);
}

/// Sleeps while the low half of `word` is `expected`, at most `limit`. Works on a read-only mapping
/// that another process writes. May return early.
inline void futex_wait(const std::atomic<std::uint64_t>& word,
                       std::uint32_t expected,
                       std::chrono::nanoseconds limit) noexcept {
  timespec timeout{};
  timeout.tv_sec = static_cast<time_t>(limit.count() / 1'000'000'000);
  timeout.tv_nsec = static_cast<long>(limit.count() % 1'000'000'000);
  syscall(SYS_futex, futex_half(word), FUTEX_WAIT, expected, &timeout, nullptr, 0);
}

inline void futex_wake_all(const std::atomic<std::uint64_t>& word) noexcept {
  syscall(SYS_futex, futex_half(word), FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace waybill
