#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <string>
#include <utility>

#include "waybill/dtype.h"
#include "waybill/tensor.h"
#include "waybill/tensor_view.h"

namespace waybill::binding {

/// Owns one reference to a torch tensor.
class TorchTensor {
 public:
  explicit TorchTensor(AtenTensorHandle handle) noexcept : handle_(handle) {}
  TorchTensor(TorchTensor&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  TorchTensor& operator=(TorchTensor&&) = delete;
  ~TorchTensor();

  AtenTensorHandle get() const noexcept { return handle_; }
  /// Gives the reference away.
  AtenTensorHandle release() noexcept { return std::exchange(handle_, nullptr); }

  /// Why the library cannot read it ("a tensor on the CPU", "one on cuda"), or nothing.
  struct Unreadable {
    const char* expected = nullptr;
    std::string got;
    explicit operator bool() const noexcept { return expected != nullptr; }
  };
  Unreadable unreadable() const;
  /// Only when it is readable. Borrows: valid as long as this object.
  TensorView view() const;

 private:
  AtenTensorHandle handle_;
};

/// A torch tensor on the memory of `tensor`, which goes back to its pool with the last reference.
/// No copy.
TorchTensor to_torch(Tensor tensor);

/// A new contiguous tensor of torch's own memory; `data` is where it begins.
TorchTensor new_tensor(DType dtype, const Dims& shape, void*& data);

/// A new tensor with the same contents, wherever it lives.
TorchTensor copy_of(const TorchTensor& tensor);

/// The library's name for torch's number of a dtype, and back.
DType dtype_of(std::int32_t torch_dtype) noexcept;
std::int32_t torch_dtype_of(DType dtype) noexcept;

}  // namespace waybill::binding
