// The functions of the C interface about this process and its groups; those that make groups are in
// c_connect.cc.

#include "c_api.h"

#include <algorithm>
#include <string>
#include <vector>

#include "base/cores.h"
#include "base/errors.h"
#include "base/process_start.h"
#include "base/shortage.h"
#include "errors.h"
#include "groups.h"
#include "json.h"
#include "numerics/kernels.h"
#include "operators.h"
#include "transport/ucx/ucx_wire.h"
#include "waybill/env.h"
#include "waybill/inspect.h"
#include "waybill/version.h"

namespace waybill::binding {
namespace {

std::string to_json(const Traffic& traffic) {
  Json json;
  json.add("rows_sent", traffic.rows_sent);
  json.add("rows_received", traffic.rows_received);
  json.add("bytes_sent", traffic.bytes_sent);
  json.add("bytes_received", traffic.bytes_received);
  return json.text();
}

std::string to_json(const RankState& state) {
  Json json;
  json.add("rank", state.rank);
  json.add("pid", static_cast<std::int64_t>(state.pid));
  json.add("operator", state.op);
  json.add("phase", name_of(state.phase));
  json.add("epoch", state.epoch);
  json.add("call", state.call);
  json.add_raw("seconds", std::to_string(state.seconds));
  json.add("waits_for", state.waits_for);
  json.add_raw("needs_reset", state.needs_reset ? "true" : "false");
  json.add_raw("rejoining", state.rejoining ? "true" : "false");
  json.add("memory_node", state.memory_node);
  return json.text();
}

std::string to_json(const GroupState& state) {
  std::string ranks;
  for (const RankState& rank : state.ranks) {
    ranks += (ranks.empty() ? "" : ",") + to_json(rank);
  }
  Json json;
  json.add("name", state.name);
  json.add("id", state.id);
  json.add("version", state.version);
  json.add("world_size", state.world_size);
  json.add_raw("ranks", "[" + ranks + "]");
  return json.text();
}

std::string to_json(const GroupStats& stats) {
  Json json;
  json.add("calls", stats.calls);
  json.add("completed", stats.completed);
  json.add("needs_reset", stats.needs_reset);
  json.add("epoch", stats.epoch);
  json.add("absent", stats.absent);
  json.add("rejoining", stats.rejoining);
  json.add_raw("dispatch", to_json(stats.dispatch));
  json.add_raw("combine", to_json(stats.combine));
  json.add("bytes_published", stats.bytes_published);
  json.add("bytes_copied", stats.bytes_copied);
  json.add("bytes_reduced", stats.bytes_reduced);
  json.add("rows_in_place", stats.rows_in_place);
  json.add("wait_us", stats.wait_us);
  json.add("wait_total_us", stats.wait_total_us);
  json.add("copy_total_us", stats.copy_total_us);
  json.add("in_call_total_ns", stats.in_call_total_ns);
  json.add("window_bytes", stats.window_bytes);
  json.add("pool_bytes", stats.pool_bytes);
  json.add("pool_bytes_in_use", stats.pool_bytes_in_use);
  json.add("pool_buffers", stats.pool_buffers);
  return json.text();
}

}  // namespace
}  // namespace waybill::binding

using waybill::binding::done;

WAYBILL_C_API const char* waybill_version() { return waybill::version_string(); }

WAYBILL_C_API const char* waybill_last_error() {
  return waybill::binding::keep(waybill::binding::last_error_json());
}

WAYBILL_C_API const char* waybill_new_id() {
  return waybill::binding::keep(waybill::UniqueId::create().to_string());
}

/// The operators in their order, a JSON list of {"name", "group" (the argument that names the
/// group, empty for a local operator)}.
WAYBILL_C_API const char* waybill_operators() {
  std::string list;
  for (const waybill::binding::Operator* op : waybill::binding::kOperators) {
    waybill::binding::Json json;
    json.add("name", op->name());
    json.add("group", op->signature.group == nullptr ? "" : op->signature.group);
    list += (list.empty() ? "" : ",") + json.text();
  }
  return waybill::binding::keep("[" + list + "]");
}

