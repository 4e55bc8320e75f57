#pragma once

#include <cstdint>

#if defined(__SSE__)
#include <immintrin.h>
#endif

namespace waybill::numerics {

/// Round to nearest and keep subnormals in this scope, whatever the caller's thread is set to
/// (torch.set_flush_denormal changes it): the contract's bits depend on it.
class DefaultFloatMode {
 public:
  DefaultFloatMode(const DefaultFloatMode&) = delete;
  DefaultFloatMode& operator=(const DefaultFloatMode&) = delete;
#if defined(__SSE__)
  DefaultFloatMode() noexcept : saved_(_mm_getcsr()) { _mm_setcsr(kDefault); }
  ~DefaultFloatMode() { _mm_setcsr(saved_); }

 private:
  static constexpr unsigned kDefault = 0x1f80;  // all exceptions masked, nearest, no flushing
  unsigned saved_;
#elif defined(__aarch64__)
  DefaultFloatMode() noexcept {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    set(0);  // no exception traps, nearest, no flushing, no default NaN
  }
  ~DefaultFloatMode() { set(saved_); }

 private:
  static void set(std::uint64_t mode) noexcept { asm volatile("msr fpcr, %0" : : "r"(mode)); }
  std::uint64_t saved_;
#else
  DefaultFloatMode() noexcept = default;
  ~DefaultFloatMode() {}
#endif
};

}  // namespace waybill::numerics
