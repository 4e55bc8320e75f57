// What a call does for ranks of other hosts.

#include <algorithm>
#include <string>
#include <thread>

#include "engine/call.h"
#include "transport/hosts.h"

namespace waybill::engine {

using Clock = std::chrono::steady_clock;
using window::CallHeader;

namespace {

constexpr std::chrono::microseconds kPoll{100};
constexpr std::chrono::milliseconds kLook{100};

}  // namespace

/// Marks the members on `host`; the one of them that receives what this rank sends, or -1.
int Call::choose_agents(int host) {
  const transport::Transport& transport = session_.transport();
  auto& on_host = session_.scratch().on_host;
  on_host.clear();
  for (const int rank : session_.scratch().members) {
    on_host.push_back(transport.host_of(rank) == host ? 1 : 0);
  }
  return transport::agent_of(session_.scratch().members, transport.hosts(), session_.rank(), host);
}

/// To each other host its header, and to those of members what they need of the half.
void Call::send_to_hosts(Describe describe) {
  transport::Transport& transport = session_.transport();
  transport::Parcel& parcel = session_.scratch().parcel;
  for (int host = 0; host < transport.num_hosts(); ++host) {
    if (host == transport.own_host()) {
      continue;
    }
    CallHeader header = header_;
    parcel.extents.clear();
    parcel.agent = choose_agents(host);
    parcel.mirrored_bytes = 0;
    if (describe && header.refused == 0 && parcel.agent >= 0) {
      const std::int64_t end = describe(session_.scratch().on_host, header, parcel);
      parcel.mirrored_bytes = end;
      if (header.checked_end >= 0) {
        add_tail(header, end);
        header.checked_end = end;
      }
    }
    parcel.stamp = stamp_;
    header.mirrored_bytes = parcel.mirrored_bytes;
    transport.set_header(host, header);
    if (parcel.mirrored_bytes > 0) {
      transport.send(half_, parcel);
    }
  }
}

/// Checked mode: checksums and canary travel, too, behind a layout that ends at `end`.
void Call::add_tail(const CallHeader& header, std::int64_t end) {
  transport::Parcel& parcel = session_.scratch().parcel;
  const std::byte* half = session_.window().halves[half_].data();
  const auto from = window::CheckedTail::of(header.checked_end, header.num_rows);
  const auto to = window::CheckedTail::of(end, header.num_rows);
  parcel.extents.push_back({half + from.checksums.offset, to.checksums.offset, to.checksums.bytes});
  parcel.extents.push_back({half + from.canary.offset, to.canary.offset, to.canary.bytes});
  parcel.mirrored_bytes = to.end;
}

/// Waits for what members of other hosts published, until `end`.
Status Call::gather_mirrors(Clock::time_point end) {
  transport::Transport& transport = session_.transport();
  auto& agents = session_.scratch().agents;
  auto& arriving = session_.scratch().arriving;
  agents.assign(session_.scratch().members.size(), -1);
  arriving.clear();
  for (int member = 0; member < num_members(); ++member) {
    const int rank = rank_of(member);
    if (transport.is_remote(rank) && header_of(member).mirrored_bytes > 0) {
      agents[static_cast<std::size_t>(member)] = transport::agent_of(
          session_.scratch().members, transport.hosts(), rank, transport.own_host());
      arriving.push_back(rank);
    }
  }
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now());
  WAYBILL_RETURN_IF_ERROR(
      to_status(wait_for(session_,
                         {.word = nullptr,
                          .target = stamp_,
                          .ranks = arriving,
                          .timeout = std::max(left, std::chrono::milliseconds(1))}),
                Phase::kWaitSignals));
  if (!mirrors_stand()) {
    return fail(StatusCode::kInvalidState,
                "expected what other hosts sent to arrive, but they gave the call up or went on "
                "without this rank (rank " +
                    std::to_string(session_.rank()) + ")",
                {});
  }
  for (int member = 0; member < num_members(); ++member) {
    const int agent = agents[static_cast<std::size_t>(member)];
    if (agent >= 0) {
      Status status = transport.attach(agent, rank_of(member), half_);
      if (!status.ok()) {
        return session_.in_context(contract::name_of(op_), std::move(status));
      }
    }
  }
  return {};
}

/// True while what arrived for this call is what lies there.
bool Call::mirrors_stand() const {
  const auto& agents = session_.scratch().agents;
  for (std::size_t member = 0; member < agents.size(); ++member) {
    if (agents[member] >= 0 &&
        session_.transport()
                .slot(agents[member], rank_of(static_cast<int>(member)), half_)
                .arrived.load() != stamp_) {
      return false;
    }
  }
  return true;
}

/// Waits until nothing of this call's half is needed any more by what is on its way.
Status Call::wait_sent(Phase phase) {
  transport::Transport& transport = session_.transport();
  if (transport.is_sent(half_)) {
    return {};
  }
  const auto begin = Clock::now();
  auto look = begin + kLook;
  transport.begin_drive();
  WaitResult result;
  while (!transport.is_sent(half_) && result.end == WaitEnd::kArrived) {
    const auto now = Clock::now();
    if (now >= look) {
      look = now + kLook;
      if (session_.options().interrupted && session_.options().interrupted()) {
        result.end = WaitEnd::kInterrupted;
      } else if (now - begin >= timeout_) {
        result.end = WaitEnd::kTimeout;
      }
    }
    if (!transport.drive()) {
      std::this_thread::sleep_for(kPoll);
    }
  }
  transport.end_drive(false);
  result.waited = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begin);
  if (result.end == WaitEnd::kTimeout) {
    for (const int rank : session_.scratch().members) {
      if (!transport.is_sent_to(half_, transport.host_of(rank))) {
        result.ranks.push_back(rank);
      }
    }
  }
  return to_status(std::move(result), phase);
}

}  // namespace waybill::engine
