#include "exchange/variant.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "numerics/special.h"

namespace waybill::bench {
namespace {

constexpr double kNormEps = 1e-6;

std::vector<std::byte> constant_row(const Case& sizes, float value) {
  const std::vector<float> values(static_cast<std::size_t>(sizes.hidden), value);
  std::vector<std::byte> row(static_cast<std::size_t>(sizes.row_bytes()));
  numerics::kernels(SimdLevel::kScalar)
      .round_row(values.data(), sizes.dtype, sizes.hidden, row.data());
  return row;
}

}  // namespace

Variant variant_of(const std::string& name, const Case& sizes) {
  Variant v;
  v.name = name;
  v.options.threads = sizes.threads;
  v.quant = sizes.quant;
  if (name == "waybill") {
    return v;
  }
  v.quant = 0;
  if (name == "private") {
    v.in_pool = false;
  } else if (name == "int8" || name == "smooth") {
    v.quant = 2;
    v.smooth = name == "smooth";
  } else if (name == "comm8") {
    v.comm_quant = 2;
  } else if (name == "norm") {
    v.norm = true;
  } else if (name == "pair") {
    v.pair = true;
    v.group = 4;  // its reserved outputs put the rows at other addresses than the others'
  } else if (name == "mask") {
    v.mask = true;
  } else if (name == "elastic") {
    v.elastic = true;
  } else if (name == "const1" || name == "const2") {
    v.alpha_dims = name == "const1" ? 1 : 2;
  } else if (name == "checked") {
    v.options.checked = true;
    v.group = 1;
  } else if (name == "threads2" || name == "threads4") {
    v.options.threads = name == "threads2" ? 2 : 4;
    v.group = name == "threads2" ? 2 : 3;
  } else {
    throw std::runtime_error("--methods: there is no " + name);
  }
  return v;
}

Inputs::Inputs(const Workload& workload, const Variant& variant)
    : workload_(workload),
      sizes_(workload.sizes()),
      variant_(variant),
      ids_(workload.ids()),
      mask_(variant.mask ? ids_.size() : 0, 1),
      gamma_(constant_row(sizes_, 0.5F)),
      alpha_(constant_row(sizes_, 0.25F)) {
  if (variant.alpha_dims > 0) {
    for (std::size_t i = static_cast<std::size_t>(sizes_.topk) - 1; i < ids_.size();
         i += static_cast<std::size_t>(sizes_.topk)) {
      ids_[i] = static_cast<std::int32_t>(sizes_.experts());
    }
  }
  if (variant.elastic) {
    elastic_ = {1, sizes_.ranks, 0, static_cast<std::int32_t>(sizes_.experts())};
    for (int table = 0; table < 2; ++table) {
      for (int r = 0; r < sizes_.ranks; ++r) {
        elastic_.push_back(r);
      }
    }
  }
  if (variant.smooth) {
    smooth_.assign(static_cast<std::size_t>(sizes_.experts() * sizes_.hidden), 0.75F);
  }
}

TensorView Inputs::x() const {
  return TensorView::contiguous(
      workload_.x(workload_.rank(), 0), sizes_.dtype, {sizes_.bs, sizes_.hidden});
}

TensorView Inputs::ids() const {
  return TensorView::contiguous(ids_.data(), DType::kInt32, {sizes_.bs, sizes_.topk});
}

TensorView Inputs::weights() const {
  return TensorView::contiguous(
      workload_.weights().data(), DType::kFloat32, {sizes_.bs, sizes_.topk});
}

std::optional<TensorView> Inputs::mask() const {
  if (!variant_.mask) {
    return {};
  }
  return TensorView::contiguous(mask_.data(), DType::kBool, {sizes_.bs, sizes_.topk});
}

std::optional<TensorView> Inputs::elastic() const {
  if (!variant_.elastic) {
    return {};
  }
  return TensorView::contiguous(
      elastic_.data(), DType::kInt32, {static_cast<std::int64_t>(elastic_.size())});
}

TensorView Inputs::smooth() const {
  return TensorView::contiguous(smooth_.data(), DType::kFloat32, {sizes_.experts(), sizes_.hidden});
}

TensorView Inputs::gamma() const {
  return TensorView::contiguous(gamma_.data(), sizes_.dtype, {sizes_.hidden});
}

TensorView Inputs::alpha_1() const {
  return variant_.alpha_dims == 1
             ? TensorView::contiguous(alpha_.data(), sizes_.dtype, {1})
             : TensorView::contiguous(alpha_.data(), sizes_.dtype, {1, sizes_.hidden});
}

TensorView Inputs::constant() const {
  return TensorView::contiguous(gamma_.data(), sizes_.dtype, {1, sizes_.hidden});
}

std::vector<std::byte> Inputs::expected_row(const Pair& pair) const {
  const std::byte* x = workload_.x(pair.source, pair.token);
  if (variant_.quant == 0) {
    return {x, x + sizes_.row_bytes()};
  }
  std::vector<std::byte> q(static_cast<std::size_t>(sizes_.hidden));
  float scale = 0.0F;
  workload_.kernels().quantise_row(x,
                                   sizes_.dtype,
                                   variant_.smooth ? smooth_.data() : nullptr,
                                   sizes_.hidden,
                                   reinterpret_cast<std::int8_t*>(q.data()),
                                   &scale);
  return q;
}

/// What combine reads for a row of this token.
std::vector<std::byte> Inputs::returned_row(std::int64_t token) const {
  const std::byte* x = workload_.x(workload_.rank(), token);
  std::vector<std::byte> row(x, x + sizes_.row_bytes());
  if (variant_.comm_quant != 0) {
    std::vector<std::int8_t> q(static_cast<std::size_t>(sizes_.hidden));
    std::vector<std::byte> scales(row.size());
    workload_.kernels().comm_quantise_row(x, sizes_.dtype, sizes_.hidden, q.data(), scales.data());
    workload_.kernels().comm_dequantise_row(
        q.data(), scales.data(), sizes_.dtype, sizes_.hidden, row.data());
  }
  return row;
}

Expected Inputs::expected_sum(std::int64_t token) const {
  const numerics::Kernels& kernels = workload_.kernels();
  const std::vector<std::byte> row = returned_row(token);
  const float* weights = workload_.weights().data() + token * sizes_.topk;
  std::vector<numerics::Term> terms;
  for (std::int64_t k = 0; k < sizes_.topk - (variant_.alpha_dims > 0 ? 1 : 0); ++k) {
    terms.push_back({row.data(), weights[k]});
  }
  if (variant_.norm) {
    terms.push_back({workload_.x(workload_.rank(), token), 1.0F});
  }
  std::vector<float> sum(static_cast<std::size_t>(sizes_.hidden));
  kernels.accumulate(terms.data(),
                     static_cast<std::int64_t>(terms.size()),
                     sizes_.dtype,
                     true,
                     sizes_.hidden,
                     sum.data());
  if (variant_.alpha_dims > 0) {
    const float dot = kernels.dot(row.data(), alpha_.data(), sizes_.dtype, sizes_.hidden);
    const auto mixed = numerics::softmax_pair(dot, dot);
    const float p1 = variant_.alpha_dims == 1 ? 0.25F : mixed.p1;
    const float p2 = variant_.alpha_dims == 1 ? 0.25F : mixed.p2;
    const numerics::Term parts[] = {{row.data(), p1}, {gamma_.data(), p2}};
    std::vector<float> constant(sum.size());
    kernels.accumulate(parts, 2, sizes_.dtype, true, sizes_.hidden, constant.data());
    const numerics::Term last{constant.data(), weights[sizes_.topk - 1]};
    kernels.accumulate(&last, 1, DType::kFloat32, false, sizes_.hidden, sum.data());
  }
  Expected expected;
  expected.sum.resize(static_cast<std::size_t>(sizes_.row_bytes()));
  if (!variant_.norm) {
    kernels.round_row(sum.data(), sizes_.dtype, sizes_.hidden, expected.sum.data());
  } else {
    const auto inverse_h = static_cast<float>(1.0 / static_cast<double>(sizes_.hidden));
    const float mean_square = kernels.round_row_mean_square(
        sum.data(), sizes_.dtype, sizes_.hidden, inverse_h, expected.sum.data());
    const float rstd = numerics::rstd_of(mean_square, static_cast<float>(kNormEps));
    expected.normalised.resize(expected.sum.size());
    kernels.normalise_row(
        sum.data(), rstd, gamma_.data(), sizes_.dtype, sizes_.hidden, expected.normalised.data());
  }
  return expected;
}

}  // namespace waybill::bench
