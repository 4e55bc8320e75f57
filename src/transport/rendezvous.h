#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/descriptor.h"
#include "transport/hello.h"
#include "waybill/status.h"
#include "window/window.h"

namespace waybill::transport {

/// Names a process of this host for good.
struct ProcessId {
  pid_t pid = 0;
  std::uint64_t start = 0;  ///< see base/process_start.h
};

struct RendezvousOptions {
  std::string id;  ///< names the group; part of an abstract socket's address
  int rank = 0;
  int world_size = 1;
  std::int64_t window_bytes = 0;
  std::chrono::steady_clock::time_point deadline;
  std::function<bool()> interrupted;
  /// Of each rank, where the program knows them: their end is noticed also before they came.
  std::vector<ProcessId> processes;
  /// Number of each rank's host: only ranks of this one are met. Empty: all are.
  std::vector<int> hosts;
};

struct Met {
  std::vector<PeerHandle> handles;  ///< those of this rank itself and of other hosts are empty
  Descriptor listener;              ///< at address_of(id, rank); whoever comes later comes here
};

/// Meets all ranks of the group on this host over abstract Unix sockets and exchanges descriptors.
/// Collective and blocking: returns on every rank once all have everything, or an error that names
/// who did not come (kTimeout) or whose process has ended (kPeerLost, within 2 s). Processes of
/// another user are turned away. Nothing appears in the file system.
Result<Met> meet(const window::Window& window, const RendezvousOptions& options);

/// Where ranks that know only a path meet.
struct MeetingPoint {
  std::string id;
  Descriptor alive;  ///< rank 0 listens here until all have come: its file is not a stale one
};

/// Rank 0 writes a new id at `path` (whole or not at all), the others wait for the id of a rank 0
/// that is alive; a file of a killed run is passed over. Rank 0 removes the file when it is done.
Result<MeetingPoint> meet_at(const std::filesystem::path& path, const RendezvousOptions& options);

}  // namespace waybill::transport
