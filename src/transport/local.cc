#include "transport/local.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace waybill::transport {

PeerMemory own_memory(const window::Window& window, std::int64_t window_bytes) noexcept {
  return {window.control,
          {window.halves[0].data(), window.halves[1].data()},
          window.pool.region().data(),
          window_bytes};
}

int Transport::cores_of_ranks() const noexcept {
  decltype(window::Identity::cores) all{};
  int count = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    for (int rank = 0; rank < world_size(); ++rank) {
      const window::ControlPage* page = peer(rank).control;
      all[i] |= page != nullptr && !is_remote(rank) ? page->identity.cores[i] : 0;
    }
    count += std::popcount(all[i]);
  }
  return std::max(count, 1);
}

Route Transport::route_to(int /*rank*/) const { return {"", "threads of one process"}; }

LocalTransport::LocalTransport(std::vector<std::shared_ptr<window::Window>> windows,
                               std::int64_t window_bytes)
    : windows_(std::move(windows)) {
  for (const auto& window : windows_) {
    peers_.push_back(own_memory(*window, window_bytes));
  }
}

}  // namespace waybill::transport
