// What Python calls through ctypes, which lets other Python threads run meanwhile. Functions that
// can fail return 0 or a null pointer when they did; waybill_last_error() says why. Texts that are
// returned stay valid until the same thread's next call here.

#include <algorithm>
#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "base/errors.h"
#include "base/process_start.h"
#include "errors.h"
#include "groups.h"
#include "json.h"
#include "numerics/kernels.h"
#include "transport/ucx/ucx_wire.h"
#include "waybill/env.h"
#include "waybill/inspect.h"
#include "waybill/version.h"
#include "window_size.h"

#define WAYBILL_C_API extern "C" __attribute__((visibility("default")))

namespace waybill::binding {
namespace {

const char* keep(std::string text) {
  thread_local std::string kept;
  kept = std::move(text);
  return kept.c_str();
}

int done(const Status& status) {
  if (!status.ok()) {
    remember(status);
  }
  return status.ok() ? 1 : 0;
}

std::chrono::milliseconds to_milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1000));
}

GroupOptions options_of(double timeout, int threads, int strict, void (*on_phase)(int)) {
  GroupOptions options = group_options();
  options.timeout = to_milliseconds(timeout);
  options.threads = threads;
  options.strict = static_cast<Strict>(strict);
  if (on_phase != nullptr) {
    options.on_phase = [on_phase](Phase phase) { on_phase(static_cast<int>(phase)); };
  }
  return options;
}

std::string to_hex(const std::string& bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    text += kDigits[byte / 16];
    text += kDigits[byte % 16];
  }
  return text;
}

std::string from_hex(std::string_view text) {
  const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  std::string bytes;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2) {
    bytes += static_cast<char>(16 * digit(text[i]) + digit(text[i + 1]));
  }
  return bytes;
}

/// What the program's all_gather got, see waybill_gathered().
std::string& gathered() {
  thread_local std::string texts;
  return texts;
}

