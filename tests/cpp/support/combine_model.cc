#include <cstring>
#include <string>

#include "numerics/convert.h"
#include "numerics/float_mode.h"
#include "numerics/kernels.h"
#include "numerics/special.h"
#include "support/layer_case.h"

namespace waybill::testing {
namespace {

const numerics::Kernels& scalar() { return numerics::kernels(SimdLevel::kScalar); }

/// Element i of a row.
float load(DType dtype, const std::byte* row, std::int64_t i) {
  if (dtype == DType::kFloat32) {
    float value = 0;
    std::memcpy(&value, row + 4 * i, 4);
    return value;
  }
  std::uint16_t bits = 0;
  std::memcpy(&bits, row + 2 * i, 2);
  return dtype == DType::kBFloat16 ? numerics::bfloat16_to_float(bits)
                                   : numerics::float16_to_float(bits);
}

void store(DType dtype, std::byte* row, std::int64_t i, float value) {
  if (dtype == DType::kFloat32) {
    std::memcpy(row + 4 * i, &value, 4);
    return;
  }
  const std::uint16_t bits = dtype == DType::kBFloat16 ? numerics::float_to_bfloat16(value)
                                                       : numerics::float_to_float16(value);
  std::memcpy(row + 2 * i, &bits, 2);
}

using Row = std::vector<std::byte>;

Row empty_row(const LayerCase& layer) {
  return Row(static_cast<std::size_t>(layer.h * size_of(layer.dtype)));
}

/// The row that expert `rank` returns, as the receiver sees it. With a TP peer the part of its
/// experts is added, which lies behind the peer's own rows.
Row returned_row(const LayerCase& layer, int rank, std::int64_t row, const LayerCase* peer) {
  Row out = empty_row(layer);
  layer.fill_expert_row(rank, row, out.data());
  if (peer != nullptr) {
    Row part = empty_row(layer);
    const auto own_rows = static_cast<std::int64_t>(model_rows(*peer, rank).size());
    peer->fill_expert_row(rank, own_rows + row, part.data());
    for (std::int64_t i = 0; i < layer.h; ++i) {
      const DType dtype = layer.dtype;
      store(dtype,
            out.data(),
            i,
            numerics::add_rn(load(dtype, out.data(), i), load(dtype, part.data(), i)));
    }
  }
  if (layer.comm_quant_mode == 2) {
    std::vector<std::int8_t> q(static_cast<std::size_t>(layer.h));
    std::vector<std::byte> scales(
        static_cast<std::size_t>(numerics::num_comm_groups(layer.h) * size_of(layer.dtype)));
    scalar().comm_quantise_row(out.data(), layer.dtype, layer.h, q.data(), scales.data());
    scalar().comm_dequantise_row(q.data(), scales.data(), layer.dtype, layer.h, out.data());
  }
  return out;
}

/// The sums of docs/contract/operators.md section 7.2 for the tokens of one rank, one term after
/// the other.
class NaiveSums {
 public:
  NaiveSums(const LayerCase& layer, int rank, const LayerCase* peer)
      : layer_(layer),
        rank_(rank),
        input_(layer.ranks[static_cast<std::size_t>(rank)]),
        slots_(layer.k + layer.shared_experts()),
        rows_(static_cast<std::size_t>(input_.bs * slots_)) {
    for (int r = 0; r < layer.num_ranks; ++r) {
      const std::vector<ModelRow> rows = model_rows(layer, r);
      for (std::size_t i = 0; i < rows.size(); ++i) {
        if (rows[i].source == rank) {
          rows_[static_cast<std::size_t>(rows[i].token * slots_ + rows[i].slot)] =
              returned_row(layer, r, static_cast<std::int64_t>(i), peer);
        }
      }
    }
  }

  std::vector<float> of(std::int64_t token) {
    sum_.assign(static_cast<std::size_t>(layer_.h), 0.0F);
    if (!layer_.active(rank_, token)) {
      return sum_;
    }
    for (std::int64_t k = 0; k < layer_.k; ++k) {
      if (layer_.active(rank_, token, k)) {
        add_pair(token, k);
      }
    }
    for (std::int64_t slot = layer_.k; slot < slots_; ++slot) {
      add(row(token, slot).data(), 1.0F);
    }
    if (input_.with_shared_x) {
      add(token_row(input_.shared_x, token), 1.0F);
    }
    return sum_;
  }

 private:
  const Row& row(std::int64_t token, std::int64_t slot) const {
    return rows_[static_cast<std::size_t>(token * slots_ + slot)];
  }
  const std::byte* token_row(const std::vector<std::byte>& rows, std::int64_t i) const {
    return rows.data() + i * layer_.h * size_of(layer_.dtype);
  }
  float& at(std::int64_t i) { return sum_[static_cast<std::size_t>(i)]; }

  void add(const std::byte* values, float weight) {
    for (std::int64_t i = 0; i < layer_.h; ++i) {
      at(i) = numerics::add_rn(at(i), numerics::mul_rn(load(layer_.dtype, values, i), weight));
    }
  }

