#pragma once

#include <cstdint>
#include <string>

#include "engine/session.h"
#include "waybill/env.h"
#include "waybill/group.h"
#include "waybill/status.h"

namespace waybill::engine {

/// Everything a session needs, with the environment's defaults filled in.
struct Resolved {
  SessionOptions session;
  std::int64_t window_bytes = 0;
  Env env;
};

/// kInvalidArgument of connect.
Status bad_argument(const char* argument, const std::string& expected, const std::string& got);

/// Checks rank, world size and options, and reads the environment.
Result<Resolved> resolve(int rank, int world_size, const GroupOptions& options);

}  // namespace waybill::engine
