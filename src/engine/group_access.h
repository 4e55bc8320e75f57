#pragma once

#include <memory>
#include <utility>

#include "engine/session.h"
#include "waybill/group.h"

namespace waybill::engine {

/// The way from a Group to its Session and back, for the operators and for tests. Programs have
/// none.
class GroupAccess {
 public:
  static Session& session(Group& group) noexcept { return *group.session_; }
  static Group make(std::unique_ptr<Session> session) noexcept { return Group(std::move(session)); }
};

inline Session& session_of(Group& group) noexcept { return GroupAccess::session(group); }

}  // namespace waybill::engine
