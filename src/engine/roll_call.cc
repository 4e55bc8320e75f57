#include "engine/roll_call.h"

#include <algorithm>

#include "base/published.h"
#include "window/page_reads.h"
#include "window/texts.h"

namespace waybill::engine {

using window::CallHeader;

RollCall::RollCall(const transport::Transport& transport) : transport_(transport) {
  const auto ranks = static_cast<std::size_t>(transport.world_size());
  members_.reserve(ranks);
  headers_.reserve(ranks);
  waited_us_.resize(ranks);
}

void RollCall::set_members(const contract::Members& ranks, int count) {
  members_.resize(static_cast<std::size_t>(count));
  for (int member = 0; member < count; ++member) {
    members_[static_cast<std::size_t>(member)] = ranks[member];
  }
}

std::string RollCall::limit_text(int member, std::size_t half) const {
  return header_of(member).says_limit != 0
             ? window::read_text(peer_of(member).control->refusals[half].text)
             : std::string();
}

int RollCall::read(window::Stamp stamp) {
  headers_.resize(members_.size());
  for (const int rank : members_) {
    fetch_ahead(&transport_.peer(rank).control->headers[window::half_of_call(stamp)],
                sizeof(CallHeader));
  }
  for (std::size_t member = 0; member < members_.size(); ++member) {
    const int rank = members_[member];
    if (!window::read_header(*transport_.peer(rank).control, stamp, headers_[member])) {
      return rank;
    }
  }
  return -1;
}

bool RollCall::agree(const contract::Agreement& own) const noexcept {
  return std::all_of(headers_.begin(), headers_.end(), [&own](const CallHeader& header) {
    return header.refused == 0 && header.agreement == own;
  });
}

std::vector<int> RollCall::refusing() const {
  std::vector<int> ranks;
  for (int member = 0; member < size(); ++member) {
    if (header_of(member).refused != 0) {
      ranks.push_back(rank_of(member));
    }
  }
  return ranks;
}

bool RollCall::refused_elsewhere() const noexcept {
  return std::any_of(headers_.begin(), headers_.end(), [](const CallHeader& header) {
    return header.refused == window::kFailedElsewhere;
  });
}

contract::Comparison RollCall::compare(const contract::Checker& check) const {
  std::vector<contract::Agreement> agreements;
  std::vector<std::uint32_t> completed;
  bool refused = false;
  for (const CallHeader& header : headers_) {
    agreements.push_back(header.agreement);
    completed.push_back(header.completed);
    refused = refused || header.refused != 0;
  }
  // Ranks that refuse a call may be out of step, too.
  return refused ? contract::compare_operators(check, agreements, members_, completed)
                 : contract::compare(check, agreements, members_, completed);
}

bool RollCall::stands(window::Stamp stamp) const noexcept {
  window::fence_reads();
  const std::uint32_t epoch = window::epoch_of(stamp);
  return std::all_of(members_.begin(), members_.end(), [&](int rank) {
    const window::ControlPage& page = *transport_.peer(rank).control;
    const window::Stamp left = page.left.load();
    return left != stamp && window::epoch_of(left) <= epoch &&
           window::epoch_of(page.signalled.load()) <= epoch;
  });
}

std::vector<int> RollCall::left(window::Stamp stamp) const {
  std::vector<int> ranks = members_;
  std::erase_if(ranks,
                [&](int rank) { return transport_.peer(rank).control->left.load() != stamp; });
  return ranks;
}

}  // namespace waybill::engine
