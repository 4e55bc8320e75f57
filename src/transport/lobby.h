#pragma once

#include <chrono>
#include <mutex>
#include <string>
#include <vector>

#include "base/descriptor.h"
#include "base/fork.h"
#include "transport/hello.h"

namespace waybill::transport {

/// A process under the rank of one that has ended, and how to read its window.
struct Arrival {
  int rank = -1;
  bool rejoining = false;
  PeerHandle peer;
  Descriptor socket;  ///< where it waits for this rank's greeting; empty when it has that
};

/// Where processes that come back meet those that never left (docs/protocol.md, "Coming back").
/// A rank that comes back calls all others and greets them; they greet back in their next reset.
/// Any thread.
class Lobby {
 public:
  Lobby(std::string id, Greeter greeter, Descriptor listener)
      : id_(std::move(id)),
        greeter_(std::move(greeter)),
        listener_(std::move(listener)),
        kept_(listener_.get()) {}

  /// Ranks that wait to be greeted. Never blocks.
  std::vector<int> waiting();
  /// Whoever has come since the last time. Never blocks.
  std::vector<Arrival> take();
  /// Greets one that waits; false when it is gone.
  bool answer(const Arrival& arrival) const;
  /// Keeps it for the next take().
  void put_back(Arrival arrival);

  /// Calls the ranks that are not yet connected; those that answer are in take() later. The number
  /// of ranks that can be reached.
  int call(const std::vector<int>& ranks);

 private:
  /// A connection on which a greeting is due.
  struct Pending {
    Descriptor socket;
    int called = -1;  ///< the rank at the other end where this rank called
    std::chrono::steady_clock::time_point since;
  };

  void look();
  bool read(Pending& pending);

  const std::string id_;
  const Greeter greeter_;
  const Descriptor listener_;
  const KeptFromChildren kept_;  ///< a child that outlives this process must not hold the address
  std::mutex mutex_;
  std::vector<Pending> pending_;
  std::vector<Arrival> arrived_;
};

}  // namespace waybill::transport
