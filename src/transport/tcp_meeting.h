#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/descriptor.h"
#include "transport/socket.h"
#include "waybill/status.h"

namespace waybill::transport {

/// Where ranks of several hosts that have nothing but a unique id bring texts to each other: rank 0
/// listens at an address, the others call it. Only while a group is connected; nothing of a call
/// goes this way.
class TcpMeeting {
 public:
  /// Collective: returns when all ranks have called, on rank 0, or when rank 0 has answered. `id`
  /// tells callers of this group from strangers, `address` is "host:port", with an IPv6 host in
  /// brackets. kTimeout names the ranks that did not come, kInvalidArgument an address that cannot
  /// be.
  static Result<TcpMeeting> open(const std::string& id,
                                 const std::string& address,
                                 int rank,
                                 int world_size,
                                 const Patience& patience);

  /// Collective: the texts of all ranks, by rank. kPeerLost when a rank is gone meanwhile.
  Result<std::vector<std::string>> all_gather(const std::string& own, const Patience& patience);

 private:
  TcpMeeting(int rank, int world_size);
  Status lead(const std::string& id, const std::string& address, const Patience& patience);
  Status follow(const std::string& id, const std::string& address, const Patience& patience);
  Status take(Descriptor caller, const std::string& id, const Patience& patience);
  std::vector<int> missing() const;

  int rank_;
  int world_size_;
  std::vector<Descriptor> sockets_;  ///< rank 0: by rank; others: that of rank 0 at 0
};

}  // namespace waybill::transport
