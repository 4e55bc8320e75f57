#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "transport/messages.h"
#include "transport/transport.h"
#include "transport/wire.h"

namespace waybill::transport {

/// One parcel on its way. Its bytes are read from where they lie; pieces too small for that are
/// packed together.
class Sending {
 public:
  /// Only after the last one has ended.
  void begin(std::size_t half, const Parcel& parcel);
  /// Gives the wire what it may have; after the last byte has left, the commit. True when anything
  /// was given. Thread rule: that of the wire.
  bool pump(Wire& wire);
  /// Nothing more is sent, no commit either.
  void cancel() noexcept { cancelled_ = true; }
  /// No byte is read any more.
  bool has_ended() const noexcept { return ended_; }

 private:
  MessageHead head(MessageKind kind) const noexcept;
  bool has_more() const noexcept { return next_ < parcel_.extents.size(); }
  void send_piece(Wire& wire);
  void send_packed(Wire& wire);
  void advance(std::int64_t bytes) noexcept;

  Parcel parcel_;
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
