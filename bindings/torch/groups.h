#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "contract/operators.h"
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

/// Options that every group of this library gets: waits ask ask_interrupt().
GroupOptions group_options();

/// Sets what waits on the main thread of the process ask, at most about twice a second. Not null:
/// returns not 0 to end the wait.
void set_interrupt_check(int (*check)());

/// Publishes that this rank's arguments of `op` are bad as the call that it is (ops.md section 11),
/// so that the others need not wait for it; gives the error back.
Status refuse(Group& group,
              contract::Operator op,
              std::string_view argument,
              std::string_view expected,
              std::string_view got);

}  // namespace waybill::binding
