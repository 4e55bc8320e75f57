#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "transport/messages.h"
#include "transport/other_hosts.h"
#include "transport/wire.h"

namespace waybill::transport {

/// Memory that a parcel takes of the rank that receives it, in granules.
///
/// What a sender claimed in the last call of a half, if that ended well, the receiver still has for
/// it. A parcel that needs less claims the same again, unless it is much less, and leaves at once.
/// One that claims more leaves when the receiver has signalled its part of the call: no byte of it
/// is in what the receiver says there of its memory.
struct Claim {
  std::int64_t granules = 0;
  bool waits = false;  ///< for the receiver's signal
};

/// Of one half: the last call that ended well on this rank, and the last of these in which a rank
/// sent rows to another host, without a failed one between them. Owner: the thread of the calls.
struct LastCalls {
  window::Stamp sent = 0;
  window::Stamp ended_well = 0;
};

/// One parcel on its way to a host. Its bytes are read from where they lie; pieces too small for
/// that are packed together. Owner: the transport, one for each host and half.
class Sending {
 public:
  /// Only after the last one has ended.
  Claim begin(std::size_t half, const Parcel& parcel, const LastCalls& last);
  /// Where nothing may leave before `receiver` has signalled the parcel's call: its agent; else -1.
  int receiver() const noexcept { return claim_.waits && !cancelled_ ? parcel_.agent : -1; }
  window::Stamp stamp() const noexcept { return parcel_.stamp; }
  /// Gives the wire what it may have; after the last byte has left, the commit. True when anything
  /// was given. Thread rule: that of the wire.
  bool pump(Wire& wire);
  /// Nothing more is sent, no commit either.
  void cancel() noexcept { cancelled_ = true; }
  /// No byte is read any more.
  bool has_ended() const noexcept { return ended_; }

 private:
  MessageHead head(MessageKind kind) const noexcept;
  Claim claim_of(const Parcel& parcel, const LastCalls& last) const noexcept;
  bool has_more() const noexcept { return next_ < parcel_.extents.size(); }
  void send_piece(Wire& wire);
  void send_packed(Wire& wire);
  void advance(std::int64_t bytes) noexcept;

  Parcel parcel_;
  Claim claim_;
  std::size_t half_ = 0;
  std::size_t next_ = 0;     ///< extent
  std::int64_t offset_ = 0;  ///< in it
  std::int64_t total_bytes_ = 0;
  bool cancelled_ = false;
  bool ended_ = true;
  std::atomic<std::int64_t> in_flight_{0};
  std::vector<std::byte> packed_;
};

}  // namespace waybill::transport
