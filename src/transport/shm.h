#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "transport/lobby.h"
#include "transport/rendezvous.h"
#include "transport/transport.h"
#include "waybill/status.h"

namespace waybill::transport {

/// Processes of one host: peers' memory files mapped read-only.
class ShmTransport final : public Transport {
 public:
  /// Maps what the rendezvous brought. `window` is this rank's own, at position `rank`; `lobby`
  /// may be null: then nobody can come back.
  static Result<std::unique_ptr<ShmTransport>> create(std::vector<PeerHandle> handles,
                                                      int rank,
                                                      const window::Window& window,
                                                      std::int64_t window_bytes,
                                                      std::unique_ptr<Lobby> lobby = nullptr);
  /// Of a process that comes back: knows nobody yet.
  static std::unique_ptr<ShmTransport> come_back(int rank,
                                                 int world_size,
                                                 const window::Window& window,
                                                 std::int64_t window_bytes,
                                                 std::unique_ptr<Lobby> lobby);
  ~ShmTransport() override = default;

  bool has_ended(int rank) noexcept override;
  bool is_known(int rank) const noexcept override;
  Route route_to(int) const override { return {"", "shared memory"}; }
  std::vector<int> newcomers() override;
  bool take_in() override;
  int call_others() override;

 private:
  ShmTransport() = default;
  Status map(int rank, PeerHandle handle);
  bool accept(Arrival& arrival);

  int rank_ = 0;
  std::vector<PeerHandle> handles_;  ///< keep the processes' descriptors
  std::vector<std::array<window::PeerMapping, kPassedFiles>> mappings_;
  std::vector<char> ended_;
  std::vector<char> known_;
  std::unique_ptr<Lobby> lobby_;
};

}  // namespace waybill::transport
