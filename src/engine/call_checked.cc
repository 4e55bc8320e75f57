// What checked mode adds to a call.

#include <cstring>
#include <string>

#include "base/errors.h"
#include "engine/call.h"

namespace waybill::engine {

void Call::write_checksums() {
  std::byte* const half = session_.window().halves[half_].data();
  const auto tail = window::CheckedTail::of(header_.checked_end, header_.num_rows);
  auto* sums = reinterpret_cast<std::uint64_t*>(half + tail.checksums.offset);
  for (std::int64_t row = 0; row_bytes_ > 0 && row < header_.num_rows; ++row) {
    sums[row] = window::checksum(rows_ + row * row_bytes_, row_bytes_);
  }
  header_.has_checksums = row_bytes_ > 0 ? 1 : 0;
}

window::CheckedTail Call::tail_of(int member) const noexcept {
  const window::CallHeader& header = header_of(member);
  return window::CheckedTail::of(header.checked_end, header.num_rows);
}

void Call::compare_row(int member,
                       std::int64_t index,
                       const std::byte* row,
                       std::int64_t bytes) const {
  const window::CallHeader& header = header_of(member);
  if (header.checked_end < 0 || header.has_checksums == 0 || index >= header.num_rows) {
    return;
  }
  std::uint64_t sum = 0;
  std::memcpy(&sum, half_of(member) + tail_of(member).checksums.offset + 8 * index, sizeof(sum));
  if (sum != window::checksum(row, bytes)) {
    bad_row_.store(static_cast<std::int64_t>(member) << 32 | index, std::memory_order_relaxed);
  }
}

/// Checked mode: what can be seen of the tail before anything of the members is read.
bool Call::tails_are_sane() const {
  for (int member = 0; member < num_members(); ++member) {
    const window::CallHeader& header = header_of(member);
    if (header.checked_end >= 0 &&
        (header.num_rows < 0 || header.num_rows > half_bytes_of(member) / 8 ||
         header.checked_end > half_bytes_of(member) ||
         tail_of(member).end > half_bytes_of(member))) {
      return false;
    }
  }
  return true;
}

/// Checked mode: what the members published is what was read, and nobody wrote past its end.
Status Call::check_members() const {
  const std::int64_t bad = bad_row_.load(std::memory_order_relaxed);
  if (bad >= 0) {
    return damaged("row " + std::to_string(bad & 0xffffffff) + " of " +
                   name_ranks({rank_of(static_cast<int>(bad >> 32))}) +
                   " to be read as it was published, got other bytes");
  }
  for (int member = 0; member < num_members(); ++member) {
    if (header_of(member).checked_end >= 0 &&
        !window::is_intact(half_of(member) + tail_of(member).canary.offset)) {
      return damaged("the window of " + name_ranks({rank_of(member)}) +
                     " to be intact behind what was published, got other bytes");
    }
  }
  return {};
}

Status Call::damaged(const std::string& expected) const {
  const std::string name = contract::name_of(op_);
  return error(StatusCode::kInternal,
               name,
               "",
               name + ": WAYBILL_CHECK: expected " + expected + " (call " +
                   std::to_string(session_.number) + ", rank " + std::to_string(session_.rank()) +
                   ")");
}

}  // namespace waybill::engine
