#include "window/checks.h"

#include <algorithm>
#include <cstring>

namespace waybill::window {
namespace {

constexpr std::byte kCanary{0x5c};

}  // namespace

void write_canary(std::byte* at) noexcept {
  std::memset(at, std::to_integer<int>(kCanary), static_cast<std::size_t>(kCanaryBytes));
}

bool is_intact(const std::byte* canary) noexcept {
  return std::all_of(canary, canary + kCanaryBytes, [](std::byte b) { return b == kCanary; });
}

std::uint64_t checksum(const std::byte* row, std::int64_t bytes) noexcept {
  constexpr std::uint64_t kMultiplier = 0x9e3779b97f4a7c15;
  std::uint64_t hash = static_cast<std::uint64_t>(bytes) * kMultiplier;
  for (std::int64_t i = 0; i < bytes; i += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, row + i, static_cast<std::size_t>(std::min<std::int64_t>(8, bytes - i)));
    hash = (hash ^ word) * kMultiplier;
    hash ^= hash >> 29;
  }
  return hash;
}

}  // namespace waybill::window
