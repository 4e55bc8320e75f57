#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace waybill::transport {

/// A message is a head, small and copied, and a body.
inline constexpr std::size_t kWireHeadBytes = 128;
inline constexpr std::size_t kWireBodyBytes = std::size_t{56} << 10;

/// Who gets what comes over a wire. Called from inside Wire::progress().
class WireListener {
 public:
  virtual ~WireListener() = default;
  // Both may call send() of the same wire, but not progress() or sever().

  /// Messages of one rank come whole, once, and in the order in which it sent them. The bytes are
  /// there during the call only.
  virtual void on_message(int from,
                          std::span<const std::byte> head,
                          std::span<const std::byte> body) noexcept = 0;
  /// Nothing more will come from this rank or go to it, since its process has ended or the link
  /// between the hosts is gone. Once a rank, after its messages that had arrived; what was in
  /// flight to it has been counted down. Not after sever().
  virtual void on_lost(int rank, const std::string& why) noexcept = 0;
};

/// Messages between this rank and ranks of other hosts. Byte-opaque.
/// Thread rule: send(), progress(), is_idle() and sever() from one thread at a time (the caller has
/// a lock); wait() from one thread, meanwhile others may call the former; wake() from any.
class Wire {
 public:
  Wire() = default;
  Wire(const Wire&) = delete;
  Wire& operator=(const Wire&) = delete;
  /// Ends all connections. What is in flight is dropped and counted down.
  virtual ~Wire() = default;

  /// Before the first progress().
  void listen(WireListener* listener) noexcept { listener_ = listener; }

  /// Never blocks. With `in_flight` (which the caller has raised by one) the body is read from the
  /// caller's memory until the wire counts it down; without, it is copied. To a rank that is lost
  /// or severed nothing goes, and it is counted down at once.
  virtual void send(int to,
                    std::span<const std::byte> head,
                    std::span<const std::byte> body,
                    std::atomic<std::int64_t>* in_flight) = 0;
  /// Moves what can be moved without blocking. True when anything happened.
  virtual bool progress() = 0;
  /// True when nothing waits to be sent: who ends now leaves no message behind. While it is false
  /// progress() is what changes it.
  virtual bool is_idle() const noexcept = 0;
  /// Ends the connection to a rank: its in-flight messages are counted down, and what becomes of
  /// them is of no matter any more: one of them may still come, with what its memory holds then.
  /// That memory stays mapped as long as the wire.
  /// The other end gets on_lost() once it has read what was on the way.
  virtual void sever(int rank) = 0;

  /// Sleeps until progress() may have something to do, wake() was called since the last wait(), or
  /// the time is over.
  virtual void wait(std::chrono::milliseconds most) = 0;
  virtual void wake() noexcept = 0;

 protected:
  WireListener* listener_ = nullptr;
};

}  // namespace waybill::transport
