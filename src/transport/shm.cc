#include "transport/shm.h"

#include <cstddef>
#include <utility>

namespace waybill::transport {
namespace {

constexpr std::size_t kFiles = 4;  // control page, two halves, pool

}  // namespace

Result<std::unique_ptr<ShmTransport>> ShmTransport::create(std::vector<PeerHandle> handles,
                                                           int rank,
                                                           const window::Window& window,
                                                           std::int64_t window_bytes) {
  std::unique_ptr<ShmTransport> transport(new ShmTransport());
  for (std::size_t r = 0; r < handles.size(); ++r) {
    if (static_cast<int>(r) == rank) {
      transport->peers_.push_back(own_memory(window, window_bytes));
      continue;
    }
    PeerHandle& handle = handles[r];
    std::array<const std::byte*, kFiles> files{};
    for (std::size_t i = 0; i < kFiles; ++i) {
      auto mapping = window::PeerMapping::map(handle.files[i].release(),
                                              i == 0 ? window::kControlBytes : handle.window_bytes);
      if (!mapping.ok()) {
        return mapping.status();
      }
      files[i] = mapping->data();
      transport->mappings_.push_back(std::move(*mapping));
    }
    transport->peers_.push_back({reinterpret_cast<const window::ControlPage*>(files[0]),
                                 {files[1], files[2]},
                                 files[3],
                                 handle.window_bytes});
  }
  transport->ended_.resize(handles.size());
  transport->handles_ = std::move(handles);
  return transport;
}

bool ShmTransport::has_ended(int rank) noexcept {
  const auto r = static_cast<std::size_t>(rank);
  if (ended_[r] == 0 && handles_[r].process.has_ended()) {
    ended_[r] = 1;
  }
  return ended_[r] != 0;
}

}  // namespace waybill::transport
