#include "waybill/env.h"

#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "base/cores.h"
#include "base/environment.h"
#include "base/errors.h"

namespace waybill {
namespace {

Status bad_variable(const char* name, const char* expected, const char* got) {
  return error(StatusCode::kInvalidArgument,
               "environment",
               name,
               std::string(name) + ": expected " + expected + ", got '" + got + "'");
}

/// The whole text as a number >= 0, or -1.
double parse_number(const char* text, const char** end) {
  char* stop = nullptr;
  errno = 0;
  const double value = std::strtod(text, &stop);
  *end = stop;
  return stop == text || errno != 0 || !std::isfinite(value) || value < 0 ? -1.0 : value;
}

Result<std::int64_t> parse_bytes(const char* name, const char* text) {
  const char* end = nullptr;
  double value = parse_number(text, &end);
  const char* const kUnits = "KMGT";
  if (*end != '\0') {
    const char* unit = std::strchr(kUnits, *end);
    if (unit == nullptr || end[1] != '\0') {
      value = -1;
    } else {
      value *= std::pow(1024.0, static_cast<double>(unit - kUnits + 1));
    }
  }
  if (value < 1 || value > 4e18) {
    return bad_variable(name, "a number of bytes, a suffix K, M, G or T allowed", text);
  }
  return static_cast<std::int64_t>(value);
}

Status read_timeout(Env& env) {
  if (const char* text = std::getenv("WAYBILL_TIMEOUT")) {
    const char* end = nullptr;
    const double seconds = parse_number(text, &end);
    if (*end != '\0' || seconds < 0.001 || seconds > 1e9) {
      return bad_variable("WAYBILL_TIMEOUT", "seconds, at least 0.001", text);
    }
    env.timeout = std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1000));
  }
  return {};
}

Status read_threads(Env& env) {
  if (const char* text = std::getenv("WAYBILL_THREADS")) {
    const char* end = nullptr;
    const double threads = parse_number(text, &end);
    if (*end != '\0' || threads < 1 || threads > 1024 || threads != std::floor(threads)) {
      return bad_variable("WAYBILL_THREADS", "a whole number from 1 to 1024", text);
    }
    env.threads = static_cast<int>(threads);
  }
  return {};
}

Status read_cores(Env& env) {
  if (const char* text = std::getenv("WAYBILL_CORES")) {
    auto cores = parse_cores(text);
    if (!cores) {
      return bad_variable("WAYBILL_CORES", kCoreList, text);
    }
    env.cores = std::move(*cores);
  }
  return {};
}

Status read_memory(Env& env) {
  if (const char* text = std::getenv("WAYBILL_MAX_MEMORY")) {
    auto bytes = parse_bytes("WAYBILL_MAX_MEMORY", text);
    if (!bytes.ok()) {
      return bytes.status();
    }
    env.max_memory_bytes = *bytes;
  }
  if (const char* text = std::getenv("WAYBILL_WINDOW_BYTES")) {
    constexpr std::int64_t kUnit = std::int64_t{2} << 20;
    auto bytes = parse_bytes("WAYBILL_WINDOW_BYTES", text);
    if (!bytes.ok()) {
      return bytes.status();
    }
    if (*bytes % kUnit != 0) {
      return bad_variable("WAYBILL_WINDOW_BYTES", "a multiple of 2M", text);
    }
    env.window_bytes = *bytes;
  }
  return {};
}

Status read_simd(Env& env) {
  if (const char* text = std::getenv("WAYBILL_SIMD")) {
    for (SimdLevel level :
         {SimdLevel::kScalar, SimdLevel::kAvx2, SimdLevel::kAvx512, SimdLevel::kNeon}) {
      if (std::strcmp(text, name_of(level)) == 0) {
        env.simd = level;
        return {};
      }
    }
    return bad_variable("WAYBILL_SIMD", "scalar, avx2, avx512 or neon", text);
  }
  return {};
}

Status read_strict(Env& env) {
  if (const char* text = std::getenv("WAYBILL_STRICT"); text != nullptr && *text != '\0') {
    if (std::strcmp(text, "a2") != 0 && std::strcmp(text, "a3") != 0) {
      return bad_variable("WAYBILL_STRICT", "a2 or a3", text);
    }
    env.strict = std::strcmp(text, "a2") == 0 ? Strict::kA2 : Strict::kA3;
  }
  if (const char* text = std::getenv("HCCL_BUFFSIZE"); text != nullptr && *text != '\0') {
    const char* end = nullptr;
    const double megabytes = parse_number(text, &end);
    if (*end != '\0' || megabytes < 1 || megabytes > 1e9 || megabytes != std::floor(megabytes)) {
      return bad_variable("HCCL_BUFFSIZE", "a whole number of MB, at least 1", text);
    }
    env.hccl_buffsize_mb = static_cast<std::int64_t>(megabytes);
  }
  return {};
}

Status read_debugging(Env& env) {
  if (const char* text = std::getenv("WAYBILL_LOG"); text != nullptr && *text != '\0') {
    if (std::strcmp(text, "debug") != 0) {
      return bad_variable("WAYBILL_LOG", "debug", text);
    }
    env.log_waits = true;
  }
  if (const char* text = std::getenv("WAYBILL_CHECK"); text != nullptr && *text != '\0') {
    if (std::strcmp(text, "0") != 0 && std::strcmp(text, "1") != 0) {
      return bad_variable("WAYBILL_CHECK", "0 or 1", text);
    }
    env.checked = *text == '1';
  }
  return {};
}

Status read_hosts(Env& env) {
  constexpr std::size_t kMost = 127;
  if (const char* text = std::getenv("WAYBILL_HOST"); text != nullptr && *text != '\0') {
    env.host = text;
    for (const char c : env.host) {
      if (c <= ' ' || c > '~' || env.host.size() > kMost) {
        return bad_variable("WAYBILL_HOST", "1 to 127 printable letters without blanks", text);
      }
    }
  }
  if (const char* text = std::getenv("WAYBILL_PROGRESS"); text != nullptr && *text != '\0') {
    if (std::strcmp(text, "call") != 0 && std::strcmp(text, "thread") != 0) {
      return bad_variable("WAYBILL_PROGRESS", "call or thread", text);
    }
    env.progress_in_calls = std::strcmp(text, "call") == 0;
  }
  if (const char* text = std::getenv("WAYBILL_KEEPALIVE"); text != nullptr && *text != '\0') {
    const char* end = nullptr;
    const double seconds = parse_number(text, &end);
    if (*end != '\0' || seconds < 0 || (seconds > 0 && seconds < 1) || seconds > 1e6) {
      return bad_variable("WAYBILL_KEEPALIVE", "seconds, 0 or at least 1", text);
    }
    env.keepalive = std::chrono::milliseconds(std::llround(seconds * 1000));
  }
  return {};
}

}  // namespace

bool is_in_environment(const char* name) noexcept { return std::getenv(name) != nullptr; }

const char* name_of(SimdLevel level) noexcept {
  switch (level) {
    case SimdLevel::kScalar:
      return "scalar";
    case SimdLevel::kAvx2:
      return "avx2";
    case SimdLevel::kAvx512:
      return "avx512";
    case SimdLevel::kNeon:
      return "neon";
  }
  return "?";
}

Result<Env> Env::from_process() {
  Env env;
  for (Status (*read)(Env&) : {read_timeout,
                               read_threads,
                               read_cores,
                               read_memory,
                               read_simd,
                               read_strict,
                               read_debugging,
                               read_hosts}) {
    if (Status status = read(env); !status.ok()) {
      return status;
    }
  }
  return env;
}

}  // namespace waybill
