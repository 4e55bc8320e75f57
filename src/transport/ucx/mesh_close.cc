// How the connections of a mesh end.
#include <utility>

#include "transport/ucx/mesh.h"

namespace waybill::transport {
namespace {

using Clock = std::chrono::steady_clock;
using State = Connection::State;

/// UCX ends requests of a closed endpoint at once; this is for the case that it does not.
constexpr std::chrono::seconds kClosingTime{2};

}  // namespace

/// UCX has one word for all ends of a TCP connection.
std::string in_words(const UcxLibrary& ucx, ucs_status_t why) {
  return why == UCS_ERR_ENDPOINT_TIMEOUT ? "its process or the link between the hosts is gone"
                                         : ucx.status_string(why);
}

void UcxMesh::broke(void* connection, ucp_ep_h, ucs_status_t why) {
  auto& which = *static_cast<Connection*>(connection);
  which.dead = true;
  which.wire->fail(which, in_words(which.wire->ucx_, why));
}

/// May be called from inside UCX, which does not let an endpoint be closed there.
void UcxMesh::fail(Connection& which, std::string why) {
  if (which.state == State::kOpen) {
    which.state = State::kFailed;
    which.why = std::move(why);
    ++num_failed_;
    moved_ = true;
  }
}

void UcxMesh::close(Connection& which) {
  if (!which.dead && which.on_the_way == 0) {
    // UCX may keep a socket whose endpoint is closed, so the other end has to be told. Where the
    // network is full it cannot be.
    post(which, WirePrefix::kBye, {}, {}, nullptr);
  }
  if (which.state == State::kOpen) {
    ++num_failed_;
  }
  which.state = State::kClosing;
  which.closed_at = Clock::now();
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  void* request = ucx_.ep_close_nbx(std::exchange(which.endpoint, nullptr), &param);
  which.closing = UCS_PTR_IS_PTR(request) ? request : nullptr;
}

bool UcxMesh::is_closed(Connection& which) {
  if (which.closing != nullptr && ucx_.request_check_status(which.closing) != UCS_INPROGRESS) {
    ucx_.request_free(std::exchange(which.closing, nullptr));
  }
  if ((which.closing != nullptr || which.on_the_way != 0) &&
      Clock::now() - which.closed_at < kClosingTime) {
    return false;
  }
  pool_.give_up(&which, &given_up_);
  given_up_.on_the_way += std::exchange(which.on_the_way, 0);
  which.state = State::kNone;
  --num_failed_;
  return true;
}

bool UcxMesh::look_after_failed() {
  bool any = false;
  for (Connection& each : connections_) {
    if (each.state == State::kFailed) {
      close(each);
      any = true;
    }
    if (each.state == State::kClosing && is_closed(each)) {
      any = true;
      if (listener_ != nullptr) {
        calling_back_ = true;
        listener_->on_lost(each.rank,
                           "the connection to the host of rank " + std::to_string(each.rank) +
                               " broke: " + each.why);
        calling_back_ = false;
      }
    }
  }
  return any;
}

void UcxMesh::close_all(const std::vector<int>& ranks) {
  const bool kept_before = std::exchange(keeping_, true);
  std::vector<Connection*> open;
  for (const int r : ranks) {
    Connection& each = connection(r);
    if (each.state == State::kOpen || each.state == State::kFailed) {
      close(each);
    }
    if (each.state == State::kClosing) {
      each.deaf = true;
      open.push_back(&each);
    }
    std::erase_if(kept_, [r](const KeptMessage& message) { return message.from == r; });
  }
  while (true) {
    std::erase_if(open, [this](Connection* each) { return is_closed(*each); });
    if (open.empty()) {
      break;
    }
    (void)ucx_.worker_progress(worker_->get());
  }
  keeping_ = kept_before;
}

void UcxMesh::sever(int rank) {
  if (worker_->is_of_this_process() && rank >= 0 &&
      static_cast<std::size_t>(rank) < connections_.size()) {
    const std::lock_guard<std::mutex> lock(mutex_);
    close_all({rank});
  }
}

}  // namespace waybill::transport
