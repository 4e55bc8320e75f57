#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "base/descriptor.h"
#include "transport/process.h"
#include "transport/socket.h"
#include "waybill/status.h"
#include "window/window.h"

namespace waybill::transport {

/// What a rank learns of another one.
struct PeerHandle {
  ProcessHandle process;
  /// Read-only descriptors: control page, two halves, pool.
  std::array<Descriptor, kPassedFiles> files;
  std::int64_t window_bytes = 0;
  std::uint64_t incarnation = 0;
};

/// The first message on a connection between two ranks; descriptors travel with it. The fields up
/// to `version` keep their place in every version of the library.
struct Hello {
  std::array<char, 8> magic{'W', 'A', 'Y', 'B', 'I', 'L', 'L', '\0'};
  std::uint32_t layout_version = window::kLayoutVersion;
  std::uint32_t control_bytes = sizeof(window::ControlPage);
  std::array<char, 24> version{};
  std::int32_t rank = 0;
  std::int32_t world_size = 0;
  std::int64_t window_bytes = 0;
  std::uint64_t incarnation = 0;
  std::uint64_t process_start = 0;
  std::uint32_t rejoining = 0;  ///< the process comes back under the rank of one that has ended
  std::uint32_t reserved = 0;
};

/// Where a rank of a group listens.
std::string address_of(const std::string& id, int rank);

/// This rank's end of the connections to its peers.
class Greeter {
 public:
  /// Opens the window's files for peers.
  static Result<Greeter> create(const window::Window& window,
                                int rank,
                                int world_size,
                                std::int64_t window_bytes,
                                bool rejoining);

  int rank() const noexcept { return hello_.rank; }
  int world_size() const noexcept { return hello_.world_size; }
  Status greet(int socket) const;
  /// Waits for the other end's greeting. kMismatch when it is of another version or world size.
  Result<Hello> read(int socket, PeerHandle& peer, const Patience& patience) const;

 private:
  Hello hello_;
  std::array<Descriptor, kPassedFiles> files_;
};

}  // namespace waybill::transport
