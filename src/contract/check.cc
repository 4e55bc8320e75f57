#include "contract/check.h"

#include "base/errors.h"

namespace waybill::contract {

std::string describe(const Dims& dims) {
  std::string text = "(";
  for (int i = 0; i < dims.rank(); ++i) {
    text += (i > 0 ? ", " : "") + std::to_string(dims[i]);
  }
  return text + (dims.rank() == 1 ? ",)" : ")");
}

std::string describe(const TensorView& view) {
  const std::string dtype = std::string(" ") + waybill::name_of(view.dtype);
  return view.total_dims > kMaxDims
             ? "a tensor of " + std::to_string(view.total_dims) + " dimensions" + dtype
             : describe(view.shape) + dtype;
}

Status Checker::fail(std::string_view argument,
                     std::string_view expected,
                     std::string_view got) const {
  std::string message = std::string(name_of(op_)) + ": argument " + std::string(argument) +
                        ": expected " + std::string(expected) + ", got " + std::string(got) +
                        (group_.rank < 0 ? "" : " (rank " + std::to_string(group_.rank) + ")");
  return error(StatusCode::kInvalidArgument, name_of(op_), argument, std::move(message));
}

Status Checker::fail(std::string_view argument, std::string_view expected, std::int64_t got) const {
  return fail(argument, expected, std::to_string(got));
}

Status Checker::not_yet(std::string_view argument, std::string_view got) const {
  return fail(argument, "a value that is supported (this one is not yet)", got);
}

Status Checker::expect(std::string_view argument,
                       const TensorView& view,
                       const Dims& shape,
                       std::string_view letters,
                       DType dtype) const {
  if (view.total_dims == shape.rank() && view.shape == shape && view.dtype == dtype) {
    return {};
  }
  return fail(argument,
              std::string(letters) + " = " + describe(shape) + " " + waybill::name_of(dtype),
              describe(view));
}

Status Checker::expect_mask(const std::optional<TensorView>& mask,
                            std::int64_t bs,
                            std::int64_t k) const {
  if (!mask) {
    return {};
  }
  if (mask->total_dims == 1) {
    return expect("x_active_mask", *mask, {bs}, "(BS,)", DType::kBool);
  }
  return expect("x_active_mask", *mask, {bs, k}, "(BS,) or (BS, K)", DType::kBool);
}

Status Checker::expect_rows(std::string_view argument,
                            const TensorView& view,
                            std::string_view letters) const {
  // Sizes in bytes stay below 2^63.
  constexpr std::int64_t kMaxHidden = (std::int64_t{1} << 31) - 1;
  constexpr std::int64_t kMaxElements = std::int64_t{1} << 55;
  if (view.total_dims != 2 || view.shape[0] < 0 || view.shape[1] < 1 ||
      view.shape[1] > kMaxHidden || !is_row_dtype(view.dtype)) {
    return fail(argument,
                std::string(letters) + " with 1 <= H < 2^31, bfloat16, float16 or float32",
                describe(view));
  }
  if (view.shape[0] > kMaxElements / view.shape[1]) {
    return fail(argument, std::string(letters) + " of at most 2^55 elements", describe(view));
  }
  return {};
}

Status Checker::expect_int_vector(std::string_view argument,
                                  const TensorView& view,
                                  std::int64_t least,
                                  std::string_view why) const {
  if (view.total_dims == 1 && view.dtype == DType::kInt32 && view.shape[0] >= least) {
    return {};
  }
  return fail(argument,
              "a vector of at least " + std::to_string(least) + " int32 (" + std::string(why) + ")",
              describe(view));
}

Status Checker::absent(std::string_view argument, const std::optional<TensorView>& view) const {
  return view ? fail(argument, "None", describe(*view)) : Status();
}

}  // namespace waybill::contract
