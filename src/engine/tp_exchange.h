#pragma once

#include <optional>
#include <utility>

#include "contract/layer.h"
#include "engine/call.h"
#include "engine/group_access.h"
#include "waybill/group.h"

namespace waybill::engine {

/// The second group of a call with TP = 2: both peers have the same EP rank. A failure in one group
/// is posted in both.
class TpExchange {
 public:
  /// Nothing when the call has no TP group, or names its EP group as one: the contract says so.
  TpExchange(Call& ep, Session& ep_session, Group* group, int tp_world_size) : ep_(ep) {
    if (group != nullptr && tp_world_size == 2 && &session_of(*group) != &ep_session) {
      session_ = &session_of(*group);
    }
  }

  TpExchange(const TpExchange&) = delete;
  TpExchange& operator=(const TpExchange&) = delete;
  ~TpExchange();

  bool exists() const noexcept { return session_ != nullptr; }
  Session* session() noexcept { return session_; }
  Call& call() noexcept { return *call_; }
  const Call& call() const noexcept { return *call_; }
  int peer() const noexcept { return 1 - session_->rank(); }

  /// Begins the EP call and, where there is a second group, the call there.
  Status begin();
  /// What both peers have to agree in beside what the EP group compares.
  void fill_header(const contract::Agreement& agreement, int ep_rank);

  /// For stats: the call ended well.
  void note_completed();

  /// Posts a bad argument of this rank in both groups and gives it back.
  Status refuse(Status why);
  /// Posts what went wrong in the EP group in the TP group and gives it back.
  Status follow_ep(Status why);
  /// Posts what went wrong in the TP group in the EP group and gives it back. Where the EP group's
  /// call is signalled already, it goes on there if all its ranks failed in their TP groups, else
  /// this rank alone fails.
  Status follow_tp(Status why);

 private:
  void forgo(const Status& why);
  bool is_paired_wrongly() const;

  Call& ep_;
  Session* session_ = nullptr;
  std::optional<Call> call_;
};

}  // namespace waybill::engine
