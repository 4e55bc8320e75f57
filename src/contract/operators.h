#pragma once

#include <cstdint>

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

constexpr const char* name_of(Operator op) noexcept {
  switch (op) {
    case Operator::kDispatchV2:
      return "npu_moe_distribute_dispatch_v2";
    case Operator::kCombineV2:
      return "npu_moe_distribute_combine_v2";
    case Operator::kDispatch:
      return "npu_moe_distribute_dispatch";
    case Operator::kCombine:
      return "npu_moe_distribute_combine";
    case Operator::kCombineAddRmsNorm:
      return "npu_moe_distribute_combine_add_rms_norm";
    case Operator::kDispatchSetup:
      return "npu_moe_distribute_dispatch_setup";
    case Operator::kDispatchTeardown:
      return "npu_moe_distribute_dispatch_teardown";
    case Operator::kCombineSetup:
      return "npu_moe_distribute_combine_setup";
    case Operator::kCombineTeardown:
      return "npu_moe_distribute_combine_teardown";
    case Operator::kBarrier:
      return "_npu_distribute_barrier";
    case Operator::kUpdateExpert:
      return "npu_moe_update_expert";
    case Operator::kEplbUpdateExpert:
      return "npu_moe_eplb_update_expert";
    case Operator::kNone:
      break;
  }
  return "an unknown operator";
}

/// The name that `op` has for what says where rows belong.
constexpr const char* index_argument(Operator op) noexcept {
  return op == Operator::kCombineV2 ? "assist_info_for_combine" : "expand_idx";
}

}  // namespace waybill::contract
