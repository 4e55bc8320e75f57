#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "contract/agreement.h"
#include "contract/check.h"
#include "contract/elastic.h"
#include "transport/transport.h"
#include "window/control.h"

namespace waybill::engine {

/// Who takes part in a call and what each of them published: a copy of every member's header. The
/// members are the ranks that take part, by their number in the call: all ranks of the group, or
/// those that elastic_info leaves, by their new number.
/// Owner: the Session, which keeps its memory from call to call; one call uses it at a time.
class RollCall {
 public:
  explicit RollCall(const transport::Transport& transport);

  const std::vector<int>& members() const noexcept { return members_; }
  void set_members(const std::vector<int>& ranks) { members_ = ranks; }
  void set_members(const contract::Members& ranks, int count);

  int size() const noexcept { return static_cast<int>(members_.size()); }
  /// Position in the group of number `member`.
  int rank_of(int member) const noexcept { return members_[static_cast<std::size_t>(member)]; }
  const transport::PeerMemory& peer_of(int member) const noexcept {
    return transport_.peer(rank_of(member));
  }
  /// Start of half number `half` at `member`, and how much of it can be read.
  const std::byte* half_of(int member, std::size_t half) const noexcept {
    return peer_of(member).halves[half];
  }
  std::int64_t half_bytes_of(int member, std::size_t half) const noexcept {
    return transport_.is_remote(rank_of(member)) ? peer_of(member).mirrored_bytes[half]
                                                 : peer_of(member).window_bytes;
  }
  /// What `member` published. After read().
  const window::CallHeader& header_of(int member) const noexcept {
    return headers_[static_cast<std::size_t>(member)];
  }

  /// Why `member` has memory for no more than its header says; empty where it says nothing.
  std::string limit_text(int member, std::size_t half) const;

  /// Copies the headers of the call `stamp`, which every member has signalled. The first rank whose
  /// header is of another call; -1 where there is none.
  int read(window::Stamp stamp);
  /// True where no member refuses the call and all have the same agreement.
  bool agree(const contract::Agreement& own) const noexcept;
  /// Ranks that refuse the call.
  std::vector<int> refusing() const;
  /// True where one of them does so because another group failed.
  bool refused_elsewhere() const noexcept;
  /// Which arguments or operators differ, and whether the ranks are out of step.
  contract::Comparison compare(const contract::Checker& check) const;

  /// The second look: true where every member still stands by what it published of the call
  /// `stamp`. What was read before that may be used then.
  bool stands(window::Stamp stamp) const noexcept;
  /// Members that say that what they published of this call may not be used.
  std::vector<int> left(window::Stamp stamp) const;

  /// (E,) microseconds that the call waited for each rank of the group.
  std::vector<std::int64_t>& waited_us() noexcept { return waited_us_; }
  const std::vector<std::int64_t>& waited_us() const noexcept { return waited_us_; }

 private:
  const transport::Transport& transport_;
  std::vector<int> members_;
  std::vector<window::CallHeader> headers_;  ///< by member
  std::vector<std::int64_t> waited_us_;
};

}  // namespace waybill::engine
