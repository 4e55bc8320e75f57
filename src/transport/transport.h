#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "waybill/group.h"
#include "waybill/status.h"
#include "window/control.h"
#include "window/mirror_slot.h"
#include "window/window.h"

namespace waybill::transport {

/// Where this rank reads what a peer published.
struct PeerMemory {
  const window::ControlPage* control = nullptr;
  std::array<const std::byte*, 2> halves{};
  const std::byte* pool = nullptr;  ///< null for a rank of another host
  std::int64_t window_bytes = 0;    ///< address space of each half and of the pool
  /// Of a rank of another host: size of what is mirrored of each half.
  std::array<std::int64_t, 2> mirrored_bytes{};
};

/// Bytes that another host needs, and where in its mirror of the half they belong.
struct Extent {
  const std::byte* from;
  std::int64_t at;
  std::int64_t bytes;
};

/// What a call publishes for the ranks of one other host.
struct Parcel {
  int agent = -1;  ///< who receives it for its host
  window::Stamp stamp = 0;
  std::int64_t mirrored_bytes = 0;  ///< size of the mirror
  std::vector<Extent> extents;      ///< in any order; they do not overlap
};

/// Makes the windows of a group readable. Knows nothing of what is in them.
/// Thread rule: newcomers() from any thread, the rest from one at a time.
class Transport {
 public:
  Transport() = default;
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;
  virtual ~Transport() = default;

  int world_size() const noexcept { return static_cast<int>(peers_.size()); }
  /// Also of this rank itself.
  const PeerMemory& peer(int rank) const noexcept { return peers_[static_cast<std::size_t>(rank)]; }
  /// True once the process of `rank` has ended. Never blocks.
  virtual bool has_ended(int rank) noexcept = 0;
  /// False for a rank that this process, itself come back, has not met yet; it counts as ended.
  virtual bool is_known(int) const noexcept { return true; }

  /// Ranks whose process has ended and whose next one waits to be taken in.
  virtual std::vector<int> newcomers() { return {}; }
  /// Takes in whoever waits under the rank of a process that has ended: peer(rank) is the new one's
  /// memory from now on. Only while nothing of the old one is read. True when somebody came.
  virtual bool take_in() { return false; }
  /// Of a process that comes back: calls the ranks it has not met. The number of those that it has
  /// reached and that have not answered yet.
  virtual int call_others() { return 0; }
  /// Ranks that share this host's cores.
  virtual int ranks_on_host() const noexcept { return world_size(); }
  /// Cores that these ranks may run on, all together. Only once all are known.
  int cores_of_ranks() const noexcept;
  virtual Route route_to(int rank) const;

  // Several hosts. What follows does nothing where all ranks are on this one.

  bool spans_hosts() const noexcept { return num_hosts_ > 1; }
  int num_hosts() const noexcept { return num_hosts_; }
  /// Number of a rank's host.
  int host_of(int rank) const noexcept {
    return hosts_.empty() ? 0 : hosts_[static_cast<std::size_t>(rank)];
  }
  const std::vector<int>& hosts() const noexcept { return hosts_; }
  int own_host() const noexcept { return own_host_; }
  bool is_remote(int rank) const noexcept { return host_of(rank) != own_host_; }

  /// Tells ranks of other hosts that a word of this rank's page has been stored.
  virtual void posted(const window::Word& /*word*/) {}
  /// The header that goes with the next `signalled` to ranks of a host.
  virtual void set_header(int /*host*/, const window::CallHeader& /*header*/) {}
  /// Sends what a half, free to be written before this call, holds for another host. Its bytes must
  /// stay until is_sent().
  virtual void send(std::size_t /*half*/, const Parcel& /*parcel*/) {}
  /// True when no byte of what was sent of a half is needed any more.
  virtual bool is_sent(std::size_t /*half*/) { return true; }
  /// The same of what was sent to one host.
  virtual bool is_sent_to(std::size_t /*half*/, int /*host*/) { return true; }
  /// What was sent of a half and has not arrived never counts as arrived: its bytes may change.
  virtual void cancel(std::size_t /*half*/) {}
  /// Where what a rank of another host published arrives on this one, received by `agent`.
  virtual const window::MirrorSlot& slot(int agent, int rank, std::size_t half) const;
  /// Makes peer(rank).halves[half] what has arrived there; kOutOfMemory where there was no room.
  virtual Status attach(int /*agent*/, int /*rank*/, std::size_t /*half*/) { return {}; }

  /// While a thread of the program waits it moves messages itself, from begin_drive() to
  /// end_drive(). drive() never blocks; true when anything happened.
  virtual void begin_drive() {}
  virtual bool drive() { return false; }
  virtual void end_drive(bool /*going_to_sleep*/) {}
  /// The program's thread goes its own ways: what it has not sent is left to the other one.
  virtual void hand_over() {}
  /// True where nobody moves messages while no thread of the program waits.
  virtual bool needs_driver() const noexcept { return false; }
  /// True when all that was posted and sent has left this process.
  virtual bool is_idle() { return true; }
  /// Sleeps until drive() has something to do.
  virtual void sleep(std::chrono::milliseconds /*most*/) {}
  /// Why ranks of other hosts count as ended, and when they were heard last; empty for those of
  /// this host.
  virtual std::string news_of(const std::vector<int>& /*ranks*/) const { return {}; }

 protected:
  std::vector<PeerMemory> peers_;
  std::vector<int> hosts_;  ///< by rank; empty: all on this one
  int own_host_ = 0;
  int num_hosts_ = 1;
};

/// How this rank reads its own window.
PeerMemory own_memory(const window::Window& window, std::int64_t window_bytes) noexcept;

}  // namespace waybill::transport
