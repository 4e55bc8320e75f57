#include "ceilings.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <tuple>
#include <vector>

#include "numerics/kernels.h"

#if defined(__x86_64__)
#define WAYBILL_WIDEST __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WAYBILL_WIDEST
#endif

namespace waybill::bench {
namespace {

/// A line of memory, in as many vectors as the machine needs for it.
using Line [[gnu::vector_size(64), gnu::aligned(1), gnu::may_alias]] = std::uint64_t;

/// Enough loads in flight for every kind of vector.
constexpr std::size_t kLines = 4;
constexpr std::size_t kStep = kLines * sizeof(Line);

/// Whole steps only; a last short one is left out.
WAYBILL_WIDEST void read_and_write(const std::byte* const* rows,
                                   std::size_t num_rows,
                                   std::size_t row_bytes,
                                   std::byte* out,
                                   std::size_t out_bytes) {
  Line a{};
  Line b{};
  Line c{};
  Line d{};
  for (std::size_t at = 0; at + kStep <= std::max(row_bytes, out_bytes); at += kStep) {
    for (std::size_t r = 0; r < num_rows && at + kStep <= row_bytes; ++r) {
      const auto* lines = reinterpret_cast<const Line*>(rows[r] + at);
      a |= lines[0];
      b |= lines[1];
      c |= lines[2];
      d |= lines[3];
    }
    if (at + kStep <= out_bytes) {
      auto* lines = reinterpret_cast<Line*>(out + at);
      lines[0] = a;
      lines[1] = b;
      lines[2] = c;
      lines[3] = d;
    }
  }
  a |= b | c | d;
  asm volatile("" : : "m"(a));
}

double measure(Ceiling ceiling, Place place, const Traffic& traffic) {
  using Clock = std::chrono::steady_clock;
  RowFeed feed(place, traffic);
  constexpr int kRuns = 16;
  std::vector<double> samples;
  // The first pass over small sets is for the caches.
  const std::size_t warm_up = std::min<std::size_t>(feed.num_groups(), 2048);
  for (std::size_t i = 0; i < warm_up; ++i) {
    run(ceiling, traffic, feed.rows(), feed.out());
  }
  const auto end = Clock::now() + std::chrono::milliseconds(150);
  do {
    const auto begin = Clock::now();
    for (int i = 0; i < kRuns; ++i) {
      run(ceiling, traffic, feed.rows(), feed.out());
    }
    samples.push_back(std::chrono::duration<double>(Clock::now() - begin).count() / kRuns);
  } while (Clock::now() < end);
  const auto median = samples.begin() + static_cast<std::ptrdiff_t>(samples.size() / 2);
  std::nth_element(samples.begin(), median, samples.end());
  return *median;
}

}  // namespace

const char* name_of(Ceiling ceiling) noexcept {
  switch (ceiling) {
    case Ceiling::kReadAndWrite:
      return "read_and_write";
    case Ceiling::kMemcpy:
      return "memcpy";
    case Ceiling::kStream:
      return "stream";
  }
  return "";
}

void run(Ceiling ceiling, const Traffic& traffic, const std::byte* const* rows, std::byte* out) {
  switch (ceiling) {
    case Ceiling::kReadAndWrite:
      read_and_write(rows, traffic.num_rows, traffic.row_bytes, out, traffic.out_bytes);
      return;
    case Ceiling::kMemcpy:
      std::memcpy(out, rows[0], traffic.row_bytes);
      return;
    case Ceiling::kStream:
      numerics::best_kernels().copy(
          out, rows[0], traffic.row_bytes, numerics::StoreKind::kStreaming);
      return;
  }
}

double seconds_of(Ceiling ceiling, Place place, const Traffic& traffic) {
  static std::map<std::tuple<Ceiling, Place, Traffic>, double> known;
  const auto key = std::tuple(ceiling, place, traffic);
  const auto found = known.find(key);
  if (found != known.end()) {
    return found->second;
  }
  return known[key] = measure(ceiling, place, traffic);
}

}  // namespace waybill::bench
