#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

#include "contract/check.h"
#include "contract/signature.h"
#include "waybill/status.h"
#include "waybill/tensor_view.h"

// What a teardown has to repeat of its setup: every argument that the tables of both have
// (docs/contract/operators.md section 9). Of a tensor that is shape and dtype.
namespace waybill::contract {

/// Checker::fail, but kInvalidState: the argument would be right for another setup.
Status fail_order(const Checker& check,
                  std::string_view argument,
                  const std::string& expected,
                  const std::string& got);

/// A value as errors show it.
inline std::string shown(const TensorView& value) { return describe(value); }
inline std::string shown(std::string_view value) { return "\"" + std::string(value) + "\""; }
template <std::integral Integer>
std::string shown(Integer value) {
  return std::to_string(value);
}

inline bool repeats(const TensorView& before, const TensorView& now) {
  return describe(before) == describe(now);
}
template <typename T>
bool repeats(const T& before, const T& now) {
  return before == now;
}

/// kInvalidState that names the first argument, in the order of the teardown's table, in which
/// `now` differs from `setup`. The tables are those of the two operators.
template <typename SetupTable, typename TeardownTable>
Status check_repeated(const Checker& check,
                      const SetupTable& setup_table,
                      const typename SetupTable::Arguments& setup,
                      const TeardownTable& teardown_table,
                      const typename TeardownTable::Arguments& now) {
  Status found;
  const auto compare = [&]<typename Before, typename Now>(const Before& before, const Now& row) {
    if constexpr (requires { repeats(Before::of(setup), Now::of(now)); }) {
      const auto& first = Before::of(setup);
      const auto& second = Now::of(now);
      if (std::string_view(before.name) == row.name && found.ok() && !repeats(first, second)) {
        found = fail_order(check, row.name, shown(first) + " as in the setup", shown(second));
      }
    }
  };
  signature::for_each_row(teardown_table, [&](const auto& row) {
    signature::for_each_row(setup_table, [&](const auto& before) { compare(before, row); });
  });
  return found;
}

}  // namespace waybill::contract
