#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "waybill/group.h"
#include "waybill/status.h"
#include "window/control.h"
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

class OtherHosts;

/// Makes the windows of a group readable: where the memory of each peer is, which of them live, and
/// which host each is on. It knows nothing of what is in the windows. Owner: the Session.
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

  /// What moves words and rows to the ranks of other hosts; null where all ranks are on this one.
  virtual OtherHosts* other_hosts() noexcept { return nullptr; }

  bool spans_hosts() const noexcept { return num_hosts_ > 1; }
  int num_hosts() const noexcept { return num_hosts_; }
  /// Number of a rank's host.
  int host_of(int rank) const noexcept {
    return hosts_.empty() ? 0 : hosts_[static_cast<std::size_t>(rank)];
  }
  const std::vector<int>& hosts() const noexcept { return hosts_; }
  int own_host() const noexcept { return own_host_; }
  bool is_remote(int rank) const noexcept { return host_of(rank) != own_host_; }

 protected:
  std::vector<PeerMemory> peers_;
  std::vector<int> hosts_;  ///< by rank; empty: all on this one
  int own_host_ = 0;
  int num_hosts_ = 1;
};

/// How this rank reads its own window.
PeerMemory own_memory(const window::Window& window, std::int64_t window_bytes) noexcept;

}  // namespace waybill::transport
