#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace waybill::bench {

/// Where the rows of a stage come from and its results go: what fits a core's second cache with
/// room to spare, what does not, and what fits no cache.
enum class Place : std::uint8_t { kL2, kL3, kDram };
inline constexpr Place kPlaces[] = {Place::kL2, Place::kL3, Place::kDram};

const char* name_of(Place place) noexcept;

/// The bytes that one run of a stage moves.
struct Traffic {
  std::size_t num_rows = 1;
  std::size_t row_bytes = 0;
  std::size_t out_bytes = 0;

  double total() const noexcept { return static_cast<double>(num_rows * row_bytes + out_bytes); }
  friend auto operator<=>(const Traffic&, const Traffic&) = default;
};

/// Rows of one place in an order without a pattern, as combine finds them, and room for results.
/// The bytes of rows are pairs that as bfloat16, float16 and float32 are numbers of moderate size.
class RowFeed {
 public:
  RowFeed(Place place, const Traffic& traffic);

  /// The next num_rows rows.
  const std::byte* const* rows() noexcept {
    group_ = group_ + 1 < num_groups_ ? group_ + 1 : 0;
    return rows_.data() + group_ * num_rows_;
  }
  /// Where the next results go, aligned to a cache line.
  std::byte* out() noexcept {
    out_ = out_ + 1 < num_outs_ ? out_ + 1 : 0;
    return out_begin_ + out_ * out_stride_;
  }
  /// Runs that touch each row once.
  std::size_t num_groups() const noexcept { return num_groups_; }

 private:
  std::vector<const std::byte*> rows_;
  std::byte* out_begin_;
  std::size_t num_rows_;
  std::size_t num_groups_;
  std::size_t out_stride_;
  std::size_t num_outs_;
  std::size_t group_ = 0;
  std::size_t out_ = 0;
};

}  // namespace waybill::bench
