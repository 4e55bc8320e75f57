#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "tensors.h"

namespace waybill::binding {

/// Turns what torch passed into what the library takes, and keeps the first thing that it cannot
/// take: on another device, too large for its type.
class Inputs {
 public:
  TensorView view(const char* argument, const TorchTensor& tensor) {
    auto unreadable = tensor.unreadable();
    if (unreadable) {
      note(argument, unreadable.expected, std::move(unreadable.got));
      return {};
    }
    return tensor.view();
  }

  std::optional<TensorView> view(const char* argument, const std::optional<TorchTensor>& tensor) {
    return tensor ? std::optional<TensorView>(view(argument, *tensor)) : std::nullopt;
  }

  int narrow(const char* argument, std::int64_t value) {
    const int narrowed = static_cast<int>(value);
    if (narrowed != value) {
      note(argument, "a number that fits 32 bits", std::to_string(value));
    }
    return narrowed;
  }

  struct Problem {
    const char* argument;
    const char* expected;
    std::string got;
  };
  const std::optional<Problem>& problem() const noexcept { return problem_; }

 private:
  void note(const char* argument, const char* expected, std::string got) {
    if (!problem_) {
      problem_ = Problem{argument, expected, std::move(got)};
    }
  }

  std::optional<Problem> problem_;
};

}  // namespace waybill::binding
