#include "drawing.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>

namespace waybill::fuzz {
namespace {

constexpr std::int64_t kMaxElements = 1 << 13;

std::int64_t offset_of(const TensorView& view, std::int64_t flat) {
  std::int64_t offset = 0;
  for (int i = view.shape.rank() - 1; i >= 0; --i) {
    offset += flat % view.shape[i] * view.strides[i];
    flat /= view.shape[i];
  }
  return offset;
}

Dims with(const Dims& dims, int changed, std::int64_t value) {
  std::array<std::int64_t, kMaxDims> sizes{};
  for (int i = 0; i < dims.rank(); ++i) {
    sizes[static_cast<std::size_t>(i)] = i == changed ? value : dims[i];
  }
  switch (dims.rank()) {
    case 0:
      return {};
    case 1:
      return {sizes[0]};
    case 2:
      return {sizes[0], sizes[1]};
    default:
      return {sizes[0], sizes[1], sizes[2]};
  }
}

}  // namespace

void fail(std::string_view what) {
  std::fprintf(stderr, "expected: %.*s\n", static_cast<int>(what.size()), what.data());
  std::abort();
}

void expect_error(const Status& status, StatusCode code) {
  expect(status.code() == code, "an error of another kind than " + status.message());
  expect(!status.message().empty() && !status.info().op.empty(), "an error that says something");
}

std::optional<std::int64_t> count_elements(const Dims& shape) {
  std::int64_t count = 1;
  for (int i = 0; i < shape.rank(); ++i) {
    if (shape[i] < 0 || __builtin_mul_overflow(count, shape[i], &count)) {
      return std::nullopt;
    }
  }
  return count <= kMaxElements ? std::optional(count) : std::nullopt;
}

std::int64_t Draw::any() {
  using Int32 = std::numeric_limits<std::int32_t>;
  using Int64 = std::numeric_limits<std::int64_t>;
  switch (in(0, 5)) {
    case 0:
      return in(-2, 17);
    case 1:
      return (std::int64_t{1} << in(0, 62)) + in(-1, 1);
    case 2:
      return Int32::max() - in(0, 2);
    case 3:
      return Int64::max() - in(0, 2);
    case 4:
      return flag() ? Int64::min() : Int32::min();
    default:
      return in(Int64::min(), Int64::max());
  }
}

DType Draw::row_dtype() {
  constexpr std::array kRowDTypes = {DType::kBFloat16, DType::kFloat16, DType::kFloat32};
  return kRowDTypes[index(kRowDTypes.size())];
}

DType Draw::any_dtype() { return static_cast<DType>(in(0, 13)); }

Strict Draw::strict() {
  constexpr std::array kModes = {Strict::kNone, Strict::kA2, Strict::kA3};
  return seldom() ? kModes[index(kModes.size())] : Strict::kNone;
}

std::string_view Draw::comm_alg() {
  constexpr std::array<std::string_view, 6> kNames = {
      "", "fullmesh", "fullmesh_v1", "fullmesh_v2", "hierarchy", "tree"};
  return seldom() ? kNames[index(kNames.size())] : "";
}

std::byte* Draw::block(std::size_t bytes) {
  blocks_.push_back(std::make_unique<std::byte[]>(bytes));
  return blocks_.back().get();
}

/// Row-major, with gaps between rows, with gaps between elements, or column-major.
Dims Draw::draw_strides(const Dims& shape) {
  const std::int64_t step = seldom() ? 2 : 1;
  const std::int64_t gap = seldom() ? 3 : 0;
  switch (shape.rank()) {
    case 1:
      return {step};
    case 2:
      return seldom() ? Dims{1, shape[0] + gap} : Dims{shape[1] * step + gap, step};
    case 3:
      return {shape[1] * (shape[2] * step + gap), shape[2] * step + gap, step};
    default:
      return {};
  }
}

void Draw::fill(const TensorView& view, std::byte* memory, const Values& value) {
  const std::int64_t count = view.shape.product();
  const std::int64_t size = size_of(view.dtype);
  std::uint32_t state = static_cast<std::uint32_t>(in(0, 255)) * 2654435761U + 1;
  for (std::int64_t i = 0; i < count; ++i) {
    std::byte* at = memory + offset_of(view, i) * size;
    if (view.dtype == DType::kInt32 || view.dtype == DType::kInt64 || view.dtype == DType::kBool) {
      const std::int64_t drawn = value ? value(i) : in(-1, 9);
      const std::int64_t kept = view.dtype == DType::kBool ? (drawn > 0 ? 1 : 0) : drawn;
      std::memcpy(at, &kept, static_cast<std::size_t>(size));
      continue;
    }
    for (std::int64_t b = 0; b < size; ++b) {
      state = state * 1664525U + 1013904223U;
      at[b] = static_cast<std::byte>(state >> 24);
    }
  }
}

TensorView Draw::tensor(DType dtype, const Dims& shape, const Values& value) {
  TensorView view{nullptr, dtype, shape, {}, shape.rank()};
  const auto count = count_elements(shape);
  if (!count || *count == 0) {
    // None, or an expanded tensor: every element is the same one.
    for (int i = 0; i < shape.rank(); ++i) {
      view.strides = with(i == 0 ? shape : view.strides, i, 0);
    }
    view.data = count ? nullptr : block(sizeof(std::int64_t));
    return view;
  }
  view.strides = draw_strides(shape);
  const std::int64_t span = offset_of(view, *count - 1) + 1;
  std::byte* memory = block(static_cast<std::size_t>(span * size_of(dtype)));
  fill(view, memory, value);
  view.data = memory;
  return view;
}

TensorView Draw::wild_tensor(DType dtype, const Dims& shape, const Values& value) {
  if (!seldom()) {
    return tensor(dtype, shape, value);
  }
  Dims changed = shape;
  switch (in(0, 3)) {
    case 0:
      return tensor(any_dtype(), shape, value);
    case 1:
      changed = with(shape, static_cast<int>(in(0, kMaxDims - 1)), std::min(any(), most_size_));
      return tensor(dtype, changed, value);
    case 2:
      changed = flag() ? Dims{in(0, 40)} : Dims{in(0, 9), in(0, 9), in(0, 9)};
      return tensor(dtype, changed, value);
    default:
      TensorView view = tensor(dtype, {1, 1, 1}, value);
      view.total_dims = static_cast<int>(in(kMaxDims + 1, 70));
      return view;
  }
}

}  // namespace waybill::fuzz
