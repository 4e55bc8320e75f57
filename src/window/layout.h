#pragma once

#include <cstdint>

namespace waybill::window {

/// A part of a half.
struct Section {
  std::int64_t offset = 0;
  std::int64_t bytes = 0;
};

/// Places sections one behind the other, each on a cache line of its own.
class Cursor {
 public:
  constexpr Section add(std::int64_t bytes) noexcept {
    const Section section{end_, bytes};
    end_ = (end_ + bytes + kLine - 1) / kLine * kLine;
    return section;
  }
  constexpr std::int64_t end() const noexcept { return end_; }

 private:
  static constexpr std::int64_t kLine = 64;
  std::int64_t end_ = 0;
};

/// What dispatch publishes: the sizes that decide the layout, the sections, and the end. The writer
/// and every reader compute it from the same sizes.
struct DispatchLayout {
  struct Sizes {
    std::int64_t num_ranks;    ///< E
    std::int64_t num_experts;  ///< M
    std::int64_t num_entries;  ///< (t,k) pairs sent
    std::int64_t num_active;   ///< tokens sent to shared experts, 0 without any
    std::int64_t num_weights;  ///< BS*K, 0 without expert_scales
    std::int64_t num_rows;     ///< rows published
    std::int64_t row_bytes;
    bool quantised;
  };

  Section rows_to;         ///< (E,) int32: MoE rows meant for each rank
  Section expert_offsets;  ///< (M+1,) int32: where each expert's entries begin
  Section entries;         ///< (num_entries,) int32: t*K+k, by expert, then in order
  Section active;          ///< (num_active,) int32: active tokens in order
  Section weights;         ///< (BS*K,) float32
  Section row_scales;      ///< (num_rows,) float32 when quantised
  Section rows;            ///< (num_rows, row_bytes)
  std::int64_t end = 0;

  static constexpr DispatchLayout of(const Sizes& sizes) noexcept {
    Cursor cursor;
    DispatchLayout layout;
    layout.rows_to = cursor.add(4 * sizes.num_ranks);
    layout.expert_offsets = cursor.add(4 * (sizes.num_experts + 1));
    layout.entries = cursor.add(4 * sizes.num_entries);
    layout.active = cursor.add(4 * sizes.num_active);
    layout.weights = cursor.add(4 * sizes.num_weights);
    layout.row_scales = cursor.add(sizes.quantised ? 4 * sizes.num_rows : 0);
    layout.rows = cursor.add(sizes.num_rows * sizes.row_bytes);
    layout.end = cursor.end();
    return layout;
  }
};

/// What dispatch publishes for its TP peer; the rows themselves lie in the pool, but in the mirror
/// of a peer on another host.
struct TpDispatchLayout {
  Section counts;      ///< (E,) int32, the first part of ep_recv_counts
  Section row_scales;  ///< (num_rows,) float32 when quantised
  Section rows;        ///< rows_bytes, 0 where they lie in the pool
  std::int64_t end = 0;

  static constexpr TpDispatchLayout of(std::int64_t num_ranks,
                                       std::int64_t num_rows,
                                       bool quantised,
                                       std::int64_t rows_bytes) noexcept {
    Cursor cursor;
    TpDispatchLayout layout;
    layout.counts = cursor.add(4 * num_ranks);
    layout.row_scales = cursor.add(quantised ? 4 * num_rows : 0);
    layout.rows = cursor.add(rows_bytes);
    layout.end = cursor.end();
    return layout;
  }
};

/// A row that goes back: where it lies at the publisher and where it belongs at the owner.
struct ReturnEntry {
  std::int32_t row;
  std::int32_t token;
  std::int32_t slot;
};

/// What combine publishes: rows, and where they belong, as a list of places or as the counts from
/// which owners compute them.
struct CombineLayout {
  struct Sizes {
    std::int64_t num_ranks;     ///< E
    std::int64_t num_entries;   ///< rows returned whose places are listed
    std::int64_t num_counts;    ///< E*localE where rows are found by occurrence, else 0
    std::int64_t copied_rows;   ///< 0 when the rows lie in the pool
    std::int64_t row_bytes;     ///< of a row as published
    std::int64_t scales_bytes;  ///< of a row's scales, 0 without comm_quant_mode
  };

  Section owner_offsets;  ///< (E+1,) int32: where each owner's entries begin
  Section entries;        ///< (num_entries,) ReturnEntry, by owner
  Section counts;         ///< (num_counts,) int32: inclusive prefix sums by (local expert, owner)
  Section scales;         ///< (copied_rows, scales_bytes)
  Section rows;           ///< (copied_rows, row_bytes)
  std::int64_t end = 0;

  static constexpr CombineLayout of(const Sizes& sizes) noexcept {
    Cursor cursor;
    CombineLayout layout;
    layout.owner_offsets = cursor.add(4 * (sizes.num_ranks + 1));
    layout.entries = cursor.add(static_cast<std::int64_t>(sizeof(ReturnEntry)) * sizes.num_entries);
    layout.counts = cursor.add(4 * sizes.num_counts);
    layout.scales = cursor.add(sizes.copied_rows * sizes.scales_bytes);
    layout.rows = cursor.add(sizes.copied_rows * sizes.row_bytes);
    layout.end = cursor.end();
    return layout;
  }
};

}  // namespace waybill::window
