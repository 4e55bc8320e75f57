#pragma once

#include <optional>
#include <utility>

#include "contract/layer.h"
#include "engine/call.h"
#include "waybill/group.h"

namespace waybill::engine {

/// The second group of a call with TP = 2: both peers have the same EP rank. A failure in one group
/// is posted in both.
class TpExchange {
 public:
  /// Nothing when the call has no TP group, or names its EP group as one: the contract says so.
  TpExchange(Call& ep, Session& ep_session, Group* group, int tp_world_size) : ep_(ep) {
    if (group != nullptr && tp_world_size == 2 && &group->session() != &ep_session) {
      session_ = &group->session();
    }
  }

  bool exists() const noexcept { return session_ != nullptr; }
  Session* session() noexcept { return session_; }
  Call& call() noexcept { return *call_; }
  int peer() const noexcept { return 1 - session_->rank(); }

  /// After the EP call has begun.
  Status begin();
  /// What both peers have to agree in beside what the EP group compares.
  void fill_header(const contract::Agreement& agreement, int ep_rank);

  /// For stats: the call ended well.
  void note_completed();

  /// Posts a bad argument of this rank in both groups and gives it back.
  Status refuse(Status why);
  /// Posts what went wrong in the EP group in the TP group and gives it back.
  Status follow_ep(Status why);
  /// Posts what went wrong in the TP group in the EP group, whose call is published (`signalled`)
  /// or not, and gives it back.
  Status follow_tp(Status why, bool signalled);

 private:
  Call& ep_;
  Session* session_ = nullptr;
  std::optional<Call> call_;
};

}  // namespace waybill::engine
