#include "engine/mirror_demand.h"

#include <algorithm>
#include <limits>
#include <string>

#include "base/errors.h"
#include "transport/hosts.h"
#include "window/region.h"

namespace waybill::engine {
namespace {

using window::CallHeader;
using window::kGranule;

constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();

std::int32_t saturated(std::int64_t value) noexcept {
  return static_cast<std::int32_t>(std::clamp<std::int64_t>(value, 0, kMost));
}

/// What a member has, what all want of it, and what that is.
struct Excess {
  std::int64_t limit;
  std::int64_t wanted;
  const char* what;
  const char* advice;
};

}  // namespace

bool MirrorDemand::say(const transport::MirrorRoom& room, CallHeader& header) noexcept {
  constexpr std::int64_t kPlenty = 64;  // for each granule that is held
  constexpr std::int64_t kLeast = (std::int64_t{64} << 20) / kGranule;
  header.mirror_limit = saturated(room.held + room.left);
  header.mirror_beside =
      saturated(room.held + std::min<std::int64_t>(room.left, header.mirror_beside));
  header.mirror_span_limit = saturated(room.span);
  return std::min(room.left, room.span) >= std::max(kPlenty * room.held, kLeast);
}

void MirrorDemand::claim(std::int64_t granules, std::int64_t bytes, CallHeader& header) noexcept {
  header.mirror_claim = std::max(header.mirror_claim, saturated(granules));
  header.mirror_span = std::max(header.mirror_span, saturated((bytes + kGranule - 1) / kGranule));
}

/// What ranks of other hosts want of a member.
MirrorDemand::Want MirrorDemand::of(int member) const {
  const int host = transport_.host_of(roll_.rank_of(member));
  Want want;
  for (int r = 0; r < roll_.size(); ++r) {
    const CallHeader& header = roll_.header_of(r);
    const int rank = roll_.rank_of(r);
    if (transport_.host_of(rank) != host && header.mirror_span > 0 &&
        transport::agent_of(roll_.members(), transport_.hosts(), rank, host) ==
            roll_.rank_of(member)) {
      want.claim += header.mirror_claim;
      want.span += header.mirror_span;
    }
  }
  return want;
}

std::int64_t MirrorDemand::beside(int member) const {
  const std::int64_t has = roll_.header_of(member).mirror_beside;
  return all_.claim <= has ? 0 : std::max<std::int64_t>(of(member).claim - has, 0);
}

Status MirrorDemand::check(const contract::Checker& checker, std::size_t half) {
  all_ = {};
  std::int64_t least = kMost;
  std::int64_t least_span = kMost;
  for (int r = 0; r < roll_.size(); ++r) {
    const CallHeader& header = roll_.header_of(r);
    all_.claim += header.mirror_claim;
    all_.span += header.mirror_span;
    least = std::min<std::int64_t>(least, header.mirror_limit);
    least_span = std::min<std::int64_t>(least_span, header.mirror_span_limit);
  }
  if (all_.claim <= least && all_.span <= least_span) {
    return {};
  }
  for (int r = 0; r < roll_.size(); ++r) {
    const CallHeader& header = roll_.header_of(r);
    const Want want = of(r);
    const bool memory = want.claim > header.mirror_limit;
    if (!memory && want.span <= header.mirror_span_limit) {
      continue;
    }
    const Excess excess =
        memory ? Excess{header.mirror_limit, want.claim, "memory", ""}
               : Excess{header.mirror_span_limit,
                        want.span,
                        "address space",
                        "; outputs fill its pool (WAYBILL_WINDOW_BYTES): to keep what came, hold "
                        "rows.clone() in its place"};
    const std::string name = contract::name_of(checker.op());
    const std::string why = roll_.limit_text(r, half);
    return error(StatusCode::kOutOfMemory,
                 name,
                 "",
                 name + ": out of memory: expected what rank " + std::to_string(roll_.rank_of(r)) +
                     " receives for its host to take at most " +
                     std::to_string(excess.limit * kGranule) + " bytes of " + excess.what +
                     ", got " + std::to_string(excess.wanted * kGranule) +
                     (why.empty() ? "" : ": " + why) + excess.advice,
                 {roll_.rank_of(r)});
  }
  return {};
}

}  // namespace waybill::engine
