#pragma once

namespace waybill {

/// Between two looks at a word that another core will write.
inline void pause() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  // Holds the pipeline up about as long as x86's pause; `yield` does nothing on most cores.
  asm volatile("isb" : : : "memory");
#endif
}

}  // namespace waybill
