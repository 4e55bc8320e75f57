#include "engine/standing.h"

#include <algorithm>
#include <numeric>

#include "contract/agreement.h"
#include "window/control.h"

namespace waybill::engine {

Standing::Standing(int world_size) : world_size_(world_size) {
  for (std::vector<int>& users : users_) {
    users.resize(static_cast<std::size_t>(world_size));
    std::iota(users.begin(), users.end(), 0);
  }
  // A call that is dropped must not allocate.
  why_reset_.reserve(window::kRefusalTextBytes);
}

void Standing::begin_call(contract::Operator op) noexcept {
  ++number_;
  ++failures_;  // until it has ended well
  history_ = contract::add_to_history(history_, op);
}

void Standing::complete_call() noexcept {
  ++completed_;
  --failures_;
}

bool Standing::is_absent(int rank) const noexcept {
  return std::find(absent_.begin(), absent_.end(), rank) != absent_.end();
}

void Standing::begin_epoch(std::uint32_t attempt,
                           std::uint32_t call,
                           const std::vector<int>& members) {
  absent_.clear();
  for (int rank = 0; rank < world_size_; ++rank) {
    if (std::find(members.begin(), members.end(), rank) == members.end()) {
      absent_.push_back(rank);
    }
  }
  for (std::vector<int>& users : users_) {
    users = members;
  }
  epoch_ = attempt + 1;
  number_ = call;
  history_ = 0;
  failures_ = 0;
  known_attempt_ = attempt;
  why_reset_.clear();
}

}  // namespace waybill::engine
