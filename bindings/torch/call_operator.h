#pragma once

#include <cstdint>
#include <exception>
#include <new>
#include <stdexcept>

#include "arguments.h"
#include "contract/operators.h"
#include "errors.h"
#include "groups.h"
#include "inputs.h"

namespace waybill::binding {

/// What every operator on a group does: reads its arguments into a Values, finds the group, turns
/// them into the library's Args, calls, and writes the results.
///
/// Values has: Values(Arguments&) reading in the order of the schema; `group_ep`; Args
/// args(Inputs&) borrowing from it; static Result<...> call(Group&, const Args&); static void
/// put(Results&, ...).
template <typename Values, contract::Operator kOperator, bool kHasToken>
void call_operator(StableIValue* stack, std::uint64_t /*arguments*/, std::uint64_t /*results*/) {
  Arguments arguments(stack);
  if constexpr (kHasToken) {
    const TorchTensor token = arguments.tensor();
  }
  const Values values(arguments);
  auto group = find_group(contract::name_of(kOperator), values.group_ep);
  if (!group.ok()) {
    raise(group.status());
  }
  Inputs inputs;
  const auto args = values.args(inputs);
  if (inputs.problem()) {
    const auto& [argument, expected, got] = *inputs.problem();
    raise(refuse((*group)->group, kOperator, argument, expected, got));
  }
  auto result = Values::call((*group)->group, args);
  if (!result.ok()) {
    raise(result.status());
  }
  Results results(stack);
  Values::put(results, std::move(*result));
}

}  // namespace waybill::binding
