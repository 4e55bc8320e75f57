#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "engine/roll_call.h"
#include "engine/shipment.h"
#include "window/checks.h"
#include "window/control.h"

namespace waybill::engine {

/// Checked mode of one call: what a rank publishes carries a checksum for each row and a canary
/// behind its end, and readers compare. Owner: the Call. verify() from any thread.
class CheckedRows {
 public:
  explicit CheckedRows(const RollCall& roll) noexcept : roll_(roll) {}

  /// What seal() makes checksums of: header.num_rows rows.
  void note_published(const std::byte* rows, std::int64_t row_bytes) noexcept {
    rows_ = rows;
    row_bytes_ = row_bytes;
  }
  /// Writes the checksums behind the layout that ends at header.checked_end.
  void seal(std::byte* half, window::CallHeader& header) const noexcept;

  /// What can be seen of the tails before any row of the members is read.
  bool tails_are_sane(std::size_t half) const noexcept;
  /// Notes where `row`, number `index` of those that `member` published, is not what it published.
  void verify(std::size_t half,
              int member,
              std::int64_t index,
              const std::byte* row,
              std::int64_t bytes) const noexcept;
  /// What was expected of the members and did not come, for an error; empty where all is well.
  /// Of members of other hosts only those are looked at whose half has come.
  std::string find_damage(std::size_t half, const Shipment& shipment) const;

 private:
  window::CheckedTail tail_of(int member) const noexcept;

  const RollCall& roll_;
  const std::byte* rows_ = nullptr;
  std::int64_t row_bytes_ = 0;
  mutable std::atomic<std::int64_t> bad_row_{-1};  ///< member in the high half, row in the low half
};

}  // namespace waybill::engine
