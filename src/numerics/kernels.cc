#include "numerics/kernels.h"

#include <algorithm>
#include <array>

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

// clang's __builtin_cpu_supports does not know these.

bool has_fp16() noexcept {
  constexpr unsigned kFp16 = 1U << 23;
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kFp16) != 0;
}

bool has_f16c() noexcept {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

}  // namespace

void stream_fence() noexcept { _mm_sfence(); }

std::span<const KernelSet> kernel_sets() noexcept {
  static const std::array sets = [] {
    // __builtin_cpu_supports looks at XCR0 too: at what the operating system saves.
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && has_f16c();
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl");
    const bool avx512_bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
    return std::array{KernelSet{"scalar", kScalarKernels, true},
                      KernelSet{"avx2", kAvx2Kernels, avx2},
                      KernelSet{"avx512", kAvx512Kernels, avx512},
                      KernelSet{"avx512_bf16", kAvx512Bf16Kernels, avx512_bf16},
                      KernelSet{"avx512_fp16", kAvx512Fp16Kernels, avx512_bf16 && has_fp16()}};
  }();
  return sets;
}

#else

void stream_fence() noexcept { std::atomic_thread_fence(std::memory_order_release); }

std::span<const KernelSet> kernel_sets() noexcept {
#if defined(__aarch64__)
  static constexpr KernelSet kSets[] = {{"scalar", kScalarKernels, true},
                                        {"neon", kNeonKernels, true}};
#else
  static constexpr KernelSet kSets[] = {{"scalar", kScalarKernels, true}};
#endif
  return kSets;
}

#endif

bool is_supported(SimdLevel level) noexcept {
  const std::span sets = kernel_sets();
  return std::any_of(sets.begin(), sets.end(), [=](const KernelSet& set) {
    return set.supported && set.kernels.level == level;
  });
}

const Kernels& kernels(SimdLevel level) noexcept {
  const Kernels* best = &kScalarKernels;
  for (const KernelSet& set : kernel_sets()) {
    if (set.supported && set.kernels.level == level) {
      best = &set.kernels;
    }
  }
  return *best;
}

const Kernels& best_kernels() noexcept {
  const Kernels* best = &kScalarKernels;
  for (const KernelSet& set : kernel_sets()) {
    if (set.supported) {
      best = &set.kernels;
    }
  }
  return *best;
}

}  // namespace waybill::numerics
