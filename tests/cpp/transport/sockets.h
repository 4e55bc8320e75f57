#pragma once

#include <chrono>
#include <string>
#include <thread>

#include "transport/socket.h"
#include "waybill/group.h"

namespace waybill::transport {

inline Patience patience_for(std::chrono::milliseconds limit) {
  return {std::chrono::steady_clock::now() + limit, {}};
}

/// Long enough for anything that is going to happen.
inline Patience much_patience() { return patience_for(std::chrono::seconds(30)); }

/// An address that nobody else has.
inline std::string new_address() { return "test-of-waybill-" + UniqueId::create().to_string(); }

/// Connects as soon as somebody listens; an empty descriptor when nobody does in time.
inline Descriptor connect_to(const std::string& address) {
  for (const Patience patience = much_patience(); !patience.expired();) {
    auto connection = try_connect(address);
    if (!connection.ok() || *connection) {
      return connection.ok() ? std::move(*connection) : Descriptor();
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return {};
}

}  // namespace waybill::transport
