// How the connections of a mesh end.
#include <algorithm>
#include <utility>

#include "transport/ucx/mesh.h"

namespace waybill::transport {
namespace {

using State = Connection::State;

}  // namespace

/// UCX has one word for all ends of a TCP connection.
std::string in_words(const UcxLibrary& ucx, ucs_status_t why) {
  return why == UCS_ERR_ENDPOINT_TIMEOUT ? "its process or the link between the hosts is gone"
                                         : ucx.status_string(why);
}

void UcxMesh::broke(void* connection, ucp_ep_h, ucs_status_t why) {
  auto& which = *static_cast<Connection*>(connection);
  which.broken = true;
  which.wire->fail(which, in_words(which.wire->ucx_, why));
}

/// May be called from inside UCX.
void UcxMesh::fail(Connection& which, std::string why) {
  if (which.state == State::kOpen) {
    which.state = State::kFailed;
    which.why = std::move(why);
    ++num_failed_;
    moved_ = true;
    drop_waiting(which);
  }
}

void UcxMesh::drop_waiting(Connection& which) {
  num_waiting_ -= static_cast<std::int64_t>(which.waiting.size());
  for (Outgoing* message : which.waiting) {
    pool_.give_back(message);
  }
  which.waiting.clear();
  if (which.borrowing != nullptr) {
    // UCX may still read the body, but what it makes of it is of no connection any more.
    pool_.count_down(std::exchange(which.borrowing, nullptr));
  }
}

void UcxMesh::end(Connection& which) {
  drop_waiting(which);
  if (!which.broken) {
    // Its socket stays open, so the other end has to be told.
    Outgoing* bye = make(which, WirePrefix::kBye, {});
    hand_over(bye);
  }
  num_failed_ -= which.state == State::kFailed ? 1 : 0;
  which.state = State::kOver;
  num_unflushed_ -= std::exchange(which.unflushed, false) ? 1 : 0;
  std::erase_if(kept_, [&](const KeptMessage& message) { return message.from == which.rank; });
}

bool UcxMesh::tell_lost() {
  bool any = false;
  for (Connection* each : connections_) {
    if (each != nullptr && each->state == State::kFailed) {
      end(*each);
      any = true;
      if (listener_ != nullptr) {
        calling_back_ = true;
        listener_->on_lost(each->rank,
                           "the connection to the host of rank " + std::to_string(each->rank) +
                               " broke: " + each->why);
        calling_back_ = false;
      }
    }
  }
  return any;
}

void UcxMesh::sever(int rank) {
  if (worker_->is_of_this_process()) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (rank >= 0 && static_cast<std::size_t>(rank) < connections_.size() &&
        connections_[static_cast<std::size_t>(rank)] != nullptr) {
      Connection& which = *connections_[static_cast<std::size_t>(rank)];
      if (which.state != State::kOver) {
        end(which);
      }
    }
  }
}

}  // namespace waybill::transport
