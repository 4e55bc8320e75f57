#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "window/control.h"
#include "window/window.h"

namespace waybill::transport {

/// Where this rank reads what a peer published.
struct PeerMemory {
  const window::ControlPage* control = nullptr;
  std::array<const std::byte*, 2> halves{};
  const std::byte* pool = nullptr;
  std::int64_t window_bytes = 0;  ///< address space of each half and of the pool
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

 protected:
  std::vector<PeerMemory> peers_;
};

/// How this rank reads its own window.
PeerMemory own_memory(const window::Window& window, std::int64_t window_bytes) noexcept;

}  // namespace waybill::transport