/// The names of the phases, a JSON list: on_phase gets numbers of its entries.
WAYBILL_C_API const char* waybill_phases() {
  std::string list;
  for (int phase = 0; phase <= static_cast<int>(waybill::kLastPhase); ++phase) {
    list += (list.empty() ? "" : ",") +
            waybill::binding::json_quote(waybill::name_of(static_cast<waybill::Phase>(phase)));
  }
  return waybill::binding::keep("[" + list + "]");
}

/// A process of this host, as connect wants it: its start time, 0 where it cannot be known.
WAYBILL_C_API std::uint64_t waybill_process_start(int pid) { return waybill::process_start(pid); }

/// What is short in this process where no file can be opened, and what to do about it.
WAYBILL_C_API const char* waybill_describe_lack() {
  return waybill::binding::keep(waybill::describe_lack_of_descriptors());
}

/// The cores of a list, as JSON. Null where it is none, or has cores that this process may not use;
/// waybill_last_error() blames `argument` of `op`.
WAYBILL_C_API const char* waybill_cores(const char* op, const char* argument, const char* list) {
  const auto cores = waybill::parse_cores(list);
  const auto allowed = waybill::process_cores().allowed;
  const auto others =
      waybill::without(waybill::core_set_of(cores.value_or(std::vector<int>())), allowed);
  if (!cores || waybill::count(others) > 0) {
    const std::string expected =
        cores ? "cores that this process may run on, " + waybill::to_text(allowed)
              : waybill::kCoreList;
    const std::string got = std::string("'") + list + "'" +
                            (cores ? ", of which it may not use " + waybill::to_text(others) : "");
    (void)done(waybill::error(
        waybill::StatusCode::kInvalidArgument,
        op,
        argument,
        std::string(op) + ": argument " + argument + ": expected " + expected + ", got " + got));
    return nullptr;
  }
  waybill::binding::Json json;
  json.add("cores", *cores);
  return waybill::binding::keep(json.text());
}

/// The host that this process counts as on.
WAYBILL_C_API const char* waybill_this_host() {
  auto host = waybill::this_host();
  return done(host.status()) == 0 ? nullptr : waybill::binding::keep(std::move(*host));
}

/// How this rank reads what each rank publishes, a JSON list.
WAYBILL_C_API const char* waybill_routes(const char* name) {
  auto group = waybill::binding::find_group("routes", name);
  if (done(group.status()) == 0) {
    return nullptr;
  }
  std::string list;
  for (const waybill::Route& route : (*group)->group.routes()) {
    waybill::binding::Json json;
    json.add("host", route.host);
    json.add("how", route.how);
    list += (list.empty() ? "" : ",") + json.text();
  }
  return waybill::binding::keep("{\"ranks\":[" + list + "]}");
}

/// Groups of this host's processes, a JSON list.
WAYBILL_C_API const char* waybill_inspect() {
  std::string list;
  for (const waybill::GroupState& state : waybill::inspect_groups()) {
    list += (list.empty() ? "" : ",") + waybill::binding::to_json(state);
  }
  return waybill::binding::keep("[" + list + "]");
}

/// In seconds, of calls that begin from now on.
WAYBILL_C_API int waybill_set_timeout(const char* name, double timeout) {
  auto group = waybill::binding::find_group("set_timeout", name);
  if (done(group.status()) == 0) {
    return 0;
  }
  (*group)->group.set_timeout(waybill::binding::to_milliseconds(timeout));
  return 1;
}

/// timeout in seconds; negative: the group's own.
WAYBILL_C_API int waybill_release(const char* name, double timeout) {
  return done(waybill::binding::release_group(name, waybill::binding::to_milliseconds(timeout)));
}

