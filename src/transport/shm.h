#pragma once

#include <memory>
#include <vector>

#include "transport/rendezvous.h"
#include "transport/transport.h"
#include "waybill/status.h"

namespace waybill::transport {

/// Processes of one host: peers' memory files mapped read-only.
class ShmTransport final : public Transport {
 public:
  /// Maps what the rendezvous brought. `window` is this rank's own, at position `rank`.
  static Result<std::unique_ptr<ShmTransport>> create(std::vector<PeerHandle> handles,
                                                      int rank,
                                                      const window::Window& window,
                                                      std::int64_t window_bytes);
  ~ShmTransport() override = default;
  bool has_ended(int rank) noexcept override;

 private:
  ShmTransport() = default;

  std::vector<PeerHandle> handles_;  ///< keep the processes' descriptors
  std::vector<window::PeerMapping> mappings_;
  std::vector<char> ended_;
};

}  // namespace waybill::transport
