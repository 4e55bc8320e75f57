#include "engine/tp_exchange.h"

#include <mutex>

#include "contract/agreement.h"

namespace waybill::engine {

Status TpExchange::begin() {
  if (!exists()) {
    return {};
  }
  call_.emplace(*session_, ep_.op());
  Status status = call_->begin();
  if (!status.ok()) {
    call_.reset();
    return ep_.refuse(std::move(status));
  }
  status = call_->choose_members(std::nullopt);
  return status.ok() ? status : refuse(std::move(status));
}

void TpExchange::fill_header(const contract::Agreement& agreement, int ep_rank) {
  call_->header().agreement = agreement;
  call_->header().agreement[contract::Agreed::kEpRankId] = ep_rank;
}

void TpExchange::note_completed() {
  if (exists()) {
    const std::lock_guard lock(session_->stats_mutex);
    session_->counted.completed = session_->number;
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
  return ep_.has_failed() ? call_->give_up(std::move(why)) : call_->refuse(std::move(why));
}

Status TpExchange::follow_tp(Status why, bool signalled) {
  if (!signalled && !ep_.is_over()) {
    return call_->has_failed() ? ep_.give_up(std::move(why)) : ep_.refuse(std::move(why));
  }
  if (call_->has_failed()) {
    ep_.poison(why);
  }
  return why;
}

}  // namespace waybill::engine
