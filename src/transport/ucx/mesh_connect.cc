// How the connections of a mesh are made.
#include <poll.h>

#include <cstring>
#include <utility>

#include "base/errors.h"
#include "transport/ucx/mesh.h"

namespace waybill::transport {
namespace {

using Clock = std::chrono::steady_clock;
using State = Connection::State;

/// How often a rank that has not answered is called again: it may have been called too early.
constexpr std::chrono::milliseconds kCallAgain{100};

std::uint64_t incarnation_of(const std::string& address) {
  AddressHead head;
  std::memcpy(&head, address.data(), sizeof(head));
  return head.incarnation;
}

}  // namespace

Status UcxMesh::check_addresses(const std::vector<std::string>& addresses) const {
  std::vector<int> wrong;
  for (std::size_t r = 0; r < addresses.size(); ++r) {
    AddressHead head{};
    if (addresses[r].size() > sizeof(head)) {
      std::memcpy(&head, addresses[r].data(), sizeof(head));
    }
    const bool matches = head.magic == AddressHead::kMagic && head.rank == static_cast<int>(r) &&
                         head.world_size == static_cast<int>(connections_.size()) &&
                         addresses[r].size() > sizeof(head);
    if (!addresses[r].empty() && !matches) {
      wrong.push_back(static_cast<int>(r));
    }
  }
  if (addresses.size() == connections_.size() && wrong.empty()) {
    return {};
  }
  std::string message =
      "connect: argument addresses: expected one of this version of Waybill for "
      "each of " +
      std::to_string(connections_.size()) + " ranks, got " +
      (wrong.empty() ? std::to_string(addresses.size()) : "another for " + name_ranks(wrong)) +
      " (rank " + std::to_string(rank_) + ")";
  return error(StatusCode::kMismatch, "connect", "addresses", std::move(message), std::move(wrong));
}

Status UcxMesh::make_endpoint(int rank, const std::string& address) {
  all_.push_back(std::make_unique<Connection>());
  Connection& to = *all_.back();
  to.wire = this;
  to.rank = rank;
  to.incarnation = incarnation_of(address);
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(address.data() + sizeof(AddressHead));
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.cb = broke;
  params.err_handler.arg = &to;
  const ucs_status_t done = ucx_.ep_create(worker_->get(), &params, &to.endpoint);
  if (done != UCS_OK) {
    all_.pop_back();
    return error(StatusCode::kPeerLost,
                 "connect",
                 "",
                 "connect: no way to the host of rank " + std::to_string(rank) + ": " +
                     ucx_.status_string(done) + " (rank " + std::to_string(rank_) + ")",
                 {rank});
  }
  connections_[static_cast<std::size_t>(rank)] = &to;
  return {};
}

Status UcxMesh::connect(const std::vector<std::string>& addresses, const Patience& patience) {
  if (!worker_->is_of_this_process()) {
    return error(StatusCode::kInvalidState,
                 "connect",
                 "",
                 "connect: this wire belongs to the process that this one was forked from");
  }
  if (Status status = check_addresses(addresses); !status.ok()) {
    return status;
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  keeping_ = true;
  std::vector<int> ranks;
  Status status;
  for (int r = 0; r < static_cast<int>(addresses.size()) && status.ok(); ++r) {
    const std::string& address = addresses[static_cast<std::size_t>(r)];
    if (r != rank_ && !address.empty()) {
      ranks.push_back(r);
      status = connect_one(r, address);
    }
  }
  if (status.ok()) {
    status = meet(ranks, patience);
  }
  keeping_ = false;
  return status;
}

Status UcxMesh::connect_one(int rank, const std::string& address) {
  Connection* old = connections_[static_cast<std::size_t>(rank)];
  if (old == nullptr || old->incarnation != incarnation_of(address)) {
    if (old != nullptr && old->state != State::kOver) {
      end(*old);
    }
    return make_endpoint(rank, address);
  }
  if (old->state == State::kOpen) {
    return {};
  }
  return error(StatusCode::kInvalidState,
               "connect",
               "addresses",
               "connect: argument addresses: expected a new address of rank " +
                   std::to_string(rank) + ", whose connection is over, got its old one (rank " +
                   std::to_string(rank_) + ")",
               {rank});
}

Status UcxMesh::meet(const std::vector<int>& ranks, const Patience& patience) {
  Clock::time_point call_at;
  while (true) {
    std::vector<int> missing;
    std::vector<int> lost;
    std::string why;
    bool flushed = true;
    for (const int r : ranks) {
      const Connection& to = *connections_[static_cast<std::size_t>(r)];
      if (to.state != State::kOpen) {
        lost.push_back(r);
        why = to.why;
      } else if (!to.heard || !to.confirmed) {
        missing.push_back(r);
      }
      flushed = flushed && to.handed_over == 0;
    }
    if (!lost.empty()) {
      std::string message = "connect: " + name_ranks(lost) + " on " +
                            (lost.size() == 1 ? "another host is" : "other hosts are") +
                            " gone: " + why + " (rank " + std::to_string(rank_) + ")";
      return error(StatusCode::kPeerLost, "connect", "", std::move(message), std::move(lost));
    }
    if (missing.empty() && flushed) {
      return {};
    }
    if (Status status = patience.check(); !status.ok()) {
      return status;
    }
    if (patience.expired()) {
      std::string message = "connect: timed out between hosts: " + name_ranks(missing) + " of " +
                            std::to_string(connections_.size()) + " did not answer rank " +
                            std::to_string(rank_);
      return error(StatusCode::kTimeout, "connect", "", std::move(message), std::move(missing));
    }
    if (Clock::now() >= call_at) {
      call_at = Clock::now() + kCallAgain;
      for (const int r : missing) {
        if (Connection& to = *connections_[static_cast<std::size_t>(r)];
            !to.confirmed && to.handed_over == 0) {
          post(to, make(to, WirePrefix::kHello, {}));
        }
      }
    }
    if (ucx_.worker_progress(worker_->get()) == 0 && ucx_.worker_arm(worker_->get()) == UCS_OK) {
      pollfd event{worker_->event(), POLLIN, 0};
      (void)poll(&event, 1, 10);
    }
  }
}

}  // namespace waybill::transport
