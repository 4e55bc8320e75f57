#include "groups.h"

#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <iterator>
#include <map>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "base/cores.h"
#include "base/errors.h"
#include "base/fork.h"

namespace waybill::binding {
namespace {

constexpr std::size_t kMaxNameBytes = 127;

using Clock = std::chrono::steady_clock;

/// A group without a name that is not closed yet. Whoever took it out of the registry's list owns
/// it.
struct EndedGroup {
  std::shared_ptr<NamedGroup> group;
  Clock::time_point deadline;  ///< then it is closed whoever reads
  bool stopped = false;        ///< no call can begin any more
};

struct Registry {
  std::mutex mutex;
  std::map<std::string, std::shared_ptr<NamedGroup>, std::less<>> groups;
  std::vector<EndedGroup> ended;
  bool closer_runs = false;  ///< a thread closes what has ended; it stops when nothing is left
  bool closer_has_to_stop = false;
};

/// In a child: what the parent's threads were closing is not this process's to close.
void forget_ended(Registry& all) {
  (void)new std::vector<EndedGroup>(std::move(all.ended));
  all.ended.clear();
  all.closer_runs = false;
  all.closer_has_to_stop = false;
}

/// Never destroyed: outputs and waiting threads may outlive static objects.
Registry& registry() {
  static auto* const kRegistry = new Registry;
  // A child forked while another thread held the mutex would wait for it for ever.
  static const int kRegistered = pthread_atfork([] { registry().mutex.lock(); },
                                                [] { registry().mutex.unlock(); },
                                                [] {
                                                  forget_ended(registry());
                                                  registry().mutex.unlock();
                                                });
  (void)kRegistered;
  return *kRegistry;
}

/// True when it is closed. Waits at most `patience` for a call that runs, and as long for readers.
bool try_to_close(EndedGroup& ended, std::chrono::milliseconds patience) {
  constexpr std::chrono::milliseconds kLook{1};
  Group& group = ended.group->group;
  const auto end = Clock::now() + patience;
  while (!ended.stopped) {
    ended.stopped = group.stop();
    if (!ended.stopped) {
      if (Clock::now() >= end) {
        return false;
      }
      std::this_thread::sleep_for(kLook);
    }
  }
  if (!group.wait_for_readers(patience) && Clock::now() < ended.deadline) {
    return false;
  }
  group.close(std::chrono::milliseconds(0));
  ended.group.reset();
  return true;
}

/// The life of the thread that closes what has ended.
void close_ended() {
  constexpr std::chrono::milliseconds kShortest{1};
  constexpr std::chrono::milliseconds kLongest{50};
  Registry& all = registry();
  begin_thread("waybill-close", {});
  std::chrono::milliseconds pause = kShortest;
  while (true) {
    std::vector<EndedGroup> work;
    {
      const std::lock_guard lock(all.mutex);
      if (all.ended.empty() || all.closer_has_to_stop) {
        all.closer_runs = false;
        return;
      }
      work.swap(all.ended);
    }
    const auto closed = std::erase_if(
        work, [](EndedGroup& ended) { return try_to_close(ended, std::chrono::milliseconds(0)); });
    pause = closed > 0 ? kShortest : std::min(2 * pause, kLongest);
    bool left = false;
    {
      const std::lock_guard lock(all.mutex);
      left = !work.empty();
      std::move(work.begin(), work.end(), std::back_inserter(all.ended));
    }
    if (left) {
      std::this_thread::sleep_for(pause);
    }
  }
}

/// Leaves a group to the thread.
void leave_to_closer(EndedGroup ended) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  all.ended.push_back(std::move(ended));
  if (all.closer_runs || all.closer_has_to_stop) {
    return;
  }
  all.closer_runs = true;
  try {
    std::thread(close_ended).detach();
  } catch (const std::system_error&) {
    all.closer_runs = false;  // the next group that ends tries again, and so does the process's end
  }
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
  Group& group = (*found)->group;
  if (!group.stop()) {
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
  group.close(timeout.count() < 0 ? group.timeout() : timeout);
  return {};
}

bool end_group(const std::string& name, std::chrono::milliseconds patience) {
  EndedGroup ended;
  Registry& all = registry();
  {
    const std::lock_guard lock(all.mutex);
    const auto found = all.groups.find(name);
    if (found == all.groups.end() || found->second->fork_generation != fork_generation()) {
      return false;
    }
    ended.group = std::move(found->second);
    all.groups.erase(found);
  }
  ended.deadline = Clock::now() + ended.group->group.timeout();
  {
    // Where one group has to wait others may, too: patience is had once, not once a group.
    const std::lock_guard lock(all.mutex);
    patience = all.closer_runs ? std::chrono::milliseconds(0) : patience;
  }
  if (!try_to_close(ended, patience)) {
    leave_to_closer(std::move(ended));
  }
  return true;
}

void finish_ended_groups(std::chrono::milliseconds timeout) {
  constexpr std::chrono::milliseconds kLook{1};
  Registry& all = registry();
  const auto deadline = Clock::now() + timeout;
  {
    const std::lock_guard lock(all.mutex);
    all.closer_has_to_stop = true;
  }
  while (true) {
    {
      const std::lock_guard lock(all.mutex);
      if (!all.closer_runs) {
        break;
      }
    }
    std::this_thread::sleep_for(kLook);
  }
  std::vector<EndedGroup> work;
  {
    const std::lock_guard lock(all.mutex);
    work.swap(all.ended);
  }
  for (EndedGroup& ended : work) {
    ended.deadline = std::min(ended.deadline, deadline);
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(ended.deadline - Clock::now());
    if (!try_to_close(ended, std::max(left, std::chrono::milliseconds(0)))) {
      (void)new EndedGroup(std::move(ended));  // its call uses it
    }
  }
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

}  // namespace waybill::binding
