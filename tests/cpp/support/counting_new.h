#pragma once

#include <cstdint>

namespace waybill::testing {

/// Calls of operator new by this thread so far.
std::int64_t allocations();
/// False under a sanitizer, whose own allocator stays in place.
bool allocations_are_counted();

}  // namespace waybill::testing
