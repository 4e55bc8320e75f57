#include "engine/store_choice.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstring>

namespace waybill::engine {
namespace {

using Clock = std::chrono::steady_clock;
using numerics::StoreKind;

constexpr std::int64_t kRow = std::int64_t{16} << 10;
constexpr std::array<std::int64_t, 4> kSizes = {
    std::int64_t{8} << 20, std::int64_t{4} << 20, std::int64_t{2} << 20, std::int64_t{1} << 20};
/// A row is chosen by several experts.
constexpr std::int64_t kChoices = 4;
constexpr int kRepeats = 3;
constexpr std::chrono::milliseconds kAtMost{40};

/// Memory whose pages are there.
class Pages {
 public:
  explicit Pages(std::int64_t bytes) : bytes_(static_cast<std::size_t>(bytes)) {
    void* memory = mmap(
        nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    data_ = memory == MAP_FAILED ? nullptr : static_cast<std::byte*>(memory);
  }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  ~Pages() {
    if (data_ != nullptr) {
      munmap(data_, bytes_);
    }
  }
  std::byte* data() const noexcept { return data_; }

 private:
  std::size_t bytes_;
  std::byte* data_ = nullptr;
};

class Measurement {
 public:
  explicit Measurement(const numerics::Kernels& kernels)
      : kernels_(kernels), source_(kSizes[0] / kChoices), target_(kSizes[0]) {}

  std::int64_t run() const {
    if (source_.data() == nullptr || target_.data() == nullptr ||
        !numerics::flush_from_caches(target_.data(), static_cast<std::size_t>(kSizes[0]))) {
      return kUsualStreamingBytes;
    }
    // From the largest size down, as long as streaming wins.
    std::int64_t threshold = 4 * kSizes[0];
    for (const std::int64_t bytes : kSizes) {
      const double ordinary = best_of(bytes, StoreKind::kOrdinary);
      const double streaming = best_of(bytes, StoreKind::kStreaming);
      if (streaming >= ordinary || Clock::now() - begin_ > kAtMost) {
        break;
      }
      threshold = bytes;
    }
    return threshold;
  }

 private:
  double best_of(std::int64_t bytes, StoreKind kind) const {
    double best = seconds(bytes, kind);
    for (int i = 1; i < kRepeats; ++i) {
      best = std::min(best, seconds(bytes, kind));
    }
    return best;
  }

  /// Copies rows to where none have been for a while, and reads them once, as an expert will.
  double seconds(std::int64_t bytes, StoreKind kind) const {
    std::memset(source_.data(), 1, static_cast<std::size_t>(bytes / kChoices));
    static_cast<void>(numerics::flush_from_caches(target_.data(), static_cast<std::size_t>(bytes)));
    const auto begin = Clock::now();
    for (std::int64_t i = 0; i < bytes / kRow; ++i) {
      kernels_.copy(target_.data() + i * kRow,
                    source_.data() + i / kChoices * kRow,
                    static_cast<std::size_t>(kRow),
                    kind);
    }
    numerics::stream_fence();
    std::uint64_t all = 0;
    const auto* words = reinterpret_cast<const std::uint64_t*>(target_.data());
    for (std::int64_t i = 0; i < bytes / 8; ++i) {
      all ^= words[i];
    }
    [[maybe_unused]] const volatile std::uint64_t used = all;
    return std::chrono::duration<double>(Clock::now() - begin).count();
  }

  const numerics::Kernels& kernels_;
  const Clock::time_point begin_ = Clock::now();
  const Pages source_;
  const Pages target_;
};

}  // namespace

std::int64_t measure_streaming_bytes(const numerics::Kernels& kernels) {
  static const std::int64_t bytes = Measurement(kernels).run();
  return bytes;
}

}  // namespace waybill::engine
