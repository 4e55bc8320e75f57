#pragma once

namespace waybill {

/// Changes in a child at fork, without a system call to ask. A value remembered from before a fork
/// differs from the value in the child.
int fork_generation() noexcept;

}  // namespace waybill
