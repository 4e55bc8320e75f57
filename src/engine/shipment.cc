#include "engine/shipment.h"

#include <algorithm>

#include "engine/mirror_demand.h"
#include "transport/hosts.h"
#include "window/checks.h"

namespace waybill::engine {

using window::CallHeader;

Shipment::Shipment(transport::Transport& transport, int rank)
    : transport_(transport), others_(transport.other_hosts()), rank_(rank) {}

/// The one of the members on `host` that receives what this rank sends, or -1.
int Shipment::mark_members_on(const RollCall& roll, int host) {
  on_host_.clear();
  for (const int rank : roll.members()) {
    on_host_.push_back(transport_.host_of(rank) == host ? 1 : 0);
  }
  return transport::agent_of(roll.members(), transport_.hosts(), rank_, host);
}

void Shipment::send(const RollCall& roll,
                    CallHeader& header,
                    const std::byte* half,
                    Describe describe) {
  if (others_ == nullptr) {
    return;
  }
  headers_.assign(static_cast<std::size_t>(transport_.num_hosts()), header);
  for (int host = 0; host < transport_.num_hosts(); ++host) {
    if (host == transport_.own_host()) {
      continue;
    }
    CallHeader& theirs = headers_[static_cast<std::size_t>(host)];
    parcel_.extents.clear();
    parcel_.agent = mark_members_on(roll, host);
    parcel_.mirrored_bytes = 0;
    if (describe && theirs.refused == 0 && parcel_.agent >= 0) {
      const std::int64_t end = describe(on_host_, theirs, parcel_);
      parcel_.mirrored_bytes = end;
      if (theirs.checked_end >= 0) {
        add_tail(theirs, half, end);
        theirs.checked_end = end;
      }
    }
    parcel_.stamp = header.stamp;
    theirs.is_mirrored = parcel_.mirrored_bytes > 0 ? 1 : 0;
    if (parcel_.mirrored_bytes > 0) {
      MirrorDemand::claim(others_->send(window::half_of_call(header.stamp), parcel_),
                          parcel_.mirrored_bytes,
                          header);
    }
  }
  for (int host = 0; host < transport_.num_hosts(); ++host) {
    CallHeader& theirs = headers_[static_cast<std::size_t>(host)];
    theirs.mirror_claim = header.mirror_claim;
    theirs.mirror_span = header.mirror_span;
    if (host != transport_.own_host()) {
      others_->set_header(host, theirs);
    }
  }
}

/// Checked mode: checksums and canary travel, too, behind a layout that ends at `end`.
void Shipment::add_tail(const CallHeader& header, const std::byte* half, std::int64_t end) {
  const auto from = window::CheckedTail::of(header.checked_end, header.num_rows);
  const auto to = window::CheckedTail::of(end, header.num_rows);
  parcel_.extents.push_back(
      {half + from.checksums.offset, to.checksums.offset, to.checksums.bytes});
  parcel_.extents.push_back({half + from.canary.offset, to.canary.offset, to.canary.bytes});
  parcel_.mirrored_bytes = to.end;
}

void Shipment::cancel(window::Stamp call) {
  if (others_ != nullptr) {
    others_->cancel(window::half_of_call(call));
  }
}

void Shipment::expect(const RollCall& roll) {
  agents_.assign(roll.members().size(), -1);
  arriving_.clear();
  for (int member = 0; member < roll.size(); ++member) {
    const int rank = roll.rank_of(member);
    if (transport_.is_remote(rank) && roll.header_of(member).is_mirrored != 0) {
      agents_[static_cast<std::size_t>(member)] =
          transport::agent_of(roll.members(), transport_.hosts(), rank, transport_.own_host());
      arriving_.push_back(rank);
    }
  }
}

int Shipment::agent_of(const RollCall& roll, int rank) const noexcept {
  const auto at = std::find(roll.members().begin(), roll.members().end(), rank);
  return agents_[static_cast<std::size_t>(at - roll.members().begin())];
}

const window::Word& Shipment::arrival_of(const RollCall& roll, int rank, window::Stamp call) const {
  return others_->slot(agent_of(roll, rank), rank, window::half_of_call(call)).arrived;
}

bool Shipment::stands(const RollCall& roll, window::Stamp call) const {
  for (std::size_t member = 0; member < agents_.size(); ++member) {
    const int rank = roll.rank_of(static_cast<int>(member));
    if (agents_[member] >= 0 &&
        others_->slot(agents_[member], rank, window::half_of_call(call)).arrived.load() != call) {
      return false;
    }
  }
  return true;
}

Status Shipment::attach(const RollCall& roll, window::Stamp call) {
  for (std::size_t member = 0; member < agents_.size(); ++member) {
    const int rank = roll.rank_of(static_cast<int>(member));
    if (agents_[member] >= 0) {
      Status status = others_->attach(agents_[member], rank, window::half_of_call(call));
      if (!status.ok()) {
        std::fill(agents_.begin() + static_cast<std::ptrdiff_t>(member), agents_.end(), -1);
        return status;
      }
    }
  }
  return {};
}

}  // namespace waybill::engine