/// Asks the program, which knows texts only.
AllGather all_gather_of(int (*gather)(const char*)) {
  return [gather](const std::string& own) -> Result<std::vector<std::string>> {
    gathered().clear();
    if (gather(to_hex(own).c_str()) == 0) {
      return error(StatusCode::kInternal,
                   "connect",
                   "",
                   "connect: expected the addresses of all ranks, got an error of the program");
    }
    std::vector<std::string> all;
    std::string_view rest = gathered();
    while (!rest.empty()) {
      const std::size_t end = std::min(rest.find('\n'), rest.size());
      all.push_back(from_hex(rest.substr(0, end)));
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    return all;
  };
}

/// How a group is joined: with the others, or under the rank of a process that has ended.
using Join = Result<Group> (*)(const UniqueId&, int, int, const GroupOptions&);

Status join(Join how,
            const std::string& name,
            const char* id,
            int rank,
            int world_size,
            GroupOptions options) {
  options.name = name;
  if (Status status = check_name("connect", name); !status.ok()) {
    return status;
  }
  auto unique_id = UniqueId::from_string(id);
  if (!unique_id.ok()) {
    return unique_id.status();
  }
  auto group = how(*unique_id, rank, world_size, options);
  return group.ok() ? add_group(name, std::move(*group)) : group.status();
}

Status connect_local(const char* const* names, int world_size, GroupOptions options) {
  options.name = names[0];
  auto groups = Group::local(world_size, options);
  if (!groups.ok()) {
    return groups.status();
  }
  for (int r = 0; r < world_size; ++r) {
    if (Status status = add_group(names[r], std::move((*groups)[static_cast<std::size_t>(r)]));
        !status.ok()) {
      return status;
    }
  }
  return {};
}

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

contract::Operator operator_named(std::string_view name) {
  for (auto op = static_cast<std::uint32_t>(contract::Operator::kDispatchV2);
       op <= static_cast<std::uint32_t>(contract::Operator::kBarrier);
       ++op) {
    if (name == contract::name_of(static_cast<contract::Operator>(op))) {
      return static_cast<contract::Operator>(op);
    }
  }
  return contract::Operator::kNone;
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

/// Of a number that on_phase gets; "?" where there is none.
WAYBILL_C_API const char* waybill_phase_name(int phase) {
  return waybill::name_of(static_cast<waybill::Phase>(phase));
}

/// A process of this host, as connect wants it: its start time, 0 where it cannot be known.
WAYBILL_C_API std::uint64_t waybill_process_start(int pid) { return waybill::process_start(pid); }

/// Collective, blocks. pids and starts (each may be null): of all ranks. timeout (seconds), threads
/// and strict (waybill::Strict): 0 for the default. on_phase may be null; it is called with
/// waybill::Phase on the thread of the call. hosts and gather are null where all ranks are on one
/// host; gather gets this rank's address as text, brings those of all ranks to each other, hands
/// them to waybill_gathered() on the same thread, and returns 1, or 0 when it failed.
WAYBILL_C_API int waybill_connect(const char* name,
                                  const char* id,
                                  int rank,
                                  int world_size,
                                  const int* pids,
                                  const std::uint64_t* starts,
                                  double timeout,
                                  int threads,
                                  int strict,
                                  void (*on_phase)(int),
                                  const char* const* hosts,
                                  int (*gather)(const char*)) {
  auto options = waybill::binding::options_of(timeout, threads, strict, on_phase);
  if (hosts != nullptr) {
    options.hosts.assign(hosts, hosts + world_size);
    options.all_gather = waybill::binding::all_gather_of(gather);
  }
  for (int r = 0; pids != nullptr && r < world_size; ++r) {
    options.processes.emplace_back(pids[r], starts[r]);
  }
  return done(waybill::binding::join(
      &waybill::Group::connect, name, id, rank, world_size, std::move(options)));
}

/// From inside `gather`: the texts of all ranks by rank, a line each.
WAYBILL_C_API void waybill_gathered(const char* texts) { waybill::binding::gathered() = texts; }

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

/// Blocks until a reset of the ranks that live has taken this process in.
WAYBILL_C_API int waybill_rejoin(const char* name,
                                 const char* id,
                                 int rank,
                                 int world_size,
                                 double timeout,
                                 int threads,
                                 int strict,
                                 void (*on_phase)(int)) {
  return done(
      waybill::binding::join(&waybill::Group::rejoin,
                             name,
                             id,
                             rank,
                             world_size,
                             waybill::binding::options_of(timeout, threads, strict, on_phase)));
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

/// Ranks as threads of this process: names[r] becomes rank r.
WAYBILL_C_API int waybill_connect_local(const char* const* names,
                                        int world_size,
                                        double timeout,
                                        int threads,
                                        int strict,
                                        void (*on_phase)(int)) {
  return done(waybill::binding::connect_local(
      names, world_size, waybill::binding::options_of(timeout, threads, strict, on_phase)));
}

/// timeout in seconds; negative: the group's own.
WAYBILL_C_API int waybill_release(const char* name, double timeout) {
  return done(waybill::binding::release_group(name, waybill::binding::to_milliseconds(timeout)));
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
    (void)done(waybill::binding::refuse(
        (*group)->group, waybill::binding::operator_named(op), argument, expected, got));
  }
}

/// `check` is asked by waits on the main thread; not 0 ends the wait.
WAYBILL_C_API void waybill_set_interrupt_check(int (*check)()) {
  waybill::binding::set_interrupt_check(check);
}

WAYBILL_C_API std::int64_t waybill_window_bytes(const waybill::binding::CallSizes* sizes) {
  return waybill::binding::window_bytes(*sizes);
}

/// What this machine has and what the environment asks for: {"simd", "timeout" (seconds), "threads"
/// (0: not set), "max_memory_bytes" (0: not set), "window_bytes", "ucx" (its version, empty where
/// there is none), "ucx_problem" (why there is none)}.
WAYBILL_C_API const char* waybill_machine() {
  const auto env = waybill::Env::from_process();
  if (done(env.status()) == 0) {
    return nullptr;
  }
  waybill::binding::Json json;
  json.add("simd", waybill::name_of(env->simd.value_or(waybill::numerics::best_kernels().level)));
  json.add_raw("timeout", std::to_string(static_cast<double>(env->timeout.count()) / 1000));
  json.add("threads", env->threads.value_or(0));
  json.add("max_memory_bytes", env->max_memory_bytes.value_or(0));
  json.add("window_bytes", env->window_bytes);
  const auto ucx = waybill::transport::ucx_version();
  json.add("ucx", ucx.ok() ? *ucx : "");
  json.add("ucx_problem", ucx.ok() ? "" : ucx.status().message());
  return waybill::binding::keep(json.text());
}
