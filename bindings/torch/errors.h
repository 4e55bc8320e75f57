#pragma once

#include <string>

#include "waybill/status.h"

namespace waybill::binding {

/// The last error of the calling thread, kept for last_error(). Nothing before the first one.
void remember(const Status& status);

/// It as JSON: {"code", "operator", "argument", "ranks", "message"}, or "null".
std::string last_error_json();

/// Remembers `status`, which is an error, and throws what torch can carry to Python:
/// std::invalid_argument (ValueError) for a bad argument, std::runtime_error for the rest.
[[noreturn]] void raise(const Status& status);

}  // namespace waybill::binding
