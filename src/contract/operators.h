#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace waybill::contract {

/// The operators. The values of those that are calls of a group travel in headers: never renumber.
enum class Operator : std::uint32_t {
  kNone = 0,
  kDispatchV2 = 1,
  kCombineV2 = 2,
  kDispatch = 3,
  kCombine = 4,
  kCombineAddRmsNorm = 5,
  kDispatchSetup = 6,
  kDispatchTeardown = 7,
  kCombineSetup = 8,
  kCombineTeardown = 9,
  kBarrier = 10,
  kUpdateExpert = 11,
  kEplbUpdateExpert = 12,
};

struct OperatorName {
  Operator op;
  const char* name;
};

/// Every operator with its name, in the order in which people read of them.
inline constexpr std::array kOperatorNames = {
    OperatorName{Operator::kDispatch, "npu_moe_distribute_dispatch"},
    OperatorName{Operator::kDispatchV2, "npu_moe_distribute_dispatch_v2"},
    OperatorName{Operator::kCombine, "npu_moe_distribute_combine"},
    OperatorName{Operator::kCombineV2, "npu_moe_distribute_combine_v2"},
    OperatorName{Operator::kCombineAddRmsNorm, "npu_moe_distribute_combine_add_rms_norm"},
    OperatorName{Operator::kDispatchSetup, "npu_moe_distribute_dispatch_setup"},
    OperatorName{Operator::kDispatchTeardown, "npu_moe_distribute_dispatch_teardown"},
    OperatorName{Operator::kCombineSetup, "npu_moe_distribute_combine_setup"},
    OperatorName{Operator::kCombineTeardown, "npu_moe_distribute_combine_teardown"},
    OperatorName{Operator::kBarrier, "_npu_distribute_barrier"},
    OperatorName{Operator::kUpdateExpert, "npu_moe_update_expert"},
    OperatorName{Operator::kEplbUpdateExpert, "npu_moe_eplb_update_expert"},
};

constexpr const char* name_of(Operator op) noexcept {
  for (const OperatorName& entry : kOperatorNames) {
    if (entry.op == op) {
      return entry.name;
    }
  }
  return "an unknown operator";
}

/// kNone for a name that no operator has.
constexpr Operator operator_named(std::string_view name) noexcept {
  for (const OperatorName& entry : kOperatorNames) {
    if (name == entry.name) {
      return entry.op;
    }
  }
  return Operator::kNone;
}

/// The name that `op` has for what says where rows belong.
constexpr const char* index_argument(Operator op) noexcept {
  return op == Operator::kCombineV2 ? "assist_info_for_combine" : "expand_idx";
}

}  // namespace waybill::contract
