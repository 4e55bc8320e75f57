#include "engine/resolve.h"

#include <utility>

#include "base/cores.h"
#include "base/errors.h"
#include "numerics/kernels.h"
#include "window/control.h"
#include "window/memory_budget.h"

namespace waybill::engine {

Status bad_argument(const char* argument, const std::string& expected, const std::string& got) {
  return error(
      StatusCode::kInvalidArgument,
      "connect",
      argument,
      std::string("connect: argument ") + argument + ": expected " + expected + ", got " + got);
}

namespace {

Status check_world(int rank, int world_size, const GroupOptions& options) {
  if (world_size < 1 || world_size > window::kMaxRanks) {
    return bad_argument(
        "world_size", "1 to " + std::to_string(window::kMaxRanks), std::to_string(world_size));
  }
  if (rank < 0 || rank >= world_size) {
    return bad_argument("rank", "0 <= rank < " + std::to_string(world_size), std::to_string(rank));
  }
  if (!options.hosts.empty() && options.hosts.size() != static_cast<std::size_t>(world_size)) {
    return bad_argument("hosts",
                        "a name for each of " + std::to_string(world_size) + " ranks",
                        std::to_string(options.hosts.size()));
  }
  return {};
}

}  // namespace

namespace {

/// The cores that this process may run on, and those that its helpers are asked to.
Status resolve_cores(const GroupOptions& options, const Env& env, SessionOptions& session) {
  const ProcessCores own = process_cores();
  session.process_cores = own.cores;
  session.cores = options.cores.empty() ? env.cores : options.cores;
  const CoreSet asked = core_set_of(session.cores);
  const std::string name = options.cores.empty() ? "WAYBILL_CORES" : "cores";
  std::string text;
  for (const int core : session.cores) {
    text += (text.empty() ? "" : ",") + std::to_string(core);
  }
  if (static_cast<std::size_t>(count(asked)) != session.cores.size()) {
    return bad_argument(name.c_str(), kCoreList, text);
  }
  if (const CoreSet others = without(asked, own.allowed); count(others) > 0) {
    return bad_argument(name.c_str(),
                        "cores that this process may run on, " + to_text(own.allowed),
                        text + ", of which it may not use " + to_text(others));
  }
  return {};
}

}  // namespace

Result<Resolved> resolve(int rank, int world_size, const GroupOptions& options) {
  if (Status status = check_world(rank, world_size, options); !status.ok()) {
    return status;
  }
  auto env = Env::from_process();
  if (!env.ok()) {
    return env.status();
  }
  Resolved resolved;
  resolved.session.timeout = options.timeout.count() > 0 ? options.timeout : env->timeout;
  resolved.session.threads = options.threads > 0 ? options.threads : env->threads.value_or(0);
  if (env->simd && !numerics::is_supported(*env->simd)) {
    return error(
        StatusCode::kInvalidArgument,
        "environment",
        "WAYBILL_SIMD",
        std::string("WAYBILL_SIMD: expected a level this machine has, got ") + name_of(*env->simd));
  }
  if (Status status = resolve_cores(options, *env, resolved.session); !status.ok()) {
    return status;
  }
  resolved.session.kernels = env->simd ? numerics::kernels(*env->simd) : numerics::best_kernels();
  resolved.session.interrupted = options.interrupted;
  resolved.session.on_phase = options.on_phase;
  resolved.session.log = env->log_waits ? options.log : nullptr;
  resolved.session.checked = options.checked || env->checked;
  resolved.session.strict = options.strict != Strict::kNone ? options.strict : env->strict;
  resolved.session.hccl_buffsize_mb = env->hccl_buffsize_mb;
  resolved.window_bytes = options.window_bytes > 0 ? options.window_bytes : env->window_bytes;
  constexpr std::int64_t kWindowUnit = std::int64_t{2} << 20;
  if (resolved.window_bytes % kWindowUnit != 0) {
    return bad_argument(
        "window_bytes", "a multiple of 2 MiB", std::to_string(resolved.window_bytes));
  }
  window::MemoryBudget::process().set_limit(env->max_memory_bytes);
  resolved.env = std::move(*env);
  return resolved;
}

}  // namespace waybill::engine
