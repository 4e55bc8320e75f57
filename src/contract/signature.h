#pragma once

#include <cstdint>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include "contract/operators.h"

// What the tables of signatures.h are made of: a row for each parameter of an operator, in the
// order of its schema. A row names the member of the argument struct that holds the parameter, so
// type and default are those of the member and are not written again. Rows are constants: whoever
// walks over them is unrolled by the compiler and costs what the same statements by hand would.
namespace waybill::contract::signature {

/// How a row belongs to the schema, apart from the type of its member.
enum class Mark : std::uint8_t {
  kInput,     ///< positional, without a default
  kOption,    ///< by keyword; the default is the one of the member
  kWritten,   ///< an option that is a tensor, which the operator writes to
  kSymbolic,  ///< an option that follows BS, which compilers may keep symbolic
};

/// A parameter that a member holds. kPath: the members that lead to it, from the argument struct
/// on.
template <auto... kPath>
struct Parameter {
  const char* name;
  Mark mark = Mark::kInput;

  template <typename Args>
  static constexpr auto& of(Args& args) noexcept {
    return (args.*....*kPath);
  }
};

/// A tensor that stays alive on its own: kOwner is the member that owns it.
template <auto kView, auto kOwner>
struct HeldTensor : Parameter<kView> {
  template <typename Args>
  static constexpr auto& owner_of(Args& args) noexcept {
    return args.*kOwner;
  }
};

/// The name of the group of the call, which no argument struct has.
struct GroupName {
  const char* name;
  Mark mark = Mark::kInput;
};

/// The name of the TP group, empty by default.
struct TpGroupName {
  const char* name;
  Mark mark = Mark::kOption;
};

/// A tensor that nothing reads.
struct UnreadTensor {
  const char* name;
  Mark mark = Mark::kInput;
};

/// A tensor that the operator gives back and does not look into.
struct PassedTensor {
  const char* name;
  Mark mark = Mark::kInput;
};

template <auto... kPath>
constexpr Parameter<kPath...> input(const char* name) noexcept {
  return {name, Mark::kInput};
}
template <auto... kPath>
constexpr Parameter<kPath...> option(const char* name) noexcept {
  return {name, Mark::kOption};
}
template <auto... kPath>
constexpr Parameter<kPath...> written(const char* name) noexcept {
  return {name, Mark::kWritten};
}
template <auto... kPath>
constexpr Parameter<kPath...> symbolic(const char* name) noexcept {
  return {name, Mark::kSymbolic};
}
template <auto kView, auto kOwner>
constexpr HeldTensor<kView, kOwner> held(const char* name) noexcept {
  return {{name, Mark::kInput}};
}

/// The table of one operator. Args: the struct that the rows lead into, with the defaults.
template <typename Args, typename... Rows>
struct Signature {
  using Arguments = Args;
  Operator op;
  std::tuple<Rows...> rows;
};

/// `parts`: rows, or tuples of rows that several operators have alike.
template <typename Args, typename... Parts>
constexpr auto signature(Operator op, const Parts&... parts) noexcept {
  const auto as_tuple = []<typename Part>(const Part& part) {
    if constexpr (requires { std::tuple_size<Part>::value; }) {
      return part;
    } else {
      return std::tuple<Part>(part);
    }
  };
  return []<typename... Rows>(Operator of, std::tuple<Rows...> rows) {
    return Signature<Args, Rows...>{of, rows};
  }(op, std::tuple_cat(as_tuple(parts)...));
}

/// Calls visit(row) for each row, in the order of the schema.
template <typename Table, typename Visit>
constexpr void for_each_row(const Table& table, Visit&& visit) {
  std::apply([&](const auto&... rows) { (visit(rows), ...); }, table.rows);
}

/// Whether the operator writes to one of its arguments.
template <typename Table>
constexpr bool writes(const Table& table) noexcept {
  bool found = false;
  for_each_row(table, [&](const auto& row) { found = found || row.mark == Mark::kWritten; });
  return found;
}

/// The argument that names the group of the call; null for a local operator.
template <typename Table>
constexpr const char* group_argument(const Table& table) noexcept {
  const char* found = nullptr;
  for_each_row(table, [&]<typename Row>(const Row& row) {
    if constexpr (std::is_same_v<Row, GroupName>) {
      found = row.name;
    }
  });
  return found;
}

}  // namespace waybill::contract::signature
