#include "engine/combine_sum.h"

#include <algorithm>
#include <cstring>

#include "numerics/convert.h"
#include "numerics/special.h"

namespace waybill::engine {

using numerics::Term;

TokenSums::TokenSums(const numerics::Kernels& kernels,
                     const CombinePlan& plan,
                     const contract::CombineShape& shape,
                     const CombineArgs& args,
                     const CombineAddRmsNormArgs* norm,
                     CombineOutputs& outputs)
    : kernels_(kernels),
      plan_(plan),
      shape_(shape),
      args_(args),
      norm_(norm),
      outputs_(outputs),
      pairs_(args.x_active_mask, args.expert_ids),
      weights_(args.expert_scales),
      row_bytes_(shape.h * size_of(shape.dtype)) {}

TokenSums::Buffers& TokenSums::buffers() const {
  thread_local Buffers buffers;
  const auto h = static_cast<std::size_t>(shape_.h);
  const auto row_bytes = static_cast<std::size_t>(row_bytes_);
  const auto slots = static_cast<std::size_t>(shape_.slots());
  const bool exact = norm_ == nullptr && shape_.num_constant == 0;
  buffers.terms.reserve(slots + 2);
  buffers.dequantised.resize(shape_.quantised ? slots * row_bytes : 0);
  buffers.gathered.resize(row_bytes * kNumGathered);
  buffers.sum.resize(exact ? 0 : h);
  buffers.constant.resize(shape_.num_constant > 0 ? h : 0);
  return buffers;
}

void TokenSums::run(std::int64_t begin, std::int64_t end) const {
  Buffers& own = buffers();
  for (std::int64_t t = begin; t < end; ++t) {
    run_token(t, own);
  }
}

std::byte* TokenSums::gathered(Buffers& buffers, Gathered which) const {
  return buffers.gathered.data() + which * row_bytes_;
}

std::byte* TokenSums::out(Tensor& tensor, std::int64_t token) const {
  return tensor.buffer.data() + token * row_bytes_;
}

const void* TokenSums::row_of(std::int64_t token, std::int64_t slot, Buffers& buffers) const {
  const auto place = static_cast<std::size_t>(token * shape_.slots() + slot);
  const std::byte* row = plan_.rows[place];
  if (!shape_.quantised) {
    return row;
  }
  std::byte* dequantised = buffers.dequantised.data() + slot * row_bytes_;
  kernels_.comm_dequantise_row(reinterpret_cast<const std::int8_t*>(row),
                               plan_.scales[place],
                               shape_.dtype,
                               shape_.h,
                               dequantised);
  return dequantised;
}

/// Terms in the order of docs/contract/operators.md section 7.2: k, then shared experts, then
/// shared_expert_x; the residual of 7.4 comes last with weight 1. Only a constant expert's row,
/// which is float32, makes the sum take more than one step.
void TokenSums::run_token(std::int64_t token, Buffers& buffers) const {
  const bool active = pairs_.token(token);
  if (norm_ != nullptr && !active) {
    std::memset(out(outputs_.x, token), 0, static_cast<std::size_t>(row_bytes_));
    std::memset(out(outputs_.y, token), 0, static_cast<std::size_t>(row_bytes_));
    outputs_.rstd.data<float>()[token] = 0.0F;
    return;
  }
  bool fresh = true;
  std::vector<Term>& terms = buffers.terms;
  terms.clear();
  for (std::int64_t k = 0; k < shape_.k; ++k) {
    add_routed(token, k, buffers, fresh);
  }
  for (std::int64_t slot = shape_.k; active && slot < shape_.slots(); ++slot) {
    terms.push_back({row_of(token, slot, buffers), 1.0F});
  }
  if (args_.shared_expert_x && active) {
    const RowSource shared(*args_.shared_expert_x);
    terms.push_back({shared.get(token, gathered(buffers, kSharedX)), 1.0F});
  }
  if (norm_ != nullptr) {
    const RowSource residual(norm_->residual_x);
    terms.push_back({residual.get(token, gathered(buffers, kResidual)), 1.0F});
    flush(buffers, fresh);
    normalise(token, buffers);
  } else if (fresh) {
    kernels_.weighted_sum(terms.data(),
                          static_cast<std::int64_t>(terms.size()),
                          shape_.dtype,
                          shape_.h,
                          out(outputs_.x, token));
  } else {
    flush(buffers, fresh);
    kernels_.round_row(buffers.sum.data(), shape_.dtype, shape_.h, out(outputs_.x, token));
  }
}

void TokenSums::add_routed(std::int64_t token,
                           std::int64_t k,
                           Buffers& buffers,
                           bool& fresh) const {
  const std::int64_t id = pairs_.id(token, k);
  if (shape_.topology.is_routed(id)) {
    buffers.terms.push_back({row_of(token, k, buffers), weights_(token, k)});
    return;
  }
  if (id == contract::kNotRouted) {
    return;
  }
  const std::int64_t special = id - shape_.topology.special_begin - shape_.num_zero;
  if (special >= shape_.num_copy) {
    add_constant(token, special - shape_.num_copy, weights_(token, k), buffers, fresh);
  } else if (special >= 0) {
    const RowSource ori_x(*args_.ori_x);
    buffers.terms.push_back({ori_x.get(token, gathered(buffers, kOriX)), weights_(token, k)});
  }
}

/// Adds what has gathered to the sum.
void TokenSums::flush(Buffers& buffers, bool& fresh) const {
  kernels_.accumulate(buffers.terms.data(),
                      static_cast<std::int64_t>(buffers.terms.size()),
                      shape_.dtype,
                      fresh,
                      shape_.h,
                      buffers.sum.data());
  buffers.terms.clear();
  fresh = false;
}

void TokenSums::add_constant(
    std::int64_t token, std::int64_t expert, float weight, Buffers& buffers, bool& fresh) const {
  const void* x = RowSource(*args_.ori_x).get(token, gathered(buffers, kOriX));
  const void* v = RowSource(*args_.const_expert_v).get(expert, gathered(buffers, kV));
  const TensorView& first = *args_.const_expert_alpha_1;
  const TensorView& second = *args_.const_expert_alpha_2;
  float p1 = 0.0F;
  float p2 = 0.0F;
  if (first.shape.rank() == 1) {
    p1 = scalar(first, expert);
    p2 = scalar(second, expert);
  } else {
    const void* alpha_1 = RowSource(first).get(expert, gathered(buffers, kAlpha1));
    const void* alpha_2 = RowSource(second).get(expert, gathered(buffers, kAlpha2));
    const auto mixed = numerics::softmax_pair(kernels_.dot(x, alpha_1, shape_.dtype, shape_.h),
                                              kernels_.dot(x, alpha_2, shape_.dtype, shape_.h));
    p1 = mixed.p1;
    p2 = mixed.p2;
  }
  const Term parts[] = {{x, p1}, {v, p2}};
  kernels_.accumulate(parts, 2, shape_.dtype, true, shape_.h, buffers.constant.data());
  flush(buffers, fresh);
  const Term row{buffers.constant.data(), weight};
  kernels_.accumulate(&row, 1, DType::kFloat32, false, shape_.h, buffers.sum.data());
}

float TokenSums::scalar(const TensorView& vector, std::int64_t i) const {
  float value = 0.0F;
  const Term term{
      static_cast<const std::byte*>(vector.data) + i * vector.strides[0] * size_of(vector.dtype),
      1.0F};
  kernels_.accumulate(&term, 1, vector.dtype, true, 1, &value);
  return value;
}

/// The row is still in the cache.
void TokenSums::normalise(std::int64_t token, Buffers& buffers) const {
  const float* f = buffers.sum.data();
  const float inverse_h = static_cast<float>(1.0 / static_cast<double>(shape_.h));
  const float mean_square =
      kernels_.round_row_mean_square(f, shape_.dtype, shape_.h, inverse_h, out(outputs_.x, token));
  const float rstd = numerics::rstd_of(mean_square, static_cast<float>(norm_->norm_eps));
  const void* gamma = RowSource(norm_->gamma).get(0, gathered(buffers, kGamma));
  outputs_.rstd.data<float>()[token] = rstd;
  kernels_.normalise_row(f, rstd, gamma, shape_.dtype, shape_.h, out(outputs_.y, token));
}

}  // namespace waybill::engine
