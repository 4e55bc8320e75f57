#pragma once

#include <cstdint>
#include <memory>

#include "contract/operators.h"
#include "contract/signatures.h"
#include "errors.h"
#include "groups.h"
#include "operator_inputs.h"
#include "schema.h"

namespace waybill::binding {

/// The TP group of a call that has one; it lives as long as what is returned.
template <typename Args>
std::shared_ptr<NamedGroup> bind_tp_group(OperatorInputs& inputs, Args& args) {
  if constexpr (requires { args.tp_group; }) {
    if (args.tp_world_size == 2) {
      auto tp = find_group("group_tp", inputs.tp_group_name());
      if (!tp.ok() || inputs.tp_group_name() == inputs.group_name()) {
        inputs.note("group_tp",
                    "the name of a group other than group_ep, since tp_world_size is 2",
                    "'" + std::string(inputs.tp_group_name()) + "'");
        return nullptr;
      }
      args.tp_group = &(*tp)->group;
      return *tp;
    }
    return nullptr;
  } else if constexpr (requires { args.combine; }) {
    return bind_tp_group(inputs, args.combine);
  } else {
    return nullptr;
  }
}

inline const Status& as_status(const Status& status) { return status; }
template <typename T>
Status as_status(const Result<T>& result) {
  return result.status();
}

/// What every operator on a group does: reads its arguments, finds the group, calls the library,
/// writes the results.
///
/// Face has: kSignature, the operator's table; Args, the struct of its rows or one that extends it;
/// static Result<...> or Status call(Group&, const Args&); static void put(Results&, ...).
template <typename Face, bool kHasToken>
void call_operator(StableIValue* stack, std::uint64_t /*arguments*/, std::uint64_t /*results*/) {
  OperatorInputs inputs(stack);
  if constexpr (kHasToken) {
    inputs.skip_tensor();
  }
  typename Face::Args args;
  read_arguments(inputs, Face::kSignature, args);
  constexpr contract::Operator kOperator = Face::kSignature.op;
  const char* name = contract::name_of(kOperator);
  auto group = find_group(name, inputs.group_name());
  if (!group.ok()) {
    raise(group.status());
  }
  const std::shared_ptr<NamedGroup> tp = bind_tp_group(inputs, args);
  if (inputs.problem()) {
    const auto& [argument, expected, got] = *inputs.problem();
    raise((*group)->group.refuse(name, argument, expected, got));
  }
  auto result = Face::call((*group)->group, args);
  if (!result.ok()) {
    raise(as_status(result));
  }
  Results results(stack);
  Face::template put<kHasToken>(results, result);
}

}  // namespace waybill::binding