/// Of a group whose process group has ended; patience in seconds. Says nothing to
/// waybill_last_error(): it may come between another function's end and the question why it failed.
WAYBILL_C_API void waybill_end(const char* name, double patience) {
  waybill::binding::end_group(name, waybill::binding::to_milliseconds(patience));
}

/// At the end of the process, timeout in seconds: closes what waybill_end() left.
WAYBILL_C_API void waybill_finish_ended(double timeout) {
  waybill::binding::finish_ended_groups(waybill::binding::to_milliseconds(timeout));
}

/// Collective among the living. The ranks that go on, as a JSON list.
WAYBILL_C_API const char* waybill_reset(const char* name) {
  auto group = waybill::binding::find_group("reset", name);
  if (done(group.status()) == 0) {
    return nullptr;
  }
  auto ranks = (*group)->group.reset();
  if (done(ranks.status()) == 0) {
    return nullptr;
  }
  waybill::binding::Json json;
  json.add("ranks", *ranks);
  return waybill::binding::keep(json.text());
}

WAYBILL_C_API const char* waybill_stats(const char* name) {
  auto group = waybill::binding::find_group("stats", name);
  if (done(group.status()) == 0) {
    return nullptr;
  }
  return waybill::binding::keep(waybill::binding::to_json((*group)->group.stats()));
}

WAYBILL_C_API const char* waybill_placement(const char* name) {
  auto group = waybill::binding::find_group("placement", name);
  if (done(group.status()) == 0) {
    return nullptr;
  }
  auto placement = (*group)->group.placement();
  if (done(placement.status()) == 0) {
    return nullptr;
  }
  waybill::binding::Json json;
  json.add("node", placement->node);
  json.add("window_pages", placement->window_pages);
  json.add("pool_pages", placement->pool_pages);
  json.add("unknown_pages", placement->unknown_pages);
  return waybill::binding::keep(json.text());
}

/// Names of the groups of this process, a JSON list.
WAYBILL_C_API const char* waybill_groups() {
  std::string list;
  for (const std::string& name : waybill::binding::group_names()) {
    list += (list.empty() ? "" : ",") + waybill::binding::json_quote(name);
  }
  return waybill::binding::keep("[" + list + "]");
}

/// Publishes a refusal of a call that could not be made; waybill_last_error() has the sentence.
WAYBILL_C_API void waybill_refuse(
    const char* name, const char* op, const char* argument, const char* expected, const char* got) {
  auto group = waybill::binding::find_group(op, name);
  if (done(group.status()) != 0) {
    (void)done((*group)->group.refuse(op, argument, expected, got));
  }
}

/// `check` is asked by waits on the main thread; not 0 ends the wait.
WAYBILL_C_API void waybill_set_interrupt_check(int (*check)()) {
  waybill::binding::set_interrupt_check(check);
}

/// What this machine has and what the environment asks for: {"simd", "timeout" (seconds), "threads"
/// (0: not set), "process_cores" (that this process may run on as a whole), "max_memory_bytes" (0:
/// not set), "window_bytes", "ucx" (its version, empty where there is none), "ucx_problem" (why
/// there is none)}.
WAYBILL_C_API const char* waybill_machine() {
  const auto env = waybill::Env::from_process();
  if (done(env.status()) == 0) {
    return nullptr;
  }
  waybill::binding::Json json;
  json.add("simd", waybill::name_of(env->simd.value_or(waybill::numerics::best_kernels().level)));
  json.add_raw("timeout", std::to_string(static_cast<double>(env->timeout.count()) / 1000));
  json.add("threads", env->threads.value_or(0));
  json.add("process_cores", waybill::to_text(waybill::process_cores().cores));
  json.add("max_memory_bytes", env->max_memory_bytes.value_or(0));
  json.add("window_bytes", env->window_bytes);
  const auto ucx = waybill::transport::ucx_version();
  json.add("ucx", ucx.ok() ? *ucx : "");
  json.add("ucx_problem", ucx.ok() ? "" : ucx.status().message());
  return waybill::binding::keep(json.text());
}
