#include "memory.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <random>

namespace waybill::bench {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kLine = 64;
constexpr std::size_t kMiB = std::size_t{1} << 20;

struct Sizes {
  std::size_t rows, results;
};

constexpr Sizes sizes_of(Place place) {
  switch (place) {
    case Place::kL2:
      return {512 * kMiB / 1024, 128 * kMiB / 1024};
    case Place::kL3:
      return {16 * kMiB, 4 * kMiB};
    case Place::kDram:
      return {512 * kMiB, 64 * kMiB};
  }
  return {};
}

/// All places share one buffer: the smaller ones are its beginning.
std::byte* buffer() {
  static std::byte* const begin = [] {
    constexpr Sizes kLargest = sizes_of(Place::kDram);
    constexpr std::size_t kBytes = kLargest.rows + kLargest.results;
    auto* bytes = static_cast<std::byte*>(std::aligned_alloc(kPage, kBytes));
    if (bytes == nullptr) {
      std::abort();
    }
    std::uint32_t state = 1;
    auto* pairs = reinterpret_cast<std::uint16_t*>(bytes);
    for (std::size_t i = 0; i < kBytes / 2; ++i) {
      state = state * 1664525U + 1013904223U;
      const std::uint32_t sign = state >> 31 << 15;
      pairs[i] = static_cast<std::uint16_t>(sign | 0x3c00U | (state >> 16 & 0x3ffU));
    }
    return bytes;
  }();
  return begin;
}

constexpr std::size_t rounded_up(std::size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

}  // namespace

const char* name_of(Place place) noexcept {
  switch (place) {
    case Place::kL2:
      return "L2";
    case Place::kL3:
      return "L3";
    case Place::kDram:
      return "DRAM";
  }
  return "";
}

RowFeed::RowFeed(Place place, const Traffic& traffic) : num_rows_(traffic.num_rows) {
  const Sizes sizes = sizes_of(place);
  const std::size_t stride = rounded_up(traffic.row_bytes);
  num_groups_ = std::max<std::size_t>(1, sizes.rows / (stride * num_rows_));
  rows_.resize(num_groups_ * num_rows_);
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    rows_[i] = buffer() + i * stride;
  }
  std::shuffle(rows_.begin(), rows_.end(), std::mt19937(1));
  out_begin_ = buffer() + rounded_up(std::max(sizes.rows, rows_.size() * stride));
  out_stride_ = rounded_up(traffic.out_bytes);
  num_outs_ = out_stride_ == 0 ? 1 : std::max<std::size_t>(1, sizes.results / out_stride_);
}

}  // namespace waybill::bench
