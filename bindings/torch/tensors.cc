#include "tensors.h"

#include <torch/csrc/stable/c/shim.h>

#include <array>
#include <stdexcept>
#include <tuple>

namespace waybill::binding {
namespace {

/// The shim's functions say why they failed only to torch's log.
void check(AOTITorchError error, const char* what) {
  if (error != AOTI_TORCH_SUCCESS) {
    throw std::runtime_error(std::string("waybill: torch failed to give ") + what);
  }
}

struct DTypePair {
  std::int32_t torch;
  DType dtype;
};

/// Torch numbers its dtypes at run time.
const auto& dtypes() {
  static const std::array kPairs = {
      DTypePair{aoti_torch_dtype_bfloat16(), DType::kBFloat16},
      DTypePair{aoti_torch_dtype_float16(), DType::kFloat16},
      DTypePair{aoti_torch_dtype_float32(), DType::kFloat32},
      DTypePair{aoti_torch_dtype_int8(), DType::kInt8},
      DTypePair{aoti_torch_dtype_int32(), DType::kInt32},
      DTypePair{aoti_torch_dtype_int64(), DType::kInt64},
      DTypePair{aoti_torch_dtype_bool(), DType::kBool},
      DTypePair{aoti_torch_dtype_float64(), DType::kFloat64},
      DTypePair{aoti_torch_dtype_int16(), DType::kInt16},
      DTypePair{aoti_torch_dtype_uint8(), DType::kUInt8},
      DTypePair{aoti_torch_dtype_float8_e4m3fn(), DType::kFloat8E4M3Fn},
      DTypePair{aoti_torch_dtype_float8_e5m2(), DType::kFloat8E5M2},
      DTypePair{aoti_torch_dtype_complex64(), DType::kComplex64},
  };
  return kPairs;
}

/// Deleter of outputs: gives the reference back to the buffer it came from.
void give_back(void* /*data*/, void* block) { Buffer{static_cast<window::Block*>(block)}; }

Dims to_dims(const std::int64_t* values, std::int64_t count) {
  switch (count) {
    case 0:
      return {};
    case 1:
      return {values[0]};
    case 2:
      return {values[0], values[1]};
    default:
      return {values[0], values[1], values[2]};
  }
}

std::string device_name(std::int32_t type) {
  if (type == aoti_torch_device_type_cuda()) {
    return "cuda";
  }
  if (type == aoti_torch_device_type_meta()) {
    return "meta";
  }
  return "another device";
}

}  // namespace

DType dtype_of(std::int32_t torch_dtype) noexcept {
  for (const auto& [torch, dtype] : dtypes()) {
    if (torch == torch_dtype) {
      return dtype;
    }
  }
  return DType::kOther;
}

std::int32_t torch_dtype_of(DType dtype) noexcept {
  for (const auto& [torch, own] : dtypes()) {
    if (own == dtype) {
      return torch;
    }
  }
  return aoti_torch_dtype_uint8();
}

TorchTensor::~TorchTensor() {
  if (handle_ != nullptr) {
    std::ignore = aoti_torch_delete_tensor_object(handle_);
  }
}

TorchTensor::Unreadable TorchTensor::unreadable() const {
  static const std::int32_t kCpu = aoti_torch_device_type_cpu();
  static const std::int32_t kStrided = aoti_torch_layout_strided();
  std::int32_t device = 0;
  std::int32_t layout = 0;
  check(aoti_torch_get_device_type(handle_, &device), "a device");
  check(aoti_torch_get_layout(handle_, &layout), "a layout");
  if (device != kCpu) {
    return {"a tensor on the CPU", "one on " + device_name(device)};
  }
  if (layout != kStrided) {
    return {"a strided tensor", "a sparse one"};
  }
  return {};
}

TensorView TorchTensor::view() const {
  std::int64_t dims = 0;
  std::int64_t* sizes = nullptr;
  std::int64_t* strides = nullptr;
  std::int32_t dtype = 0;
  TensorView view;
  check(aoti_torch_get_dim(handle_, &dims), "a number of dimensions");
  check(aoti_torch_get_sizes(handle_, &sizes), "sizes");
  check(aoti_torch_get_strides(handle_, &strides), "strides");
  check(aoti_torch_get_dtype(handle_, &dtype), "a dtype");
  check(torch_get_const_data_ptr(handle_, &view.data), "its data");
  view.dtype = dtype_of(dtype);
  view.shape = to_dims(sizes, dims);
  view.strides = to_dims(strides, dims);
  view.total_dims = static_cast<int>(dims);
  return view;
}

TorchTensor to_torch(Tensor tensor) {
  std::array<std::int64_t, kMaxDims> sizes{};
  std::array<std::int64_t, kMaxDims> strides{};
  const TensorView view = tensor.view();
  const int dims = view.shape.rank();
  for (int i = 0; i < dims; ++i) {
    sizes[static_cast<std::size_t>(i)] = view.shape[i];
    // As torch lays out tensors without elements: a size of 0 counts as 1.
    std::int64_t stride = 1;
    for (int j = i + 1; j < dims; ++j) {
      stride *= std::max<std::int64_t>(view.shape[j], 1);
    }
    strides[static_cast<std::size_t>(i)] = stride;
  }
  std::byte* data = tensor.buffer.data();
  window::Block* block = tensor.buffer.release();
  AtenTensorHandle handle = nullptr;
  const AOTITorchError error = torch_from_blob(data,
                                               dims,
                                               sizes.data(),
                                               strides.data(),
                                               /*storage_offset=*/0,
                                               torch_dtype_of(tensor.dtype),
                                               aoti_torch_device_type_cpu(),
                                               /*device_index=*/-1,
                                               &handle,
                                               aoti_torch_layout_strided(),
                                               /*opaque_metadata=*/nullptr,
                                               /*opaque_metadata_size=*/0,
                                               give_back,
                                               block);
  if (error != AOTI_TORCH_SUCCESS) {
    give_back(nullptr, block);
  }
  check(error, "a tensor for an output");
  return TorchTensor(handle);
}

TorchTensor new_tensor(DType dtype, const Dims& shape, void*& data) {
  std::array<std::int64_t, kMaxDims> sizes{};
  std::array<std::int64_t, kMaxDims> strides{};
  std::int64_t stride = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    sizes[static_cast<std::size_t>(i)] = shape[i];
    strides[static_cast<std::size_t>(i)] = stride;
    stride *= std::max<std::int64_t>(shape[i], 1);
  }
  AtenTensorHandle handle = nullptr;
  check(aoti_torch_empty_strided(shape.rank(),
                                 sizes.data(),
                                 strides.data(),
                                 torch_dtype_of(dtype),
                                 aoti_torch_device_type_cpu(),
                                 /*device_index=*/-1,
                                 &handle),
        "a new tensor");
  TorchTensor tensor(handle);
  check(torch_get_mutable_data_ptr(tensor.get(), &data), "its data");
  return tensor;
}

TorchTensor copy_of(const TorchTensor& tensor) {
  AtenTensorHandle handle = nullptr;
  check(aoti_torch_clone(tensor.get(), &handle), "a copy");
  return TorchTensor(handle);
}

}  // namespace waybill::binding
