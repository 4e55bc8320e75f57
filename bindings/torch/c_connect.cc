// How Python makes groups: the functions of the C interface that take settings.

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "base/cores.h"
#include "base/errors.h"
#include "c_api.h"
#include "groups.h"
#include "settings.h"
#include "waybill/group.h"
#include "window_size.h"

namespace waybill::binding {
namespace {

using PhaseHook = void (*)(int phase);

Strict strict_named(std::string_view name) {
  return name == "a2" ? Strict::kA2 : name == "a3" ? Strict::kA3 : Strict::kNone;
}

/// Options that every way to make a group has. timeout: seconds. An absent setting is the default.
GroupOptions options_of(Settings& settings, PhaseHook on_phase) {
  GroupOptions options = group_options();
  options.cores = parse_cores(settings.text("cores")).value_or(std::vector<int>());
  options.timeout = to_milliseconds(settings.number<double>("timeout"));
  options.threads = settings.number<int>("threads");
  options.strict = strict_named(settings.text("strict"));
  if (on_phase != nullptr) {
    options.on_phase = [on_phase](Phase phase) { on_phase(static_cast<int>(phase)); };
  }
  return options;
}

/// "PID START", as waybill_process_start() has the start.
std::pair<std::int32_t, std::uint64_t> process_of(const std::string& text) {
  std::pair<std::int32_t, std::uint64_t> process{};
  const char* const end = text.data() + text.size();
  const char* const space = std::from_chars(text.data(), end, process.first).ptr;
  std::from_chars(std::min(space + 1, end), end, process.second);
  return process;
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

Status join(Join how, const char* op, Settings& settings, GroupOptions options) {
  const int rank = settings.number<int>("rank");
  const int world_size = settings.number<int>("world_size");
  const std::string id = settings.text("id");
  options.name = settings.text("name");
  if (Status status = settings.unread(op); !status.ok()) {
    return status;
  }
  if (Status status = check_name("connect", options.name); !status.ok()) {
    return status;
  }
  auto unique_id = UniqueId::from_string(id);
  if (!unique_id.ok()) {
    return unique_id.status();
  }
  auto group = how(*unique_id, rank, world_size, options);
  return group.ok() ? add_group(options.name, std::move(*group)) : group.status();
}

Status connect_local(Settings& settings, GroupOptions options) {
  const std::vector<std::string> names = settings.all("name");
  if (Status status = settings.unread("connect_local"); !status.ok()) {
    return status;
  }
  options.name = names.empty() ? std::string() : names.front();
  auto groups = Group::local(static_cast<int>(names.size()), options);
  if (!groups.ok()) {
    return groups.status();
  }
  for (std::size_t r = 0; r < names.size(); ++r) {
    if (Status status = add_group(names[r], std::move((*groups)[r])); !status.ok()) {
      return status;
    }
  }
  return {};
}

}  // namespace
}  // namespace waybill::binding

using waybill::binding::done;
using waybill::binding::Settings;

/// Collective, blocks. Settings: name, id, rank, world_size; timeout (seconds), threads, cores,
/// strict where they are not the default; "process=PID START" of all ranks by rank, or of none;
/// "host=NAME" of all ranks by rank where they are not on one. on_phase may be null; it is called
/// with waybill::Phase on the thread of the call. gather is null where all ranks are on one host;
/// it gets this rank's address as text, brings those of all ranks to each other, hands them to
/// waybill_gathered() on the same thread, and returns 1, or 0 when it failed.
WAYBILL_C_API int waybill_connect(const char* const* settings,
                                  void (*on_phase)(int),
                                  int (*gather)(const char*)) {
  Settings given(settings);
  auto options = waybill::binding::options_of(given, on_phase);
  options.hosts = given.all("host");
  if (!options.hosts.empty()) {
    options.all_gather = waybill::binding::all_gather_of(gather);
  }
  for (const std::string& process : given.all("process")) {
    options.processes.push_back(waybill::binding::process_of(process));
  }
  return done(
      waybill::binding::join(&waybill::Group::connect, "connect", given, std::move(options)));
}

/// From inside `gather`: the texts of all ranks by rank, a line each.
WAYBILL_C_API void waybill_gathered(const char* texts) { waybill::binding::gathered() = texts; }

/// Blocks until a reset of the ranks that live has taken this process in. Settings as
/// waybill_connect(), without processes and hosts.
WAYBILL_C_API int waybill_rejoin(const char* const* settings, void (*on_phase)(int)) {
  Settings given(settings);
  auto options = waybill::binding::options_of(given, on_phase);
  return done(waybill::binding::join(&waybill::Group::rejoin, "rejoin", given, std::move(options)));
}

/// Ranks as threads of this process: "name=NAME" of each rank in order, and the options of
/// waybill_connect().
WAYBILL_C_API int waybill_connect_local(const char* const* settings, void (*on_phase)(int)) {
  Settings given(settings);
  auto options = waybill::binding::options_of(given, on_phase);
  return done(waybill::binding::connect_local(given, std::move(options)));
}

/// Bytes of both halves that calls of these sizes need; -1 where it failed. Settings: the members
/// of CallSizes (window_size.h).
WAYBILL_C_API std::int64_t waybill_window_bytes(const char* const* settings) {
  Settings given(settings);
  const waybill::binding::CallSizes sizes = waybill::binding::sizes_of(given);
  return done(given.unread("window_bytes")) == 0 ? -1 : waybill::binding::window_bytes(sizes);
}
