#pragma once

namespace waybill {

/// Cores that this process may run on, at least 1.
int available_cores() noexcept;

}  // namespace waybill
