#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "window/control.h"
#include "window/words.h"

namespace waybill::window {

// What a rank reads of a peer's page where more than one load has to fit together.

/// Copies the header of the call `stamp`; false when the page has that of another call, or its
/// owner changes it meanwhile.
bool read_header(const ControlPage& page, Stamp stamp, CallHeader& header) noexcept;

/// The word `joined`.
struct Joined {
  std::uint32_t attempt;
  ResetStage stage;
};
Joined read_joined(const ControlPage& page) noexcept;

/// The closer that the owner of `page` has accepted in `attempt`; -1 for none.
int accepted_in(const ControlPage& page, std::uint32_t attempt) noexcept;

/// The list that the owner of `page` closed in `attempt`; nothing when it has not, or has gone on
/// to a later attempt and may be writing its next one.
std::optional<ResetList> read_list(const ControlPage& page, std::uint32_t attempt) noexcept;

/// The attempt that began the epoch which the owner of `page` is in; 0: it has concluded none.
std::uint32_t concluded_by(const ControlPage& page) noexcept;

/// One member's part of ResetList::incarnations, which is their exclusive or.
std::uint64_t incarnation_hash(int rank, const ControlPage& page) noexcept;

}  // namespace waybill::window
