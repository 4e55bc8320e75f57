#include <cstring>

#include "numerics/element.h"
#include "numerics/kernel_sets.h"

namespace waybill::numerics {
namespace {

// Rows need not be aligned.

template <DType dtype>
float load(const void* row, std::int64_t i) {
  typename Element<dtype>::Bits bits;
  std::memcpy(&bits, static_cast<const char*>(row) + i * std::int64_t{sizeof(bits)}, sizeof(bits));
  return Element<dtype>::to_float(bits);
}

template <DType dtype>
void store(void* row, std::int64_t i, float value) {
  const typename Element<dtype>::Bits bits = Element<dtype>::from_float(value);
  std::memcpy(static_cast<char*>(row) + i * std::int64_t{sizeof(bits)}, &bits, sizeof(bits));
}

template <DType dtype>
struct ScalarRow {
  static void quantise(
      const void* x, const float* smooth, std::int64_t h, std::int8_t* q, float* scale) {
    const auto f = [&](std::int64_t i) {
      if (smooth == nullptr) return load<dtype>(x, i);
      return mul_rn(load<dtype>(x, i), load<DType::kFloat32>(smooth, i));
    };
    std::uint32_t amax_bits = 0;
    for (std::int64_t i = 0; i < h; ++i) {
      const std::uint32_t bits = magnitude_bits(f(i));
      if (bits > amax_bits) amax_bits = bits;
    }
    const RowScale row_scale = row_scale_of(amax_bits);
    store<DType::kFloat32>(scale, 0, row_scale.scale);
    for (std::int64_t i = 0; i < h; ++i) {
      q[i] = row_scale.multiplier == 0.0f ? std::int8_t{0}
                                          : numerics::quantise(f(i), row_scale.multiplier);
    }
  }

  static void weighted_sum(const Term* terms, std::int64_t num_terms, std::int64_t h, void* out) {
    for (std::int64_t i = 0; i < h; ++i) {
      store<dtype>(out, i, add_terms(0.0f, terms, num_terms, i));
    }
  }

  static void accumulate(
      const Term* terms, std::int64_t num_terms, bool fresh, std::int64_t h, float* acc) {
    for (std::int64_t i = 0; i < h; ++i) {
      const float start = fresh ? 0.0f : load<DType::kFloat32>(acc, i);
      store<DType::kFloat32>(acc, i, add_terms(start, terms, num_terms, i));
    }
  }

  static void round(const float* f, std::int64_t h, void* out) {
    for (std::int64_t i = 0; i < h; ++i) store<dtype>(out, i, load<DType::kFloat32>(f, i));
  }

  static float dot(const void* a, const void* b, std::int64_t h) {
    float lanes[kSumLanes] = {};
    for (std::int64_t i = 0; i < h; ++i) {
      float& lane = lanes[i % kSumLanes];
      lane = numerics::accumulate(lane, load<dtype>(a, i), load<dtype>(b, i));
    }
    return sum_of_lanes(lanes);
  }

  static float round_mean_square(const float* f, std::int64_t h, float inverse_h, void* out) {
    round(f, h, out);
    float lanes[kSumLanes] = {};
    for (std::int64_t i = 0; i < h; ++i) {
      float& lane = lanes[i % kSumLanes];
      lane = add_rn(lane, mean_square_term(load<DType::kFloat32>(f, i), inverse_h));
    }
    return sum_of_lanes(lanes);
  }

  static void normalise(const float* f, float rstd, const void* gamma, std::int64_t h, void* y) {
    for (std::int64_t i = 0; i < h; ++i) {
      const float value = load<DType::kFloat32>(f, i);
      store<dtype>(y, i, numerics::normalise<dtype>(value, rstd, load<dtype>(gamma, i)));
    }
  }

  static void comm_quantise(const void* x, std::int64_t h, std::int8_t* q, void* scales) {
    for (std::int64_t begin = 0; begin < h; begin += kCommGroup) {
      const std::int64_t end = begin + kCommGroup < h ? begin + kCommGroup : h;
      std::uint32_t amax_bits = 0;
      for (std::int64_t i = begin; i < end; ++i) {
        const std::uint32_t bits = magnitude_bits(load<dtype>(x, i));
        if (bits > amax_bits) amax_bits = bits;
      }
      const float scale = comm_scale_of(amax_bits);
      for (std::int64_t i = begin; i < end; ++i) {
        q[i] = numerics::comm_quantise(load<dtype>(x, i), scale);
      }
      store<dtype>(scales, begin / kCommGroup, scale);
    }
  }

  static void comm_dequantise(const std::int8_t* q, const void* scales, std::int64_t h, void* out) {
    for (std::int64_t i = 0; i < h; ++i) {
      const float scale = load<dtype>(scales, i / kCommGroup);
      store<dtype>(out, i, numerics::comm_dequantise(q[i], scale));
    }
  }

 private:
  static float add_terms(float acc, const Term* terms, std::int64_t num_terms, std::int64_t i) {
    for (std::int64_t t = 0; t < num_terms; ++t) {
      acc = numerics::accumulate(acc, load<dtype>(terms[t].row, i), terms[t].weight);
    }
    return acc;
  }
};

struct ScalarRows {
  template <DType dtype>
  using Row = ScalarRow<dtype>;
};

void copy(void* destination, const void* source, std::size_t bytes, StoreKind) {
  if (bytes != 0) std::memcpy(destination, source, bytes);
}

}  // namespace

constinit const Kernels kScalarKernels = KernelTable<ScalarRows>::make(SimdLevel::kScalar, copy);

RowScale row_scale_out_of_line(std::uint32_t amax_bits) noexcept { return row_scale_of(amax_bits); }
float sum_of_lanes_out_of_line(float* lanes) noexcept { return sum_of_lanes(lanes); }

}  // namespace waybill::numerics
