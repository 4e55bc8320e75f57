#include "transport/local.h"

#include <utility>

namespace waybill::transport {

PeerMemory own_memory(const window::Window& window, std::int64_t window_bytes) noexcept {
  return {window.control,
          {window.halves[0].data(), window.halves[1].data()},
          window.pool.region().data(),
          window_bytes};
}

LocalTransport::LocalTransport(std::vector<std::shared_ptr<window::Window>> windows,
                               std::int64_t window_bytes)
    : windows_(std::move(windows)) {
  for (const auto& window : windows_) {
    peers_.push_back(own_memory(*window, window_bytes));
  }
}

}  // namespace waybill::transport
