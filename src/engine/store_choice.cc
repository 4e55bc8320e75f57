#include "engine/store_choice.h"

#include <algorithm>
#include <bit>
#include <ctime>

namespace waybill::engine {
namespace {

using numerics::StoreKind;

/// Smaller copies stay in the core's own cache.
constexpr std::int64_t kLeastBytes = std::int64_t{256} << 10;
/// Where nothing has been tried, caches hold less than this.
constexpr std::int64_t kUsualBytes = std::int64_t{8} << 20;
constexpr std::int64_t kLeastTokenBytes = std::int64_t{1} << 20;
/// Copies in a row that try one kind. The first ones find the caches as the other kind left them.
constexpr std::int64_t kTrial = 3;
/// Copies after which the other kind is tried again.
constexpr std::int64_t kPeriod = 256;

/// Of this thread alone: where ranks share a core, others run in between.
std::chrono::nanoseconds thread_time() noexcept {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

StoreKind other(StoreKind kind) noexcept {
  return kind == StoreKind::kOrdinary ? StoreKind::kStreaming : StoreKind::kOrdinary;
}

}  // namespace

std::size_t StoreChoice::index_of(std::int64_t bytes) noexcept {
  return std::min<std::size_t>(
      static_cast<std::size_t>(std::bit_width(static_cast<std::uint64_t>(bytes))), 47);
}

StoreKind StoreChoice::best_of(const Size& size) noexcept {
  return size.ns_per_byte[1] < size.ns_per_byte[0] ? StoreKind::kStreaming : StoreKind::kOrdinary;
}

StoreChoice::Pull::Pull(StoreChoice& choice, std::int64_t bytes) noexcept
    : choice_(choice),
      bytes_(bytes),
      kind_(choice.begin_pull(bytes)),
      begin_(bytes < kLeastBytes ? std::chrono::nanoseconds{0} : thread_time()) {}

StoreChoice::Pull::~Pull() {
  if (bytes_ >= kLeastBytes) {
    choice_.note(bytes_, kind_, thread_time() - begin_);
  }
}

StoreKind StoreChoice::begin_pull(std::int64_t bytes) noexcept {
  last_ = StoreKind::kOrdinary;
  if (bytes < kLeastBytes) {
    return last_;
  }
  Size& size = sizes_[index_of(bytes)];
  const std::int64_t copy = size.copies++;
  if (copy < 2 * kTrial) {
    last_ = copy < kTrial ? StoreKind::kOrdinary : StoreKind::kStreaming;
  } else {
    last_ = copy % kPeriod < kTrial ? other(best_of(size)) : best_of(size);
  }
  return last_;
}

void StoreChoice::note(std::int64_t bytes, StoreKind kind, std::chrono::nanoseconds time) noexcept {
  Size& size = sizes_[index_of(bytes)];
  const bool settled = (size.copies - 1) % kPeriod % kTrial == kTrial - 1;
  const bool tried = (size.copies - 1) % kPeriod < kTrial || size.copies <= 2 * kTrial;
  if (tried && !settled) {
    return;
  }
  // The smoothed value of the kind in use follows the machine; one disturbed copy moves it little.
  double& known = size.ns_per_byte[static_cast<std::size_t>(kind)];
  const double now = static_cast<double>(time.count()) / static_cast<double>(bytes);
  known = known == 0 || tried ? now : known + (std::min(now, 2 * known) - known) / 8;
}

StoreKind StoreChoice::for_rows(std::int64_t bytes) const noexcept {
  const Size& size = sizes_[index_of(bytes)];
  if (size.copies < 2 * kTrial) {
    return bytes < kUsualBytes ? StoreKind::kOrdinary : StoreKind::kStreaming;
  }
  return best_of(size);
}

StoreKind StoreChoice::for_tokens(std::int64_t bytes) const noexcept {
  return bytes < kLeastTokenBytes ? StoreKind::kOrdinary : last_;
}

}  // namespace waybill::engine
