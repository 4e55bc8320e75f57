#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/roll_call.h"
#include "transport/other_hosts.h"
#include "transport/transport.h"
#include "waybill/status.h"
#include "window/control.h"

namespace waybill::engine {

/// Says what of this rank's half (and of rows in the pool) the members on one other host need:
/// fills parcel.extents, takes out of the header where the rows lie in the pool, and returns the
/// end of the layout in the mirror. `on_host`: (members,), not 0 for those on the host. It borrows
/// a callable: unlike std::function it never allocates.
class Describe {
 public:
  Describe() = default;
  template <typename F>
  Describe(const F& body) noexcept  // NOLINT(google-explicit-constructor): as a lambda stands
      : body_(&body),
        call_([](const void* b,
                 const std::vector<char>& on_host,
                 window::CallHeader& header,
                 transport::Parcel& parcel) -> std::int64_t {
          return (*static_cast<const F*>(b))(on_host, header, parcel);
        }) {}
  explicit operator bool() const noexcept { return body_ != nullptr; }
  std::int64_t operator()(const std::vector<char>& on_host,
                          window::CallHeader& header,
                          transport::Parcel& parcel) const {
    return call_(body_, on_host, header, parcel);
  }

 private:
  const void* body_ = nullptr;
  std::int64_t (*call_)(const void*,
                        const std::vector<char>&,
                        window::CallHeader&,
                        transport::Parcel&) = nullptr;
};

/// What one call sends to other hosts, and what it gets from them: for each host one of its
/// members, the agent, receives the rows of a rank for all of them. Does nothing where all ranks
/// are on one host. Owner: the Session, which keeps its memory from call to call; one call uses it
/// at a time.
class Shipment {
 public:
  Shipment(transport::Transport& transport, int rank);

  /// Forgets the call before.
  void clear() noexcept { agents_.clear(); }

  /// Gives each other host its header and, where members are on it, what they need of `half`, the
  /// start of this rank's half of the call. They count once the call is signalled. Writes into
  /// `header` what the rows claim of agents.
  void send(const RollCall& roll,
            window::CallHeader& header,
            const std::byte* half,
            Describe describe);
  /// What was sent of the half of `call` and has not arrived never counts.
  void cancel(window::Stamp call);

  /// Notes of whom something has to arrive, by the headers that `roll` has read.
  void expect(const RollCall& roll);
  /// Ranks of other hosts of which something has to arrive.
  const std::vector<int>& arriving() const noexcept { return arriving_; }
  /// The rank that receives for this host what `rank`, one of arriving(), sends.
  int agent_of(const RollCall& roll, int rank) const noexcept;
  /// The word that says that it is there.
  const window::Word& arrival_of(const RollCall& roll, int rank, window::Stamp call) const;
  /// True while what arrived for the call is what lies there: a second look, too.
  bool stands(const RollCall& roll, window::Stamp call) const;
  /// False for a member of another host whose half has not come.
  bool has_come(const RollCall& roll, int member) const noexcept {
    return !transport_.is_remote(roll.rank_of(member)) ||
           (!agents_.empty() && agents_[static_cast<std::size_t>(member)] >= 0);
  }
  /// Makes what arrived the half of its member. kOutOfMemory: an agent had no room for it.
  Status attach(const RollCall& roll, window::Stamp call);

 private:
  int mark_members_on(const RollCall& roll, int host);
  void add_tail(const window::CallHeader& header, const std::byte* half, std::int64_t end);

  transport::Transport& transport_;
  transport::OtherHosts* const others_;
  const int rank_;
  std::vector<int> agents_;  ///< by member; -1 for those of this host and those that send nothing
  std::vector<int> arriving_;
  std::vector<char> on_host_;                ///< by member: it is on the host at hand
  transport::Parcel parcel_;                 ///< for the host at hand
  std::vector<window::CallHeader> headers_;  ///< by host
};

}  // namespace waybill::engine
