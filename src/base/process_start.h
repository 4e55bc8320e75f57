#pragma once

#include <sys/types.h>

#include <cstdint>

namespace waybill {

/// When the process was started, in clock ticks since the machine was; 0 when that cannot be known.
/// With the pid it names a process for good: pids are used again.
std::uint64_t process_start(pid_t pid) noexcept;

}  // namespace waybill
