#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "errors.h"
#include "waybill/status.h"

// What the files of the C interface share. Its functions are called by Python through ctypes, which
// lets other Python threads run meanwhile. Functions that can fail return 0 or a null pointer when
// they did; waybill_last_error() says why. Texts that are returned stay valid until the same
// thread's next call here.
#define WAYBILL_C_API extern "C" __attribute__((visibility("default")))

namespace waybill::binding {

/// Holds a text that is returned.
inline const char* keep(std::string text) {
  thread_local std::string kept;
  kept = std::move(text);
  return kept.c_str();
}

/// What a function that can fail returns.
inline int done(const Status& status) {
  if (!status.ok()) {
    remember(status);
  }
  return status.ok() ? 1 : 0;
}

inline std::chrono::milliseconds to_milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1000));
}

}  // namespace waybill::binding
