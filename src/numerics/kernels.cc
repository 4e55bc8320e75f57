#include "numerics/kernels.h"

#include <initializer_list>

#include "numerics/kernel_sets.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#else
#include <atomic>
#endif

namespace waybill::numerics {

#if defined(__x86_64__)

namespace {

/// clang's __builtin_cpu_supports does not know this one.
bool has_f16c() noexcept {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

}  // namespace

void stream_fence() noexcept { _mm_sfence(); }

bool is_supported(SimdLevel level) noexcept {
  // __builtin_cpu_supports looks at XCR0 too: at what the operating system saves.
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && has_f16c();
  switch (level) {
    case SimdLevel::kScalar:
      return true;
    case SimdLevel::kAvx2:
      return avx2;
    case SimdLevel::kAvx512:
      return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    case SimdLevel::kNeon:
      break;
  }
  return false;
}

const Kernels& kernels(SimdLevel level) noexcept {
  switch (level) {
    case SimdLevel::kScalar:
      return kScalarKernels;
    case SimdLevel::kAvx2:
      return kAvx2Kernels;
    case SimdLevel::kAvx512:
      return kAvx512Kernels;
    case SimdLevel::kNeon:
      break;
  }
  return kScalarKernels;
}

#elif defined(__aarch64__)

void stream_fence() noexcept { std::atomic_thread_fence(std::memory_order_release); }

bool is_supported(SimdLevel level) noexcept {
  return level == SimdLevel::kScalar || level == SimdLevel::kNeon;
}

const Kernels& kernels(SimdLevel level) noexcept {
  return level == SimdLevel::kNeon ? kNeonKernels : kScalarKernels;
}

#else

void stream_fence() noexcept { std::atomic_thread_fence(std::memory_order_release); }

bool is_supported(SimdLevel level) noexcept { return level == SimdLevel::kScalar; }

const Kernels& kernels(SimdLevel) noexcept { return kScalarKernels; }

#endif

const Kernels& best_kernels() noexcept {
  for (const SimdLevel level : {SimdLevel::kNeon, SimdLevel::kAvx512, SimdLevel::kAvx2}) {
    if (is_supported(level)) return kernels(level);
  }
  return kScalarKernels;
}

}  // namespace waybill::numerics
