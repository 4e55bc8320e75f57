// update_expert and eplb_update_expert against a model written from docs/contract/operators.md
// section 10: the same instances and the same mask, and an error where the model sees one.

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "drawing.h"
#include "waybill/update_expert.h"

namespace waybill::fuzz {
namespace {

std::int64_t element_offset(const TensorView& view, std::int64_t row, std::int64_t column) {
  const bool vector = view.shape.rank() == 1;
  return (vector ? column * view.strides[0] : row * view.strides[0] + column * view.strides[1]) *
         size_of(view.dtype);
}

template <typename T>
T read(const TensorView& view, std::int64_t row, std::int64_t column) {
  T value{};
  std::memcpy(&value,
              static_cast<const std::byte*>(view.data) + element_offset(view, row, column),
              sizeof(T));
  return value;
}

std::int64_t integer(const TensorView& view, std::int64_t row, std::int64_t column) {
  return view.dtype == DType::kInt64 ? read<std::int64_t>(view, row, column)
                                     : read<std::int32_t>(view, row, column);
}

float half_to_float(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const auto fraction = static_cast<float>(bits & 1023);
  const float sign = (bits & 0x8000) != 0 ? -1.0F : 1.0F;
  if (exponent == 31) {
    return fraction != 0.0F ? NAN : sign * INFINITY;
  }
  return sign * (exponent == 0 ? std::ldexp(fraction, -24)
                               : std::ldexp(1024.0F + fraction, exponent - 25));
}

float real(const TensorView& view, std::int64_t row, std::int64_t column) {
  switch (view.dtype) {
    case DType::kBFloat16:
      return std::bit_cast<float>(static_cast<std::uint32_t>(read<std::uint16_t>(view, row, column))
                                  << 16);
    case DType::kFloat16:
      return half_to_float(read<std::uint16_t>(view, row, column));
    default:
      return read<float>(view, row, column);
  }
}

bool is_matrix(const TensorView& view, std::int64_t rows, std::int64_t columns) {
  return view.total_dims == 2 && view.shape == Dims{rows, columns};
}

bool pruning_is_legal(const UpdateExpertArgs& args) {
  if (args.expert_scales.has_value() != args.pruning_threshold.has_value()) {
    return false;
  }
  const std::int64_t bs = args.expert_ids.shape[0];
  const std::int64_t k = args.expert_ids.shape[1];
  if (args.active_mask &&
      (args.active_mask->total_dims != 1 || args.active_mask->shape != Dims{bs} ||
       args.active_mask->dtype != DType::kBool)) {
    return false;
  }
  if (!args.expert_scales) {
    return true;
  }
  const TensorView& threshold = *args.pruning_threshold;
  return is_matrix(*args.expert_scales, bs, k) && is_row_dtype(args.expert_scales->dtype) &&
         threshold.dtype == DType::kFloat32 &&
         (is_matrix(threshold, 1, k) || (threshold.total_dims == 1 && threshold.shape == Dims{k}));
}

bool table_is_legal(const UpdateExpertArgs& args) {
  const TensorView& table = args.eplb_table;
  for (std::int64_t row = 0; row < table.shape[0]; ++row) {
    const std::int64_t count = integer(table, row, 0);
    if (count < 1 || count > table.shape[1] - 1 ||
        (args.balance_mode == 0 && count > args.world_size)) {
      return false;
    }
    for (std::int64_t i = 1; i <= count; ++i) {
      if (integer(table, row, i) < 0) {
        return false;
      }
    }
  }
  return true;
}

bool is_active(const UpdateExpertArgs& args, std::int64_t token) {
  return !args.active_mask || read<std::uint8_t>(*args.active_mask, 0, token) != 0;
}

bool is_legal(const UpdateExpertArgs& args, bool eplb) {
  const TensorView& ids = args.expert_ids;
  const TensorView& table = args.eplb_table;
  if (ids.total_dims != 2 || ids.shape[0] < 0 || ids.shape[1] < 1 ||
      (ids.dtype != DType::kInt32 && ids.dtype != DType::kInt64) || table.total_dims != 2 ||
      table.shape[1] < 1 || table.dtype != DType::kInt32 || !pruning_is_legal(args)) {
    return false;
  }
  if (args.balance_mode != 0 && (args.balance_mode != 1 || eplb)) {
    return false;
  }
  if (args.balance_mode == 0 && (args.local_rank_id < 0 || args.local_rank_id >= args.world_size)) {
    return false;
  }
  if (!table_is_legal(args)) {
    return false;
  }
  for (std::int64_t t = 0; t < ids.shape[0]; ++t) {
    for (std::int64_t k = 0; k < ids.shape[1]; ++k) {
      const std::int64_t id = integer(ids, t, k);
      const bool read = is_active(args, t) && id != -1;
      if (read && (id < 0 || id >= table.shape[0])) {
        return false;
      }
    }
  }
  return true;
}

std::int64_t instance(const UpdateExpertArgs& args, std::int64_t token, std::int64_t id) {
  if (id == -1 || !is_active(args, token)) {
    return id;
  }
  const std::int64_t count = integer(args.eplb_table, id, 0);
  if (count == 1) {
    return integer(args.eplb_table, id, 1);
  }
  if (args.balance_mode == 1) {
    return integer(args.eplb_table, id, 1 + token % count);
  }
  const std::int64_t each = (args.world_size - 1) / count + 1;
  return integer(args.eplb_table, id, 1 + args.local_rank_id / each);
}

bool is_kept(const UpdateExpertArgs& args, std::int64_t token, std::int64_t k) {
  const auto routed = [&](std::int64_t i) { return integer(args.expert_ids, token, i) != -1; };
  if (!is_active(args, token) || !routed(k)) {
    return false;
  }
  if (!args.expert_scales) {
    return true;
  }
  volatile float sum = 0.0F;
  for (std::int64_t i = 0; i < args.expert_ids.shape[1]; ++i) {
    sum = sum + (routed(i) ? real(*args.expert_scales, token, i) : 0.0F);
  }
  const volatile float least = read<float>(*args.pruning_threshold, 0, k) * sum;
  return real(*args.expert_scales, token, k) >= least;
}

UpdateExpertArgs draw_args(Draw& draw) {
  const std::int64_t bs = draw.in(0, 6);
  const std::int64_t k = draw.in(1, 4);
  const std::int64_t rows = draw.in(1, 6);
  const std::int64_t columns = draw.in(2, 6);
  UpdateExpertArgs args;
  args.world_size = draw.wild(draw.in(1, 9));
  args.local_rank_id = draw.wild(draw.in(0, 4));
  args.balance_mode = draw.seldom() ? draw.any() : draw.in(0, 1);
  args.strict = draw.strict();
  args.expert_ids =
      draw.wild_tensor(draw.flag() ? DType::kInt32 : DType::kInt64, {bs, k}, [&](std::int64_t) {
        return draw.seldom() ? draw.any() : draw.in(0, rows - 1);
      });
  args.eplb_table = draw.wild_tensor(DType::kInt32, {rows, columns}, [&](std::int64_t i) {
    return draw.seldom() ? draw.any() : i % columns == 0 ? draw.in(1, columns - 1) : draw.in(0, 40);
  });
  if (draw.flag()) {
    args.expert_scales = draw.wild_tensor(draw.row_dtype(), {bs, k});
    args.pruning_threshold = draw.wild_tensor(DType::kFloat32, draw.flag() ? Dims{k} : Dims{1, k});
  }
  if (draw.seldom()) {
    args.pruning_threshold.reset();
  }
  if (draw.flag()) {
    args.active_mask =
        draw.wild_tensor(DType::kBool, {bs}, [&](std::int64_t) { return draw.in(0, 1); });
  }
  return args;
}

void run(Draw& draw) {
  UpdateExpertArgs args = draw_args(draw);
  const bool eplb = draw.flag();
  if (eplb) {
    args.expert_scales = args.pruning_threshold = args.active_mask = std::nullopt;
  }
  // Both tensors are read in whole: an expanded one of any size would take for ever.
  if (!count_elements(args.expert_ids.shape) || !count_elements(args.eplb_table.shape)) {
    return;
  }
  const std::int64_t pairs = args.expert_ids.shape.product();
  std::byte* ids = draw.block(static_cast<std::size_t>(pairs * size_of(args.expert_ids.dtype)));
  auto* keep = reinterpret_cast<std::uint8_t*>(draw.block(static_cast<std::size_t>(pairs)));
  const Status status = eplb ? eplb_update_expert({.expert_ids = args.expert_ids,
                                                   .eplb_table = args.eplb_table,
                                                   .local_rank_id = args.local_rank_id,
                                                   .world_size = args.world_size,
                                                   .balance_mode = args.balance_mode,
                                                   .strict = args.strict},
                                                  ids)
                             : update_expert(args, ids, keep);
  const bool legal = is_legal(args, eplb);
  if (!status.ok()) {
    expect_error(status, StatusCode::kInvalidArgument);
    expect(!legal || args.strict != Strict::kNone, "success, not " + status.message());
    return;
  }
  expect(legal, "an error");
  const std::int64_t columns = args.expert_ids.shape[1];
  const TensorView got = TensorView::contiguous(ids, args.expert_ids.dtype, args.expert_ids.shape);
  for (std::int64_t i = 0; i < pairs; ++i) {
    const std::int64_t token = i / columns;
    const std::int64_t k = i % columns;
    expect(integer(got, token, k) == instance(args, token, integer(args.expert_ids, token, k)),
           "the instance of the model");
    expect(eplb || (keep[i] != 0) == is_kept(args, token, k), "the mask of the model");
  }
}

}  // namespace
}  // namespace waybill::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  waybill::fuzz::Draw draw(data, size);
  waybill::fuzz::run(draw);
  return 0;
}
