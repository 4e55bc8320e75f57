#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "transport/mirror_room.h"
#include "waybill/status.h"
#include "window/board.h"
#include "window/mirror_slot.h"

namespace waybill::transport {

/// Bytes that another host needs, and where in its mirror of the half they belong.
struct Extent {
  const std::byte* from;
  std::int64_t at;
  std::int64_t bytes;
};

/// What a call publishes for the ranks of one other host.
struct Parcel {
  int agent = -1;  ///< the rank that receives it for its host
  window::Stamp stamp = 0;
  std::int64_t mirrored_bytes = 0;  ///< size of the mirror
  std::vector<Extent> extents;      ///< in any order; they do not overlap
};

/// Moves what this rank publishes to the ranks of other hosts, and what those publish to this one:
/// words of control pages to every rank, rows once to each host. Owner: the Transport of a group
/// that spans hosts.
/// Thread rule: one thread of the program at a time. A progress thread of its own may move messages
/// meanwhile.
class OtherHosts {
 public:
  virtual ~OtherHosts() = default;

  /// Tells ranks of other hosts what was stored into a word of this rank's page.
  virtual void tell(const window::Change& change) = 0;
  /// The header that ranks of `host` get with the next signal, in place of the one on the page.
  virtual void set_header(int host, const window::CallHeader& header) = 0;
  /// Sends what a half, free to be written before this call, holds for another host. Its bytes must
  /// stay until is_sent(). How many granules it claims of the agent (transport/sending.h).
  virtual std::int64_t send(std::size_t half, const Parcel& parcel) = 0;
  /// The call of this stamp, which used this half, ended well: agents have what was claimed.
  /// `sent`: some rank sent rows to another host.
  virtual void confirm(std::size_t half, window::Stamp stamp, bool sent) = 0;
  /// What this rank has for what it receives of the call that it is about to signal.
  virtual MirrorRoom mirror_room(std::size_t half, window::Stamp stamp) = 0;
  /// True when no byte of what was sent of a half is needed any more.
  virtual bool is_sent(std::size_t half) = 0;
  /// The same of what was sent to one host.
  virtual bool is_sent_to(std::size_t half, int host) = 0;
  /// What was sent of a half and has not arrived never counts as arrived: its bytes may change.
  virtual void cancel(std::size_t half) = 0;
  /// Where what a rank of another host published arrives on this one, received by `agent`.
  virtual const window::MirrorSlot& slot(int agent, int rank, std::size_t half) const = 0;
  /// Makes Transport::peer(rank).halves[half] what has arrived there; kOutOfMemory where there was
  /// no room.
  virtual Status attach(int agent, int rank, std::size_t half) = 0;

  /// While a thread of the program waits it moves messages itself, from begin_drive() to
  /// end_drive(). drive() never blocks; true when anything happened.
  virtual void begin_drive() = 0;
  virtual bool drive() = 0;
  virtual void end_drive(bool going_to_sleep) = 0;
  /// The program's thread returns from its call: the progress thread sends the rest.
  virtual void hand_over() = 0;
  /// True where there is no progress thread: messages move only while a call drives.
  virtual bool needs_driver() const noexcept = 0;
  /// True when all that was told and sent has left this process.
  virtual bool is_idle() = 0;
  /// Sleeps until drive() has something to do.
  virtual void sleep(std::chrono::milliseconds most) = 0;
  /// Why ranks of other hosts count as ended, and when each was heard last; empty for ranks of this
  /// host.
  virtual std::string news_of(const std::vector<int>& ranks) const = 0;
};

}  // namespace waybill::transport
