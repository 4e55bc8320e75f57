#pragma once

#include <array>
#include <charconv>
#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

#include "contract/operators.h"
#include "contract/signature.h"
#include "operator_inputs.h"
#include "waybill/tensor_view.h"

// From the table of an operator (contract/signatures.h) to what torch knows of it: the text of its
// schema, and the reading of its arguments.
namespace waybill::binding {

/// The forms in which an operator is registered, see operators.h.
enum class Form : std::uint8_t { kPublic, kOrdered, kPlain };

/// What is known of a signature without its types. Holds no memory of its own.
struct SignatureFacts {
  contract::Operator op;
  const char* group;  ///< the argument that names the group; null for a local operator
  bool writes;        ///< to an argument, so that there is a plain form
  std::string (*parameters)(Form);  ///< the schema's text between its parentheses
};

/// The type of a member as a schema writes it.
inline constexpr const char* type_of(const TensorView&) { return "Tensor"; }
inline constexpr const char* type_of(const std::optional<TensorView>&) { return "Tensor?"; }
inline constexpr const char* type_of(int) { return "int"; }
inline constexpr const char* type_of(std::int64_t) { return "int"; }
inline constexpr const char* type_of(const std::optional<std::int64_t>&) { return "int?"; }
inline constexpr const char* type_of(double) { return "float"; }
inline constexpr const char* type_of(std::string_view) { return "str"; }

/// The default as a schema writes it. A tensor that is not optional has none.
inline std::string text_of(const TensorView& /*value*/) { return {}; }
template <std::integral Integer>
std::string text_of(Integer value) {
  return std::to_string(value);
}
inline std::string text_of(std::string_view value) { return "\"" + std::string(value) + "\""; }
inline std::string text_of(double value) {
  std::array<char, 32> digits{};
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
  return std::string(digits.data(), end);
}
/// An optional argument is absent by default.
template <typename T>
std::string text_of(const std::optional<T>&) {
  return "None";
}

/// Type, name and default of a parameter as a form writes them.
template <typename Args, auto... kPath>
std::string declaration(const contract::signature::Parameter<kPath...>& row, Form form) {
  using contract::signature::Mark;
  static const Args kDefaults;
  const auto& fallback = row.of(kDefaults);
  std::string type = type_of(fallback);
  if (row.mark == Mark::kWritten && form != Form::kPlain) {
    type.insert(type.find('?'), form == Form::kOrdered ? "(b!)" : "(a!)");  // a is the token's
  }
  if (row.mark == Mark::kSymbolic && form == Form::kOrdered) {
    type = "SymInt";
  }
  return type + " " + row.name + (row.mark == Mark::kInput ? "" : "=" + text_of(fallback));
}
template <typename Args>
std::string declaration(const contract::signature::GroupName& row, Form /*form*/) {
  return std::string("str ") + row.name;
}
template <typename Args>
std::string declaration(const contract::signature::TpGroupName& row, Form /*form*/) {
  return std::string("str ") + row.name + "=\"\"";
}
template <typename Args>
std::string declaration(const contract::signature::UnreadTensor& row, Form /*form*/) {
  return std::string("Tensor ") + row.name;
}
template <typename Args>
std::string declaration(const contract::signature::PassedTensor& row, Form /*form*/) {
  return std::string("Tensor ") + row.name;
}

/// SignatureFacts::parameters of a table.
template <const auto& kSignature>
std::string parameters(Form form) {
  using Args = typename std::remove_cvref_t<decltype(kSignature)>::Arguments;
  std::string text = form == Form::kOrdered ? "Tensor(a!) token" : "";
  bool keywords = form == Form::kOrdered;  // there every argument is positional
  contract::signature::for_each_row(kSignature, [&](const auto& row) {
    if (row.mark != contract::signature::Mark::kInput && !keywords) {
      text += ", *";
      keywords = true;
    }
    text += (text.empty() ? "" : ", ") + declaration<Args>(row, form);
  });
  return text;
}

template <const auto& kSignature>
constexpr SignatureFacts facts_of() noexcept {
  return {.op = kSignature.op,
          .group = contract::signature::group_argument(kSignature),
          .writes = contract::signature::writes(kSignature),
          .parameters = parameters<kSignature>};
}

inline void read_value(OperatorInputs& in, const char* name, TensorView& value) {
  value = in.tensor(name);
}
inline void read_value(OperatorInputs& in, const char* name, std::optional<TensorView>& value) {
  value = in.optional_tensor(name);
}
inline void read_value(OperatorInputs& in, const char* name, int& value) {
  value = in.number(name);
}
inline void read_value(OperatorInputs& in, const char* /*name*/, std::int64_t& value) {
  value = in.integer();
}
inline void read_value(OperatorInputs& in,
                       const char* /*name*/,
                       std::optional<std::int64_t>& value) {
  value = in.optional_integer();
}
inline void read_value(OperatorInputs& in, const char* /*name*/, double& value) {
  value = in.real();
}
inline void read_value(OperatorInputs& in, const char* /*name*/, std::string_view& value) {
  value = in.text();
}

template <typename Args, auto... kPath>
void read_row(OperatorInputs& in, const contract::signature::Parameter<kPath...>& row, Args& args) {
  read_value(in, row.name, row.of(args));
}
template <typename Args, auto kView, auto kOwner>
void read_row(OperatorInputs& in,
              const contract::signature::HeldTensor<kView, kOwner>& row,
              Args& args) {
  row.of(args) = in.shared_tensor(row.name, row.owner_of(args));
}
template <typename Args>
void read_row(OperatorInputs& in, const contract::signature::GroupName& /*row*/, Args& /*args*/) {
  in.group();
}
template <typename Args>
void read_row(OperatorInputs& in, const contract::signature::TpGroupName& /*row*/, Args& /*args*/) {
  in.tp_group();
}
template <typename Args>
void read_row(OperatorInputs& in,
              const contract::signature::UnreadTensor& /*row*/,
              Args& /*args*/) {
  in.skip_tensor();
}
template <typename Args>
void read_row(OperatorInputs& in, const contract::signature::PassedTensor& /*row*/, Args& args) {
  args.passed_on = &in.raw_tensor();
}

/// Takes the arguments of one call, in the order of the table, which is that of the schema.
template <typename Table, typename Args>
void read_arguments(OperatorInputs& in, const Table& table, Args& args) {
  contract::signature::for_each_row(table, [&](const auto& row) { read_row(in, row, args); });
}

}  // namespace waybill::binding
