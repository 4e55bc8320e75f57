#include "engine/checked_rows.h"

#include <cstring>

#include "base/errors.h"

namespace waybill::engine {

using window::CallHeader;

void CheckedRows::seal(std::byte* half, CallHeader& header) const noexcept {
  const auto tail = window::CheckedTail::of(header.checked_end, header.num_rows);
  auto* sums = reinterpret_cast<std::uint64_t*>(half + tail.checksums.offset);
  for (std::int64_t row = 0; row_bytes_ > 0 && row < header.num_rows; ++row) {
    sums[row] = window::checksum(rows_ + row * row_bytes_, row_bytes_);
  }
  header.has_checksums = row_bytes_ > 0 ? 1 : 0;
}

window::CheckedTail CheckedRows::tail_of(int member) const noexcept {
  const CallHeader& header = roll_.header_of(member);
  return window::CheckedTail::of(header.checked_end, header.num_rows);
}

bool CheckedRows::tails_are_sane(std::size_t half) const noexcept {
  for (int member = 0; member < roll_.size(); ++member) {
    const CallHeader& header = roll_.header_of(member);
    const std::int64_t bytes = roll_.half_bytes_of(member, half);
    if (header.checked_end >= 0 && (header.num_rows < 0 || header.num_rows > bytes / 8 ||
                                    header.checked_end > bytes || tail_of(member).end > bytes)) {
      return false;
    }
  }
  return true;
}

void CheckedRows::verify(std::size_t half,
                         int member,
                         std::int64_t index,
                         const std::byte* row,
                         std::int64_t bytes) const noexcept {
  const CallHeader& header = roll_.header_of(member);
  if (header.checked_end < 0 || header.has_checksums == 0 || index >= header.num_rows) {
    return;
  }
  std::uint64_t sum = 0;
  std::memcpy(&sum,
              roll_.half_of(member, half) + tail_of(member).checksums.offset + 8 * index,
              sizeof(sum));
  if (sum != window::checksum(row, bytes)) {
    bad_row_.store(static_cast<std::int64_t>(member) << 32 | index, std::memory_order_relaxed);
  }
}

std::string CheckedRows::find_damage(std::size_t half, const Shipment& shipment) const {
  const std::int64_t bad = bad_row_.load(std::memory_order_relaxed);
  if (bad >= 0) {
    return "row " + std::to_string(bad & 0xffffffff) + " of " +
           name_ranks({roll_.rank_of(static_cast<int>(bad >> 32))}) +
           " to be read as it was published, got other bytes";
  }
  for (int member = 0; member < roll_.size(); ++member) {
    if (roll_.header_of(member).checked_end >= 0 && shipment.has_come(roll_, member) &&
        !window::is_intact(roll_.half_of(member, half) + tail_of(member).canary.offset)) {
      return "the window of " + name_ranks({roll_.rank_of(member)}) +
             " to be intact behind what was published, got other bytes";
    }
  }
  return {};
}

}  // namespace waybill::engine
