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
/// Thread rule: has_ended() from one thread at a time, the rest from any.
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
  /// Ranks that share this host's cores.
  virtual int ranks_on_host() const noexcept { return world_size(); }

 protected:
  std::vector<PeerMemory> peers_;
};

/// How this rank reads its own window.
PeerMemory own_memory(const window::Window& window, std::int64_t window_bytes) noexcept;

}  // namespace waybill::transport
