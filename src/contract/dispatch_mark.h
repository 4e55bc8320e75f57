#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "waybill/tensor_view.h"

namespace waybill::contract {

/// Which dispatch some rows are of: the same number on all ranks of the call, kUnmarked where it is
/// not known. The low half is the call's number, the high half mixes its epoch and its group.
using DispatchCall = std::int64_t;

DispatchCall make_dispatch_call(std::uint64_t group,
                                std::uint32_t epoch,
                                std::uint32_t call) noexcept;
/// "call 7".
std::string dispatch_call_text(DispatchCall call);

/// Elements of a mark.
inline constexpr std::int64_t kMarkInts = 6;

/// dispatch leaves a mark in the part of assist_info_for_combine whose content the contract leaves
/// open: behind the first `used` elements, which combine knows, too. The mark carries a sum over
/// some of these elements, so that a list that a program built in a used buffer does not seem
/// marked. Does nothing where `ints` has no room for it, or no element is used: the sum covers
/// nothing then, and a rank without rows has none to mix up.
void write_mark(std::span<std::int32_t> ints, std::int64_t used, DispatchCall call) noexcept;
/// The call that the mark behind the first `used` elements names, else kUnmarked.
DispatchCall read_mark(const TensorView& ints, std::int64_t used) noexcept;

}  // namespace waybill::contract
