#pragma once

#include <memory>
#include <string>
#include <vector>

#include "transport/socket.h"
#include "transport/wire.h"
#include "waybill/status.h"

namespace waybill::transport {

/// The version of the UCX that this machine has; the error of UcxWire::open() where it has none.
Result<std::string> ucx_version();

/// Messages between hosts over whatever network UCX finds: TCP, or InfiniBand and RoCE. Settings
/// of UCX (UCX_TLS, UCX_NET_DEVICES, ...) hold; it is silent unless UCX_LOG_LEVEL is set.
class UcxWire : public Wire {
 public:
  /// Local. kInvalidState where this build or this machine has no UCX.
  static Result<std::unique_ptr<UcxWire>> open(int rank, int world_size);

  /// What the others need for connect(), opaque bytes. They bring it to each other by any means.
  virtual const std::string& address() const noexcept = 0;
  /// Connects with the ranks whose entry is not empty; that of this rank itself is passed over.
  /// They have to call it at the same time. Returns once a message has gone both ways with each of
  /// them. kTimeout names those that it has not, kPeerLost those that are gone. Messages that come
  /// meanwhile are kept for the first progress(). May be called again for a rank that was lost or
  /// severed and has come back with a new address.
  virtual Status connect(const std::vector<std::string>& addresses, const Patience& patience) = 0;
};

}  // namespace waybill::transport
