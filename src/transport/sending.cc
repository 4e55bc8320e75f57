#include "transport/sending.h"

#include <algorithm>
#include <cstring>

namespace waybill::transport {
namespace {

/// Messages that the wire holds of one parcel: enough to keep a link busy.
constexpr std::int64_t kMostInFlight = 32;
/// A message takes as long as copying about so many bytes: smaller pieces are packed.
constexpr std::int64_t kLeastDirect = 24 << 10;
constexpr auto kBody = static_cast<std::int64_t>(kWireBodyBytes);

}  // namespace

void Sending::begin(std::size_t half, const Parcel& parcel) {
  parcel_ = parcel;
  std::erase_if(parcel_.extents, [](const Extent& extent) { return extent.bytes == 0; });
  half_ = half;
  next_ = 0;
  offset_ = 0;
  total_bytes_ = 0;
  for (const Extent& extent : parcel_.extents) {
    total_bytes_ += extent.bytes;
  }
  cancelled_ = false;
  ended_ = false;
}

MessageHead Sending::head(MessageKind kind) const noexcept {
  return {.kind = kind,
          .half = static_cast<std::uint32_t>(half_),
          .stamp = parcel_.stamp,
          .at = 0,
          .value = parcel_.mirrored_bytes};
}

bool Sending::pump(Wire& wire) {
  bool gave = false;
  while (!cancelled_ && has_more() && in_flight_.load(std::memory_order_relaxed) < kMostInFlight) {
    if (parcel_.extents[next_].bytes - offset_ < kLeastDirect && offset_ == 0) {
      send_packed(wire);
    } else {
      send_piece(wire);
    }
    gave = true;
  }
  if ((cancelled_ || !has_more()) && in_flight_.load(std::memory_order_acquire) == 0) {
    if (!cancelled_) {
      MessageHead commit = head(MessageKind::kCommit);
      commit.at = total_bytes_;
      wire.send(parcel_.agent, bytes_of(commit), {}, nullptr);
    }
    ended_ = true;
    gave = true;
  }
  return gave;
}

void Sending::advance(std::int64_t bytes) noexcept {
  offset_ += bytes;
  if (offset_ == parcel_.extents[next_].bytes) {
    ++next_;
    offset_ = 0;
  }
}

void Sending::send_piece(Wire& wire) {
  const Extent& extent = parcel_.extents[next_];
  const std::int64_t bytes = std::min(extent.bytes - offset_, kBody);
  MessageHead rows = head(MessageKind::kRows);
  rows.at = extent.at + offset_;
  in_flight_.fetch_add(1, std::memory_order_relaxed);
  wire.send(parcel_.agent,
            bytes_of(rows),
            {extent.from + offset_, static_cast<std::size_t>(bytes)},
            &in_flight_);
  advance(bytes);
}

/// As many small pieces as one message holds.
void Sending::send_packed(Wire& wire) {
  constexpr auto kPiece = static_cast<std::int64_t>(sizeof(PackedPiece));
  packed_.resize(kWireBodyBytes);
  std::int64_t end = 0;
  while (has_more()) {
    const Extent& extent = parcel_.extents[next_];
    if (extent.bytes >= kLeastDirect || end + kPiece + extent.bytes > kBody) {
      break;
    }
    const PackedPiece piece{extent.at, extent.bytes};
    std::memcpy(packed_.data() + end, &piece, sizeof(piece));
    std::memcpy(packed_.data() + end + kPiece, extent.from, static_cast<std::size_t>(extent.bytes));
    end += kPiece + extent.bytes;
    advance(extent.bytes);
  }
  wire.send(parcel_.agent,
            bytes_of(head(MessageKind::kPacked)),
            {packed_.data(), static_cast<std::size_t>(end)},
            nullptr);
}

}  // namespace waybill::transport
