#include <vector>

#include "stages.h"

namespace waybill::bench {
namespace {

using numerics::Kernels;

const float* smooth_scales() {
  static const std::vector<float> scales = [] {
    std::vector<float> values(kHidden);
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = 0.5F + static_cast<float>(i % 8) * 0.125F;
    }
    return values;
  }();
  return scales.data();
}

void register_quantise(DType dtype) {
  const Traffic traffic{.row_bytes = row_bytes_of(dtype), .out_bytes = kHidden};
  for (const bool smooth : {false, true}) {
    const std::string name =
        std::string(smooth ? "quantise_smooth/" : "quantise/") + name_of(dtype);
    const float* scales = smooth ? smooth_scales() : nullptr;
    register_everywhere(name, Ceiling::kReadAndWrite, traffic, [=](const Kernels& kernels) {
      return [=, &kernels](const std::byte* const* rows, std::byte* out) {
        float scale = 0;
        auto* q = reinterpret_cast<std::int8_t*>(out);
        kernels.quantise_row(rows[0], dtype, scales, kHidden, q, &scale);
      };
    });
  }
}

/// The scales of a row lie behind it.
void register_comm(DType dtype) {
  const std::size_t scale_bytes =
      static_cast<std::size_t>(numerics::num_comm_groups(kHidden) * size_of(dtype));
  const Traffic there{.row_bytes = row_bytes_of(dtype), .out_bytes = kHidden + scale_bytes};
  const std::string suffix = name_of(dtype);
  register_everywhere(
      "comm_quantise/" + suffix, Ceiling::kReadAndWrite, there, [=](const Kernels& kernels) {
        return [=, &kernels](const std::byte* const* rows, std::byte* out) {
          auto* q = reinterpret_cast<std::int8_t*>(out);
          kernels.comm_quantise_row(rows[0], dtype, kHidden, q, out + kHidden);
        };
      });
  const Traffic back{.row_bytes = kHidden + scale_bytes, .out_bytes = row_bytes_of(dtype)};
  register_everywhere(
      "comm_dequantise/" + suffix, Ceiling::kReadAndWrite, back, [=](const Kernels& kernels) {
        return [=, &kernels](const std::byte* const* rows, std::byte* out) {
          const auto* q = reinterpret_cast<const std::int8_t*>(rows[0]);
          kernels.comm_dequantise_row(q, rows[0] + kHidden, dtype, kHidden, out);
        };
      });
}

void register_round(DType dtype) {
  const Traffic traffic{.row_bytes = kHidden * sizeof(float), .out_bytes = row_bytes_of(dtype)};
  register_everywhere(std::string("round_row/") + name_of(dtype),
                      Ceiling::kReadAndWrite,
                      traffic,
                      [=](const Kernels& kernels) {
                        return [=, &kernels](const std::byte* const* rows, std::byte* out) {
                          const auto* f = reinterpret_cast<const float*>(rows[0]);
                          kernels.round_row(f, dtype, kHidden, out);
                        };
                      });
}

}  // namespace

void register_row_stages() {
  for (const DType dtype : kRowDTypes) {
    register_quantise(dtype);
    register_comm(dtype);
    register_round(dtype);
  }
}

}  // namespace waybill::bench
