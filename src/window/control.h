#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "contract/agreement.h"
#include "window/identity.h"
#include "window/words.h"

namespace waybill::window {

inline constexpr std::size_t kRefusalNameBytes = 64;
inline constexpr std::size_t kRefusalTextBytes = 1024;

/// CallHeader::refused: the arguments are bad; or a group that the call depends on has failed, and
/// every member needs a reset.
inline constexpr std::uint32_t kRefusedArguments = 1;
inline constexpr std::uint32_t kFailedElsewhere = 2;

/// What a rank publishes of one call: its arguments and the sizes of what lies in its half, from
/// which every reader computes the same layout. Or that it is refused. It begins with a cache line
/// of its own: each line that it touches has to come from its writer's core.
struct alignas(64) CallHeader {
  Stamp stamp = 0;             ///< epoch and number of the call
  std::uint32_t refused = 0;   ///< kRefusedArguments or kFailedElsewhere: no data, only a Refusal
  std::uint32_t weighted = 0;  ///< dispatch: expert_scales are published
  std::uint32_t exceeds_share = 0;  ///< dispatch: some rank gets more than maxBS*min(L,K) rows
  std::uint32_t in_pool = 0;        ///< combine: the rows lie in the pool, not in the half
  std::uint32_t completed = 0;      ///< calls that ended well on this rank, for errors
  std::int32_t most_rows = 0;       ///< dispatch: the most rows that this rank sends to one rank
  /// dispatch: how many rows this rank has memory for. Where that is less than A, the refusal
  /// beside this header says why, although `refused` is 0.
  std::int32_t rows_limit = std::numeric_limits<std::int32_t>::max();
  std::uint8_t says_limit = 0;     ///< a text about rows_limit or mirror_limit lies there
  std::uint8_t has_checksums = 0;  ///< checked mode: of the rows
  std::uint8_t is_mirrored = 0;    ///< to ranks of another host: something travels to them
  // Over hosts, in granules: what a rank publishes takes memory of those that receive it for other
  // hosts, see transport/mirrors.h.
  std::int32_t mirror_claim = 0;  ///< the most memory that this half takes on one other host
  std::int32_t mirror_span = 0;   ///< the same of address space
  /// What this rank has for all that it receives for its host: memory, memory beside that for
  /// rows_limit rows, address space.
  std::int32_t mirror_limit = std::numeric_limits<std::int32_t>::max();
  std::int32_t mirror_beside = std::numeric_limits<std::int32_t>::max();
  std::int32_t mirror_span_limit = std::numeric_limits<std::int32_t>::max();
  std::int64_t bs = 0;
  std::int64_t num_entries = 0;   ///< (t,k) pairs sent, or rows returned
  std::int64_t num_active = 0;    ///< tokens sent to shared experts
  std::int64_t num_rows = 0;      ///< rows published
  std::int64_t pool_offset = 0;   ///< of row 0, when in_pool
  std::int64_t checked_end = -1;  ///< checked mode: end of the layout, else -1
  contract::Agreement agreement;
};
static_assert(sizeof(CallHeader) == 320 && std::is_trivially_copyable_v<CallHeader>);

/// Why a header is refused, what limits its rows, or why its rank left. Apart from the header:
/// every call moves the header from core to core.
struct Refusal {
  std::array<char, kRefusalNameBytes> argument{};
  std::array<char, kRefusalTextBytes> text{};
};

/// Largest group; bounds the list of a reset.
inline constexpr int kMaxRanks = 1024;

enum class ResetStage : std::uint32_t {
  kOutside = 0,    ///< not in a reset
  kGathering = 1,  ///< waits for others to come
  kClosed = 2,     ///< has published or accepted a list
  kConcluded = 3,  ///< the list held; the new epoch has begun
  kGaveUp = 4,     ///< reset ended with an error
};

/// A rank's part of the agreement on who is there. Attempts are numbered through the life of the
/// group; attempt a, if its list holds, starts epoch a + 1.
struct ResetPosts {
  Word joined;        ///< attempt in the high half, ResetStage in the low half
  Word call;          ///< number of this rank's last call
  Word list;          ///< closer: attempt in the high half, common call number in the low half
  Word accepted;      ///< attempt in the high half, accepted closer + 1 in the low half
  Word incarnations;  ///< closer: a hash over the members and their incarnations
  std::array<std::atomic<std::uint64_t>, kMaxRanks / 64> members{};  ///< closer: a bit a rank
};

/// The list of an attempt, as its closer posts it and as others read it.
struct ResetList {
  std::array<std::uint64_t, kMaxRanks / 64> members{};  ///< a bit a rank
  std::uint32_t call = 0;                               ///< common number of the last call
  std::uint64_t incarnations = 0;  ///< a hash over the members and their incarnations

  bool has(int rank) const noexcept {
    return (members[static_cast<std::size_t>(rank / 64)] >> (rank % 64) & 1) != 0;
  }
  void add(int rank) noexcept {
    members[static_cast<std::size_t>(rank / 64)] |= std::uint64_t{1} << (rank % 64);
  }
};

/// The page of a rank that never moves. Board (window/board.h) writes it. Peers map it read-only. A
/// new process under an old rank brings a new page, which peers take at a change of epoch.
struct ControlPage {
  Identity identity;
  Word signalled;  ///< all that this call publishes is there
  Word done;       ///< this rank's last read of the call is over, also when it failed
  /// This rank makes no call of the epoch from this one on: what it published of this very call may
  /// be overwritten, and `departure` says why.
  Word left;
  Word released;     ///< not 0 once this rank has released the group: as good as ended for others
  Word asleep;       ///< not 0 while this rank sleeps on a peer's word
  Word newcomer;     ///< not 0 until a process that came back is in its first epoch
  Word call;         ///< epoch and number of the call that this rank makes or last made
  Word waits_for;    ///< of a wait that sleeps: missing ranks, high half, and the first one + 1
  Word phase;        ///< Phase in the high half, operator in the low half: for people
  Word phase_since;  ///< when the phase began, nanoseconds of CLOCK_MONOTONIC
  ResetPosts reset;
  /// Of a rank that receives for its host: where in its pool the table of MirrorSlot is, + 1.
  std::atomic<std::int64_t> mirrors{0};
  alignas(64) std::array<CallHeader, 2> headers;
  alignas(64) std::array<Refusal, 2> refusals;
  Refusal departure;  ///< written before `left`, once an epoch
};
static_assert(std::is_standard_layout_v<ControlPage>);
inline constexpr std::size_t kResetPosts = offsetof(ControlPage, reset);

}  // namespace waybill::window
