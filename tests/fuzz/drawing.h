#pragma once

#include <fuzzer/FuzzedDataProvider.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "waybill/dtype.h"
#include "waybill/env.h"
#include "waybill/status.h"
#include "waybill/tensor_view.h"

namespace waybill::fuzz {

/// Ends the process, so that libFuzzer keeps the input.
[[noreturn]] void fail(std::string_view what);
inline void expect(bool holds, std::string_view what) {
  if (!holds) {
    fail(what);
  }
}
/// The error names what it is about, and is of a kind that a caller can expect.
void expect_error(const Status& status, StatusCode code);

/// The bytes of an input as arguments. An input that has ended gives the least of each range.
/// Owns the memory of the tensors it makes: each is a block of its own, of just the bytes that the
/// tensor spans, so that the address sanitizer sees whoever reads past it.
class Draw {
 public:
  /// `most_size`: of a dimension that wild_tensor() changes.
  Draw(const std::uint8_t* data,
       std::size_t size,
       std::int64_t most_size = std::numeric_limits<std::int64_t>::max())
      : bytes_(data, size), most_size_(most_size) {}

  bool flag() { return bytes_.ConsumeBool(); }
  /// Once in 16.
  bool seldom() { return in(0, 15) == 15; }
  bool ended() { return bytes_.remaining_bytes() == 0; }
  std::int64_t in(std::int64_t least, std::int64_t most) {
    return bytes_.ConsumeIntegralInRange<std::int64_t>(least, most);
  }
  std::size_t index(std::size_t size) {
    return bytes_.ConsumeIntegralInRange<std::size_t>(0, size - 1);
  }
  /// Small, or at the edge of a type, or anything.
  std::int64_t any();
  /// `right`, or seldom any().
  std::int64_t wild(std::int64_t right) { return seldom() ? any() : right; }
  int wild_int(int right) { return static_cast<int>(wild(right)); }
  DType row_dtype();
  DType any_dtype();
  Strict strict();
  std::string text(std::size_t most) { return bytes_.ConsumeRandomLengthString(most); }
  std::string_view comm_alg();
  /// Up to `most` bytes as they come.
  std::vector<std::uint8_t> bytes(std::size_t most) {
    return bytes_.ConsumeBytes<std::uint8_t>(most);
  }

  /// A tensor in one of the layouts that a caller may have. `value` gives the elements of integer
  /// dtypes, which are drawn where it is empty; floats are drawn from few bytes of the input.
  using Values = std::function<std::int64_t(std::int64_t)>;
  TensorView tensor(DType dtype, const Dims& shape, const Values& value = {});
  /// The tensor, or seldom one of another shape, dtype or number of dimensions.
  TensorView wild_tensor(DType dtype, const Dims& shape, const Values& value = {});
  std::optional<TensorView> maybe(const TensorView& view) {
    return flag() ? std::optional(view) : std::nullopt;
  }
  /// Memory that lives as long as this.
  std::byte* block(std::size_t bytes);

 private:
  Dims draw_strides(const Dims& shape);
  void fill(const TensorView& view, std::byte* memory, const Values& value);

  FuzzedDataProvider bytes_;
  std::vector<std::unique_ptr<std::byte[]>> blocks_;
  const std::int64_t most_size_;
};

/// Elements of a shape; absent when they are more than the memory of a test, or the shape is none.
std::optional<std::int64_t> count_elements(const Dims& shape);

}  // namespace waybill::fuzz
