#include "groups.h"

#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <map>
#include <mutex>
#include <utility>

#include "base/errors.h"
#include "base/fork.h"
#include "contract/check.h"
#include "engine/call.h"
#include "engine/session.h"

namespace waybill::binding {
namespace {

constexpr std::size_t kMaxNameBytes = 127;

struct Registry {
  std::mutex mutex;
  std::map<std::string, std::shared_ptr<NamedGroup>, std::less<>> groups;
};

/// Never destroyed: outputs and waiting threads may outlive static objects.
Registry& registry() {
  static auto* const kRegistry = new Registry;
  // A child forked while another thread held the mutex would wait for it for ever.
  static const int kRegistered = pthread_atfork([] { registry().mutex.lock(); },
                                                [] { registry().mutex.unlock(); },
                                                [] { registry().mutex.unlock(); });
  (void)kRegistered;
  return *kRegistry;
}

std::string known_groups() {
  std::string text;
  for (const std::string& name : group_names()) {
    text += (text.empty() ? "" : ", ") + std::string("'") + name + "'";
  }
  return text.empty() ? "none" : text;
}

std::atomic<int (*)()> interrupt_check{nullptr};

/// For std::function: true when the program wants to stop waiting.
bool ask_interrupt() {
  constexpr std::chrono::milliseconds kInterval{250};
  thread_local bool asking = false;
  thread_local std::chrono::steady_clock::time_point last;
  int (*const check)() = interrupt_check.load(std::memory_order_acquire);
  // Python runs signal handlers on the main thread only. Asking takes its global lock, which other
  // threads may hold for milliseconds: short waits must not ask.
  if (check == nullptr || asking || syscall(SYS_gettid) != getpid()) {
    return false;
  }
  const auto now = std::chrono::steady_clock::now();
  if (now - last < kInterval) {
    return false;
  }
  last = now;
  asking = true;
  const bool stop = check() != 0;
  asking = false;
  return stop;
}

}  // namespace

Status check_name(const std::string& op, const std::string& name) {
  if (name.empty() || name.size() > kMaxNameBytes) {
    return error(StatusCode::kInvalidArgument,
                 op,
                 "name",
                 op + ": argument name: expected 1 to " + std::to_string(kMaxNameBytes) +
                     " characters, got " + std::to_string(name.size()));
  }
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  const auto found = all.groups.find(name);
  if (found != all.groups.end() && found->second->fork_generation == fork_generation()) {
    return error(
        StatusCode::kInvalidState,
        op,
        "name",
        op + ": argument name: expected a name that no group has (release it first), got '" + name +
            "'");
  }
  return {};
}

Status add_group(const std::string& name, Group group) {
  if (Status status = check_name("connect", name); !status.ok()) {
    return status;
  }
  auto added = std::make_shared<NamedGroup>(NamedGroup{std::move(group), fork_generation()});
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  auto& place = all.groups[name];
  if (place != nullptr) {
    // The parent's: its threads do not exist here, so it cannot be destroyed.
    (void)new std::shared_ptr<NamedGroup>(std::move(place));
  }
  place = std::move(added);
  return {};
}

Result<std::shared_ptr<NamedGroup>> find_group(std::string_view op, std::string_view name) {
  Registry& all = registry();
  {
    const std::lock_guard lock(all.mutex);
    const auto found = all.groups.find(name);
    if (found != all.groups.end() && found->second->fork_generation == fork_generation()) {
      return found->second;
    }
    if (found != all.groups.end()) {
      return error(StatusCode::kInvalidState,
                   op,
                   "",
                   std::string(op) + ": group '" + std::string(name) +
                       "': expected the process that connected the group, got a child forked "
                       "from it");
    }
  }
  return error(StatusCode::kInvalidState,
               op,
               "",
               std::string(op) + ": expected the name of a group that this process has, got '" +
                   std::string(name) + "'; known: " + known_groups());
}

std::vector<std::string> group_names() {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  std::vector<std::string> names;
  for (const auto& [name, group] : all.groups) {
    if (group->fork_generation == fork_generation()) {
      names.push_back(name);
    }
  }
  return names;
}

Status release_group(const std::string& name, std::chrono::milliseconds timeout) {
  auto found = find_group("release", name);
  if (!found.ok()) {
    return found.status();
  }
  engine::Session& session = (*found)->group.session();
  if (session.busy.exchange(true, std::memory_order_acquire)) {
    return error(StatusCode::kInvalidState,
                 "release",
                 "",
                 "release: expected no call to be running on group '" + name + "', got one");
  }
  {
    Registry& all = registry();
    const std::lock_guard lock(all.mutex);
    all.groups.erase(name);
  }
  (*found)->group.close(timeout.count() < 0 ? session.timeout() : timeout);
  session.busy.store(false, std::memory_order_release);
  return {};
}

GroupOptions group_options() {
  GroupOptions options;
  options.interrupted = ask_interrupt;
  options.log = [](const std::string& line) {
    // One write: lines of several ranks do not mix.
    const std::string text = line + "\n";
    (void)!write(STDERR_FILENO, text.data(), text.size());
  };
  return options;
}

void set_interrupt_check(int (*check)()) {
  interrupt_check.store(check, std::memory_order_release);
}

Status refuse(Group& group,
              contract::Operator op,
              std::string_view argument,
              std::string_view expected,
              std::string_view got) {
  engine::Session& session = group.session();
  Status bad = contract::Checker(op, session.facts()).fail(argument, expected, got);
  if (op == contract::Operator::kDispatchTeardown || op == contract::Operator::kCombineTeardown) {
    return bad;  // no call of its own: the setup stays open
  }
  engine::Call call(session, op);
  WAYBILL_RETURN_IF_ERROR(call.begin());
  return call.refuse(std::move(bad));
}

}  // namespace waybill::binding
