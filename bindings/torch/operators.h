#pragma once

#include <torch/csrc/stable/library.h>

#include <array>
#include <cstdint>

#include "schema.h"

namespace waybill::binding {

/// A kernel as torch's stable ABI calls it: arguments are taken from the stack, results put there.
using Kernel = void (*)(StableIValue* stack,
                        std::uint64_t num_arguments,
                        std::uint64_t num_results);

/// One operator of the contract. Its parameters are those of its table in contract/signatures.h.
/// One that is a call of a group is registered up to three times:
///
///   npu_x(...)                              the public one, as the schema says
///   _ordered_npu_x(Tensor(a!) token, ...)   for waybill.npu_x: every argument positional
///   _plain_npu_x(...)                       the public one when performance_info is absent, where
///                                           there is one: compilers cannot take an optional
///                                           argument that would be written
///
/// The token is a tensor of the group that nothing reads. A compiler that sees it change keeps the
/// number and the order of the calls of a group.
struct Operator {
  SignatureFacts signature;
  const char* results;
  Kernel kernel;                          ///< of the public operator
  Kernel ordered_kernel = nullptr;        ///< of the one with a token; null for a local operator
  const char* ordered_results = nullptr;  ///< where they differ

  const char* name() const noexcept { return contract::name_of(signature.op); }
};

// dispatch_operator.cc
extern const Operator kDispatch;
extern const Operator kDispatchV2;
// combine_operator.cc
extern const Operator kCombine;
extern const Operator kCombineV2;
extern const Operator kCombineAddRmsNorm;
// setup_operators.cc
extern const Operator kDispatchSetup;
extern const Operator kDispatchTeardown;
extern const Operator kCombineSetup;
extern const Operator kCombineTeardown;
// barrier_operator.cc, expert_operators.cc
extern const Operator kBarrier;
extern const Operator kUpdateExpert;
extern const Operator kEplbUpdateExpert;

/// A further operator is a further entry.
inline const std::array kOperators = {&kDispatch,
                                      &kDispatchV2,
                                      &kCombine,
                                      &kCombineV2,
                                      &kCombineAddRmsNorm,
                                      &kDispatchSetup,
                                      &kDispatchTeardown,
                                      &kCombineSetup,
                                      &kCombineTeardown,
                                      &kBarrier,
                                      &kUpdateExpert,
                                      &kEplbUpdateExpert};

}  // namespace waybill::binding
