#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "engine/session.h"
#include "waybill/group.h"
#include "waybill/status.h"

namespace waybill::transport {
class LocalLinks;
}

namespace waybill::engine {

/// See Group::connect(). With `path` ranks meet there, and `id` is what rank 0 leaves.
Result<std::unique_ptr<Session>> connect_session(const UniqueId& id,
                                                 const std::filesystem::path* path,
                                                 int rank,
                                                 int world_size,
                                                 const GroupOptions& options);

/// See Group::rejoin().
Result<std::unique_ptr<Session>> rejoin_session(const std::string& id,
                                                int rank,
                                                int world_size,
                                                const GroupOptions& options);

/// See Group::local(). `links`: what lies between the hosts, where it is not always good.
Result<std::vector<std::unique_ptr<Session>>> local_sessions(
    const std::string& id,
    int world_size,
    const GroupOptions& options,
    const transport::LocalLinks* links = nullptr);

}  // namespace waybill::engine
