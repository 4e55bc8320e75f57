#include "contract/dispatch_mark.h"

#include <algorithm>
#include <array>

#include "contract/agreement.h"

namespace waybill::contract {
namespace {

// Any two numbers that triples and counts, which are not negative, cannot be.
constexpr std::int32_t kFirst = -0x57617962;
constexpr std::int32_t kSecond = -0x696c6c21;
/// How many elements at either end of the list the sum covers.
constexpr std::int64_t kSampled = 12;

constexpr std::uint64_t mix(std::uint64_t value) noexcept {
  value = (value ^ value >> 32) * 0x9e3779b97f4a7c15;
  return value ^ value >> 29;
}

/// Of the ends of the list's first `used` elements and of the call. Each element has a factor of
/// its own, so that a processor multiplies several at once.
template <typename Element>
std::uint64_t sum_of(const Element& element, std::int64_t used, DispatchCall call) noexcept {
  constexpr std::uint64_t kStep = 0x9e3779b97f4a7c16;  // even: every factor is odd
  std::uint64_t sum = mix(static_cast<std::uint64_t>(call) + static_cast<std::uint64_t>(used));
  std::uint64_t factor = 1;
  const auto add = [&](std::int64_t i) {
    factor += kStep;
    sum += (std::uint64_t{static_cast<std::uint32_t>(element(i))} + 1) * factor;
  };
  const std::int64_t first_end = std::min(kSampled, used);
  for (std::int64_t i = 0; i < first_end; ++i) {
    add(i);
  }
  for (std::int64_t i = std::max(first_end, used - kSampled); i < used; ++i) {
    add(i);
  }
  return mix(sum);
}

}  // namespace

DispatchCall make_dispatch_call(std::uint64_t group,
                                std::uint32_t epoch,
                                std::uint32_t call) noexcept {
  const auto high = static_cast<std::uint32_t>(mix(group + epoch));
  return static_cast<DispatchCall>(static_cast<std::uint64_t>(high) << 32 | call);
}

std::string dispatch_call_text(DispatchCall call) {
  return call == kUnmarked ? "an unmarked list"
                           : "call " + std::to_string(static_cast<std::uint32_t>(call));
}

void write_mark(std::span<std::int32_t> ints, std::int64_t used, DispatchCall call) noexcept {
  if (used == 0 || used + kMarkInts > static_cast<std::int64_t>(ints.size())) {
    return;
  }
  const std::uint64_t sum =
      sum_of([&](std::int64_t i) { return ints[static_cast<std::size_t>(i)]; }, used, call);
  const std::array<std::int32_t, kMarkInts> mark = {
      kFirst,
      kSecond,
      static_cast<std::int32_t>(call),
      static_cast<std::int32_t>(static_cast<std::uint64_t>(call) >> 32),
      static_cast<std::int32_t>(sum),
      static_cast<std::int32_t>(sum >> 32)};
  std::copy(mark.begin(), mark.end(), ints.begin() + used);
}

DispatchCall read_mark(const TensorView& ints, std::int64_t used) noexcept {
  if (used == 0 || ints.dtype != DType::kInt32 || ints.total_dims != 1 ||
      used + kMarkInts > ints.shape[0]) {
    return kUnmarked;
  }
  const auto* data = static_cast<const std::int32_t*>(ints.data);
  const std::int64_t stride = ints.strides[0];
  const auto element = [&](std::int64_t i) { return data[i * stride]; };
  const auto unsigned_at = [&](std::int64_t i) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(element(used + i)));
  };
  if (element(used) != kFirst || element(used + 1) != kSecond) {
    return kUnmarked;
  }
  const auto call = static_cast<DispatchCall>(unsigned_at(3) << 32 | unsigned_at(2));
  return sum_of(element, used, call) == (unsigned_at(5) << 32 | unsigned_at(4)) ? call : kUnmarked;
}

}  // namespace waybill::contract
