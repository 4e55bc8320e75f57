#include "transport/sending.h"

#include <algorithm>
#include <cstring>

#include "window/region.h"

namespace waybill::transport {
namespace {

/// Messages that the wire holds of one parcel: enough to keep a link busy.
constexpr std::int64_t kMostInFlight = 32;
/// A message takes as long as copying about so many bytes: smaller pieces are packed.
constexpr std::int64_t kLeastDirect = 24 << 10;
constexpr auto kBody = static_cast<std::int64_t>(kWireBodyBytes);

/// Granules of the mirror that have bytes in them; no more than there are where extents are not in
/// order.
std::int64_t count_granules(const Parcel& parcel) {
  constexpr std::int64_t kGranule = window::kGranule;
  std::int64_t count = 0;
  std::int64_t end = 0;  // of the granules counted last
  for (const Extent& extent : parcel.extents) {
    if (extent.bytes > 0) {
      const std::int64_t first = extent.at / kGranule;
      const std::int64_t last = (extent.at + extent.bytes + kGranule - 1) / kGranule;
      count += last - (first + 1 == end ? end : first);
      end = last;
    }
  }
  return std::min(count, (parcel.mirrored_bytes + kGranule - 1) / kGranule);
}

}  // namespace

Claim Sending::claim_of(const Parcel& parcel, const LastCalls& last) const noexcept {
  // A dispatch and the combine that follows may use the same half, with K times as many rows.
  constexpr std::int64_t kMuchLess = 64;
  const std::int64_t touched = count_granules(parcel);
  const bool has_held = parcel_.stamp == last.sent && parcel_.agent == parcel.agent &&
                        parcel.stamp == last.ended_well + 2;
  const std::int64_t held = has_held ? claim_.granules : 0;
  if (touched > held) {
    return {touched, true};
  }
  return {touched * kMuchLess > held ? held : touched, false};
}

Claim Sending::begin(std::size_t half, const Parcel& parcel, const LastCalls& last) {
  claim_ = claim_of(parcel, last);
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
  return claim_;
}

MessageHead Sending::head(MessageKind kind) const noexcept {
  return {.kind = kind,
          .half = static_cast<std::uint32_t>(half_),
          .stamp = parcel_.stamp,
          .at = 0,
          .value = parcel_.mirrored_bytes,
          .claim = claim_.granules};
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
