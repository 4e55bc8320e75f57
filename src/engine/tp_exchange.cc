#include "engine/tp_exchange.h"

#include <utility>

#include "base/errors.h"
#include "contract/agreement.h"

namespace waybill::engine {

TpExchange::~TpExchange() {
  if (exists() && !call_ && ep_.is_thrown_out()) {
    // An exception ended the EP group's call before this group's began.
    forgo(error(StatusCode::kInternal, "", "", "an operator was left in the middle"));
  }
}

/// A call of this group that gives up at once.
void TpExchange::forgo(const Status& why) {
  if (!exists()) {
    return;
  }
  call_.emplace(*session_, ep_.op());
  if (call_->begin().ok()) {
    static_cast<void>(call_->refuse(why, Ending::kRefusedElsewhere));
  }
}

Status TpExchange::begin() {
  if (Status status = ep_.begin(); !status.ok()) {
    if (ep_.waits_for_reset()) {
      forgo(status);  // else the TP peer would wait for this rank in vain
    }
    return status;
  }
  if (!exists()) {
    return {};
  }
  call_.emplace(*session_, ep_.op());
  Status status = call_->begin();
  if (!status.ok()) {
    call_.reset();
    return ep_.refuse(std::move(status));
  }
  call_->compare_failures(ep_);
  status = call_->choose_members(std::nullopt);
  return status.ok() ? status : refuse(std::move(status));
}

void TpExchange::fill_header(const contract::Agreement& agreement, int ep_rank) {
  call_->header().agreement = agreement;
  call_->header().agreement[contract::Agreed::kEpRankId] = ep_rank;
}

void TpExchange::note_completed() {
  if (exists()) {
    session_->complete_call([](GroupStats&) {});
  }
}

Status TpExchange::refuse(Status why) {
  if (call_) {
    why = call_->refuse(std::move(why));
  }
  return ep_.refuse(std::move(why));
}

Status TpExchange::follow_ep(Status why) {
  if (!call_) {
    return why;
  }
  return ep_.needs_reset() ? call_->refuse(std::move(why), Ending::kRefusedElsewhere)
                           : call_->refuse(std::move(why));
}

Status TpExchange::follow_tp(Status why) {
  if (!ep_.is_signalled()) {
    return call_->needs_reset() ? ep_.refuse(std::move(why), Ending::kRefusedElsewhere)
                                : ep_.refuse(std::move(why));
  }
  if (call_->needs_reset() || is_paired_wrongly()) {
    return ep_.fail(Ending::kFailedAlone, why);
  }
  // Else a whole EP group refused the call or has other arguments: every rank of the other one
  // learns it from its own TP peer.
  return why;
}

/// The ranks of other TP groups may be paired rightly.
bool TpExchange::is_paired_wrongly() const {
  const window::CallHeader& header = call_->header_of(peer());
  return header.refused == 0 &&
         header.agreement[contract::Agreed::kEpRankId] !=
             call_->header_of(session_->rank()).agreement[contract::Agreed::kEpRankId];
}

}  // namespace waybill::engine
