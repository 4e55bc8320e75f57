#pragma once

#include <string>
#include <vector>

namespace waybill::transport {

/// Names what this process shares memory with: the host's name, its boot, its network namespace (in
/// which abstract sockets are found) and its user. The same text for two processes means that their
/// ranks read each other's windows; any other text that they talk through a wire.
std::string this_host();

/// The number of each rank's host, from 0, in the order of their first ranks.
std::vector<int> number_hosts(const std::vector<std::string>& names);

/// Of those ranks that take part, on one host, the one that receives for it what `source` sends:
/// work is spread over them. `members` of a call in its order; -1 where none is on `host`.
int agent_of(const std::vector<int>& members,
             const std::vector<int>& hosts,
             int source,
             int host) noexcept;

}  // namespace waybill::transport
