#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "window/control.h"

namespace waybill::engine {

/// What a rank posts in `joined`, from one load: attempt and stage belong together.
struct Joined {
  std::uint32_t attempt;
  window::ResetStage stage;
};
Joined read_joined(const window::ControlPage& page) noexcept;
void post_joined(window::ControlPage& page,
                 std::uint32_t attempt,
                 window::ResetStage stage) noexcept;

/// The closer that a rank has accepted in `attempt`, -1 for none.
int accepted_in(const window::ControlPage& page, std::uint32_t attempt) noexcept;
void post_accepted(window::ControlPage& page, std::uint32_t attempt, int closer) noexcept;

/// A list as its closer posted it.
struct ResetList {
  std::array<std::uint64_t, window::kMaxRanks / 64> members{};
  std::uint32_t call = 0;          ///< common number of the last call
  std::uint64_t incarnations = 0;  ///< a hash over the members and their incarnations

  bool has(int rank) const noexcept {
    return (members[static_cast<std::size_t>(rank / 64)] >> (rank % 64) & 1) != 0;
  }
  void add(int rank) noexcept {
    members[static_cast<std::size_t>(rank / 64)] |= std::uint64_t{1} << (rank % 64);
  }
};

/// The list that the owner of `page` closed in `attempt`; nothing when it has not, or has gone on
/// to a later attempt and may be writing its next one.
std::optional<ResetList> read_list(const window::ControlPage& page, std::uint32_t attempt) noexcept;
void post_list(window::ControlPage& page, std::uint32_t attempt, const ResetList& list) noexcept;

/// One member's part of ResetList::incarnations, which is their exclusive or.
std::uint64_t incarnation_hash(int rank, const window::ControlPage& page) noexcept;

}  // namespace waybill::engine
