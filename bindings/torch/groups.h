#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "waybill/group.h"
#include "waybill/status.h"

namespace waybill::binding {

/// A group under the name that operators take. `fork_generation` tells the process that connected
/// it from its children.
struct NamedGroup {
  Group group;
  int fork_generation;
};

/// Puts a group under a name of 1 to 127 bytes that no group has. Any thread.
Status check_name(const std::string& op, const std::string& name);
Status add_group(const std::string& name, Group group);

/// The group of a name; kInvalidState that names the known groups where there is none, or that says
/// so in a forked child. The caller keeps it alive while it uses it.
Result<std::shared_ptr<NamedGroup>> find_group(std::string_view op, std::string_view name);

/// Names in order.
std::vector<std::string> group_names();

/// Takes the name away and closes the group, waiting at most `timeout` for its readers.
/// kInvalidState while a call runs.
Status release_group(const std::string& name, std::chrono::milliseconds timeout);

/// Takes the name away, and closes the group once no call of it runs and its peers have read what
/// they need, or the group's timeout has passed. Waits at most `patience` for that; then a thread
/// of its own goes on. Any thread, also from within a call of the group. False where this process
/// has no such group.
bool end_group(const std::string& name, std::chrono::milliseconds patience);

/// Closes what end_group() left, at most `timeout` later: whose call still runs then stays as it
/// is. No thread does it any more.
void finish_ended_groups(std::chrono::milliseconds timeout);

/// Options that every group of this library gets: waits ask ask_interrupt().
GroupOptions group_options();

/// Sets what waits on the main thread of the process ask, at most about twice a second. Not null:
/// returns not 0 to end the wait.
void set_interrupt_check(int (*check)());

}  // namespace waybill::binding