  void add_pair(std::int64_t token, std::int64_t k) {
    const std::int64_t id = input_.ids[static_cast<std::size_t>(token * layer_.k + k)];
    const float weight = input_.weights[static_cast<std::size_t>(token * layer_.k + k)];
    const std::int64_t copy = layer_.given_experts() + layer_.num_zero;
    const std::int64_t constant = copy + layer_.num_copy;
    if (id < layer_.num_experts) {
      add(row(token, k).data(), weight);
    } else if (id >= constant) {
      add_constant(token, id - constant, weight);
    } else if (id >= copy) {
      add(token_row(input_.ori_x, token), weight);
    }
  }

  void add_constant(std::int64_t token, std::int64_t j, float weight) {
    const std::byte* x = token_row(input_.ori_x, token);
    const std::byte* v = token_row(layer_.const_v, j);
    numerics::SoftmaxPair p{};
    if (layer_.wide_alphas) {
      const auto logit = [&](const std::vector<std::byte>& alphas) {
        return scalar().dot(x, token_row(alphas, j), layer_.dtype, layer_.h);
      };
      p = numerics::softmax_pair(logit(layer_.alpha_1), logit(layer_.alpha_2));
    } else {
      p = {load(layer_.dtype, layer_.alpha_1.data(), j),
           load(layer_.dtype, layer_.alpha_2.data(), j)};
    }
    for (std::int64_t i = 0; i < layer_.h; ++i) {
      const float constant = numerics::add_rn(numerics::mul_rn(load(layer_.dtype, x, i), p.p1),
                                              numerics::mul_rn(load(layer_.dtype, v, i), p.p2));
      at(i) = numerics::add_rn(at(i), numerics::mul_rn(constant, weight));
    }
  }

  const LayerCase& layer_;
  const int rank_;
  const LayerCase::RankInput& input_;
  const std::int64_t slots_;
  std::vector<Row> rows_;  ///< by (token, slot)
  std::vector<float> sum_;
};

std::string check_row(const char* what, const Tensor& got, std::int64_t token, const Row& want) {
  const auto bytes = static_cast<std::int64_t>(want.size());
  return std::memcmp(got.buffer.data() + token * bytes, want.data(), want.size()) == 0
             ? ""
             : std::string(what) + ": token " + std::to_string(token);
}

}  // namespace

std::string check_combine(const LayerCase& layer,
                          int rank,
                          const Tensor& got,
                          const LayerCase* peer) {
  const numerics::DefaultFloatMode float_mode;
  const std::int64_t bs = layer.ranks[static_cast<std::size_t>(rank)].bs;
  if (got.shape != Dims{bs, layer.h} || got.dtype != layer.dtype) {
    return "combine: shape or dtype";
  }
  NaiveSums sums(layer, rank, peer);
  Row want = empty_row(layer);
  std::string text;
  for (std::int64_t t = 0; t < bs && text.empty(); ++t) {
    const std::vector<float> sum = sums.of(t);
    for (std::int64_t i = 0; i < layer.h; ++i) {
      store(layer.dtype, want.data(), i, sum[static_cast<std::size_t>(i)]);
    }
    text = check_row("combine", got, t, want);
  }
  return text;
}

std::string check_norm(const LayerCase& layer,
                       int rank,
                       const CombineAddRmsNormResult& got,
                       const LayerCase* peer) {
  const numerics::DefaultFloatMode float_mode;
  const LayerCase::RankInput& input = layer.ranks[static_cast<std::size_t>(rank)];
  const DType dtype = layer.dtype;
  const Dims rows{input.bs, 1, layer.h};
  if (got.x.shape != rows || got.y.shape != rows || got.rstd.shape != Dims{input.bs, 1, 1} ||
      got.x.dtype != dtype || got.y.dtype != dtype || got.rstd.dtype != DType::kFloat32) {
    return "combine_add_rms_norm: shape or dtype";
  }
  NaiveSums sums(layer, rank, peer);
  std::string text;
  for (std::int64_t t = 0; t < input.bs && text.empty(); ++t) {
    Row x = empty_row(layer);
    Row y = empty_row(layer);
    float rstd = 0.0F;
    if (layer.active(rank, t)) {
      std::vector<float> f = sums.of(t);
      for (std::int64_t i = 0; i < layer.h; ++i) {
        float& value = f[static_cast<std::size_t>(i)];
        value = numerics::add_rn(value, load(dtype, input.residual.data(), t * layer.h + i));
        store(dtype, x.data(), i, value);
      }
      const float inverse_h = 1.0F / static_cast<float>(layer.h);
      Row rounded = empty_row(layer);
      const float mean_square =
          scalar().round_row_mean_square(f.data(), dtype, layer.h, inverse_h, rounded.data());
      rstd = numerics::rstd_of(mean_square, 1e-5F);
      for (std::int64_t i = 0; i < layer.h; ++i) {
        store(dtype, y.data(), i, numerics::mul_rn(f[static_cast<std::size_t>(i)], rstd));
        store(dtype,
              y.data(),
              i,
              numerics::mul_rn(load(dtype, y.data(), i), load(dtype, layer.gamma.data(), i)));
      }
    }
    text = check_row("x", got.x, t, x) + check_row("y", got.y, t, y);
    if (std::memcmp(got.rstd.data<float>() + t, &rstd, sizeof(rstd)) != 0) {
      text += "rstd: token " + std::to_string(t);
    }
  }
  return text;
}

}  // namespace waybill::testing
