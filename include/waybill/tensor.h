#pragma once

#include <cstddef>
#include <utility>

#include "waybill/dtype.h"
#include "waybill/tensor_view.h"

namespace waybill {

namespace window {
struct Block;
}

/// A counted reference to memory of a group's pool. The memory goes back to the pool when the last
/// reference goes, from any thread, also after the group itself is gone; until then nothing
/// overwrites it. In a process that was forked the destructor does nothing.
class Buffer {
 public:
  Buffer() noexcept = default;
  /// Takes over one reference.
  explicit Buffer(window::Block* block) noexcept : block_(block) {}
  Buffer(const Buffer& other) noexcept;
  Buffer(Buffer&& other) noexcept : block_(std::exchange(other.block_, nullptr)) {}
  Buffer& operator=(Buffer other) noexcept {
    std::swap(block_, other.block_);
    return *this;
  }
  ~Buffer();

  std::byte* data() const noexcept;
  explicit operator bool() const noexcept { return block_ != nullptr; }
  /// Gives the reference away as a plain pointer (for C deleters); `Buffer(p)` takes it back.
  window::Block* release() noexcept { return std::exchange(block_, nullptr); }

 private:
  window::Block* block_ = nullptr;
};

/// An output: contiguous, owned through `buffer`.
/// Rows that a call did not write are address space without memory behind it.
struct Tensor {
  Buffer buffer;
  DType dtype = DType::kFloat32;
  Dims shape;

  template <typename T>
  T* data() const noexcept {
    return reinterpret_cast<T*>(buffer.data());
  }
  TensorView view() const noexcept { return TensorView::contiguous(buffer.data(), dtype, shape); }
};

}  // namespace waybill
