#pragma once

#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <optional>
#include <string>

#include "tensors.h"

namespace waybill::binding {

/// Reads the arguments of an operator in the order of its schema, taking what they own. All have to
/// be read, or they leak.
class Arguments {
 public:
  explicit Arguments(const StableIValue* stack) noexcept : next_(stack) {}

  TorchTensor tensor() {
    return TorchTensor(torch::stable::detail::to<AtenTensorHandle>(*next_++));
  }

  std::optional<TorchTensor> optional_tensor() {
    const auto handle = torch::stable::detail::to<std::optional<AtenTensorHandle>>(*next_++);
    return handle ? std::optional<TorchTensor>(TorchTensor(*handle)) : std::nullopt;
  }

  std::int64_t integer() { return torch::stable::detail::to<std::int64_t>(*next_++); }

  std::optional<std::int64_t> optional_integer() {
    return torch::stable::detail::to<std::optional<std::int64_t>>(*next_++);
  }

  double real() { return torch::stable::detail::to<double>(*next_++); }

  /// torch's own conversion to std::string leaks it.
  std::string text() {
    const auto handle = torch::stable::detail::to<StringHandle>(*next_++);
    const char* data = nullptr;
    std::size_t length = 0;
    STABLE_TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
    STABLE_TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &data));
    std::string text(data, length);
    STABLE_TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
    return text;
  }

  /// torch's number of a dtype.
  std::int32_t dtype() { return torch::stable::detail::to<std::int32_t>(*next_++); }

 private:
  const StableIValue* next_;
};

/// Writes the results of an operator over its arguments, which have been read.
class Results {
 public:
  explicit Results(StableIValue* stack) noexcept : next_(stack) {}
  void add(Tensor tensor) { add(to_torch(std::move(tensor))); }
  void add(TorchTensor tensor) { *next_++ = torch::stable::detail::from(tensor.release()); }

 private:
  StableIValue* next_;
};

}  // namespace waybill::binding
