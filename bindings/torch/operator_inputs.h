#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "arguments.h"
#include "tensors.h"
#include "waybill/tensor_view.h"

namespace waybill::binding {

/// Takes the arguments of one call in the order of its schema and gives what the library takes:
/// views, numbers, texts, all valid as long as this object. Keeps the first thing that the library
/// cannot take: a tensor on another device, a number too large for its type.
class OperatorInputs {
 public:
  explicit OperatorInputs(const StableIValue* stack) noexcept : arguments_(stack) {}

  /// One that nothing reads, as the token of the ordered form.
  void skip_tensor() { const TorchTensor unread = arguments_.tensor(); }

  TensorView tensor(const char* argument) { return view(argument, arguments_.tensor()); }
  std::optional<TensorView> optional_tensor(const char* argument) {
    auto tensor = arguments_.optional_tensor();
    return tensor ? std::optional<TensorView>(view(argument, std::move(*tensor))) : std::nullopt;
  }
  /// `owner` keeps the tensor alive on its own.
  TensorView shared_tensor(const char* argument, std::shared_ptr<const void>& owner) {
    auto tensor = std::make_shared<TorchTensor>(arguments_.tensor());
    owner = tensor;
    return view_of(argument, *tensor);
  }
  /// The tensor itself, for what is not read but passed on.
  const TorchTensor& raw_tensor() { return keep(arguments_.tensor()); }

  std::int64_t integer() { return arguments_.integer(); }
  std::optional<std::int64_t> optional_integer() { return arguments_.optional_integer(); }
  double real() { return arguments_.real(); }
  int number(const char* argument) {
    const std::int64_t value = arguments_.integer();
    const int narrowed = static_cast<int>(value);
    if (narrowed != value) {
      note(argument, "a number that fits 32 bits", std::to_string(value));
    }
    return narrowed;
  }
  std::string_view text() {
    std::string& text = texts_.at(num_texts_++);
    text = arguments_.text();
    return text;
  }
  /// The argument that names the group of the call, and the one that names the TP group.
  void group() { group_ = text(); }
  void tp_group() { tp_group_ = text(); }
  std::string_view group_name() const noexcept { return group_; }
  std::string_view tp_group_name() const noexcept { return tp_group_; }

  struct Problem {
    const char* argument;
    const char* expected;
    std::string got;
  };
  const std::optional<Problem>& problem() const noexcept { return problem_; }
  void note(const char* argument, const char* expected, std::string got) {
    if (!problem_) {
      problem_ = Problem{argument, expected, std::move(got)};
    }
  }

 private:
  static constexpr std::size_t kMaxTensors = 24;
  static constexpr std::size_t kMaxTexts = 4;

  const TorchTensor& keep(TorchTensor tensor) {
    return tensors_.at(num_tensors_++).emplace(std::move(tensor));
  }
  TensorView view(const char* argument, TorchTensor tensor) {
    return view_of(argument, keep(std::move(tensor)));
  }
  TensorView view_of(const char* argument, const TorchTensor& tensor) {
    auto unreadable = tensor.unreadable();
    if (unreadable) {
      note(argument, unreadable.expected, std::move(unreadable.got));
      return {};
    }
    return tensor.view();
  }

  Arguments arguments_;
  std::array<std::optional<TorchTensor>, kMaxTensors> tensors_;
  std::array<std::string, kMaxTexts> texts_;
  std::size_t num_tensors_ = 0;
  std::size_t num_texts_ = 0;
  std::string_view group_;
  std::string_view tp_group_;
  std::optional<Problem> problem_;
};

}  // namespace waybill::binding
