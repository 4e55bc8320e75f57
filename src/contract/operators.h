#pragma once

#include <cstdint>

namespace waybill::contract {

/// Operators that are calls of a group. The values travel in headers: never renumber.
enum class Operator : std::uint32_t {
  kNone = 0,
  kDispatchV2 = 1,
  kCombineV2 = 2,
};

constexpr const char* name_of(Operator op) noexcept {
  switch (op) {
    case Operator::kDispatchV2:
      return "npu_moe_distribute_dispatch_v2";
    case Operator::kCombineV2:
      return "npu_moe_distribute_combine_v2";
    case Operator::kNone:
      break;
  }
  return "an unknown operator";
}

}  // namespace waybill::contract
