#include <algorithm>
#include <cstring>
#include <string>
#include <tuple>

#include "numerics/float_mode.h"
#include "numerics/kernels.h"
#include "support/layer_case.h"

namespace waybill::testing {
namespace {

const numerics::Kernels& scalar() { return numerics::kernels(SimdLevel::kScalar); }

std::string differs(const char* what, std::int64_t index, double got, double want) {
  return std::string(what) + "[" + std::to_string(index) + "]: got " + std::to_string(got) +
         ", want " + std::to_string(want);
}

/// Rank that owns MoE expert e.
int owner(const LayerCase& layer, std::int64_t e) {
  const std::int64_t per_rank = layer.num_experts / (layer.num_ranks - layer.num_shared_ranks);
  return layer.num_shared_ranks + static_cast<int>(e / per_rank);
}

/// The row as dispatch hands it out, and its scale.
void expected_row(const LayerCase& layer,
                  const ModelRow& row,
                  std::vector<std::byte>& bytes,
                  float& scale) {
  const LayerCase::RankInput& source = layer.ranks[static_cast<std::size_t>(row.source)];
  const std::byte* x = source.x.data() + row.token * layer.x_stride * size_of(layer.dtype);
  if (!layer.quantised) {
    bytes.assign(x, x + layer.h * size_of(layer.dtype));
    return;
  }
  const float* smooth = nullptr;
  if (layer.smooth) {
    const std::int64_t index =
        row.slot >= layer.k
            ? row.slot - layer.k
            : layer.shared_experts() +
                  source.ids[static_cast<std::size_t>(row.token * layer.k + row.slot)];
    smooth = source.smooth.data() + index * layer.h;
  }
  bytes.resize(static_cast<std::size_t>(layer.h));
  scalar().quantise_row(
      x, layer.dtype, smooth, layer.h, reinterpret_cast<std::int8_t*>(bytes.data()), &scale);
}

std::string check_counts(const LayerCase& layer,
                         int rank,
                         const std::vector<ModelRow>& rows,
                         const DispatchResult& got) {
  std::int64_t total = 0;
  std::int64_t previous = 0;
  for (std::int64_t l = 0; l < layer.local_experts(rank); ++l) {
    for (int r = 0; r < layer.num_ranks; ++r) {
      total += std::count_if(rows.begin(), rows.end(), [&](const ModelRow& row) {
        return row.local_expert == l && row.source == r;
      });
      const std::int64_t index = l * layer.num_ranks + r;
      if (got.ep_recv_counts.data<std::int32_t>()[index] != total) {
        return differs("ep_recv_counts",
                       index,
                       got.ep_recv_counts.data<std::int32_t>()[index],
                       static_cast<double>(total));
      }
    }
    const std::int64_t want = layer.nums_type == 1 ? total - previous : total;
    previous = total;
    if (got.expert_token_nums.data<std::int64_t>()[l] != want) {
      return differs("expert_token_nums",
                     l,
                     static_cast<double>(got.expert_token_nums.data<std::int64_t>()[l]),
                     static_cast<double>(want));
    }
  }
  for (std::int64_t i = layer.local_experts(rank) * layer.num_ranks;
       i < got.ep_recv_counts.shape[0];
       ++i) {
    if (got.ep_recv_counts.data<std::int32_t>()[i] != 0) {
      return differs("ep_recv_counts", i, got.ep_recv_counts.data<std::int32_t>()[i], 0);
    }
  }
  return "";
}

/// The row that expert `rank` returns, as the receiver sees it.
std::vector<std::byte> returned_row(const LayerCase& layer, int rank, std::int64_t row) {
  const auto bytes = static_cast<std::size_t>(layer.h * size_of(layer.dtype));
  std::vector<std::byte> out(bytes);
  layer.fill_expert_row(rank, row, out.data());
  if (layer.comm_quant_mode == 2) {
    std::vector<std::int8_t> q(static_cast<std::size_t>(layer.h));
    std::vector<std::byte> scales(
        static_cast<std::size_t>(numerics::num_comm_groups(layer.h) * size_of(layer.dtype)));
    scalar().comm_quantise_row(out.data(), layer.dtype, layer.h, q.data(), scales.data());
    scalar().comm_dequantise_row(q.data(), scales.data(), layer.dtype, layer.h, out.data());
  }
  return out;
}

}  // namespace

std::vector<ModelRow> model_rows(const LayerCase& layer, int rank) {
  std::vector<ModelRow> rows;
  for (int source = 0; source < layer.num_ranks; ++source) {
    const LayerCase::RankInput& input = layer.ranks[static_cast<std::size_t>(source)];
    for (std::int64_t t = 0; t < input.bs; ++t) {
      for (std::int64_t j = 0; j < layer.k; ++j) {
        const std::int64_t e = input.ids[static_cast<std::size_t>(t * layer.k + j)];
        if (layer.active(source, t, j) && owner(layer, e) == rank) {
          rows.push_back({e % layer.local_experts(rank), source, t, j});
        }
      }
      for (int s = 0; s < layer.shared_experts(); ++s) {
        const int per_shared = layer.num_shared_ranks / layer.num_shared;
        if (layer.active(source, t) && source % per_shared + s * per_shared == rank) {
          rows.push_back({0, source, t, layer.k + s});
        }
      }
    }
  }
  std::stable_sort(rows.begin(), rows.end(), [](const ModelRow& a, const ModelRow& b) {
    return std::tie(a.local_expert, a.source, a.token, a.slot) <
           std::tie(b.local_expert, b.source, b.token, b.slot);
  });
  return rows;
}

std::string check_dispatch(const LayerCase& layer, int rank, const DispatchResult& got) {
  const numerics::DefaultFloatMode float_mode;
  const std::vector<ModelRow> rows = model_rows(layer, rank);
  if (got.rows != static_cast<std::int64_t>(rows.size())) {
    return differs("rows", 0, static_cast<double>(got.rows), static_cast<double>(rows.size()));
  }
  if (std::string text = check_counts(layer, rank, rows, got); !text.empty()) {
    return text;
  }
  std::vector<std::byte> want;
  for (std::int64_t i = 0; i < got.rows; ++i) {
    const ModelRow& row = rows[static_cast<std::size_t>(i)];
    float scale = 0;
    expected_row(layer, row, want, scale);
    const auto bytes = static_cast<std::int64_t>(want.size());
    if (std::memcmp(got.expand_x.buffer.data() + i * bytes, want.data(), want.size()) != 0) {
      return "expand_x: row " + std::to_string(i);
    }
    if (layer.quantised &&
        std::memcmp(got.dynamic_scales.data<float>() + i, &scale, sizeof(scale)) != 0) {
      return differs("dynamic_scales", i, got.dynamic_scales.data<float>()[i], scale);
    }
    const std::int32_t* triple = got.assist_info_for_combine.data<std::int32_t>() + 3 * i;
    if (triple[0] != row.source || triple[1] != row.token || triple[2] != row.slot) {
      return "assist_info_for_combine: row " + std::to_string(i);
    }
    const float weight =
        row.slot >= layer.k
            ? 1.0F
            : layer.ranks[static_cast<std::size_t>(row.source)]
                  .dispatch_scales[static_cast<std::size_t>(row.token * layer.k + row.slot)];
    if (layer.weighted && got.expand_scales.data<float>()[i] != weight) {
      return differs("expand_scales", i, got.expand_scales.data<float>()[i], weight);
    }
  }
  for (std::int64_t i = 0; !layer.weighted && i < got.expand_scales.shape[0]; ++i) {
    if (got.expand_scales.data<float>()[i] != 0) {
      return differs("expand_scales", i, got.expand_scales.data<float>()[i], 0);
    }
  }
  return "";
}

std::string check_combine(const LayerCase& layer, int rank, const Tensor& got) {
  const numerics::DefaultFloatMode float_mode;
  const LayerCase::RankInput& input = layer.ranks[static_cast<std::size_t>(rank)];
  const std::int64_t slots = layer.k + layer.shared_experts();
  const std::int64_t bytes = layer.h * size_of(layer.dtype);
  std::vector<std::vector<std::byte>> row_of(static_cast<std::size_t>(input.bs * slots));
  for (int r = 0; r < layer.num_ranks; ++r) {
    const std::vector<ModelRow> rows = model_rows(layer, r);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (rows[i].source == rank) {
        row_of[static_cast<std::size_t>(rows[i].token * slots + rows[i].slot)] =
            returned_row(layer, r, static_cast<std::int64_t>(i));
      }
    }
  }
  std::vector<std::byte> want(static_cast<std::size_t>(bytes));
  for (std::int64_t t = 0; t < input.bs; ++t) {
    std::vector<numerics::Term> terms;
    for (std::int64_t slot = 0; slot < slots; ++slot) {
      const auto& row = row_of[static_cast<std::size_t>(t * slots + slot)];
      if (!row.empty()) {
        const float weight =
            slot < layer.k ? input.weights[static_cast<std::size_t>(t * layer.k + slot)] : 1.0F;
        terms.push_back({row.data(), weight});
      }
    }
    if (input.with_shared_x && layer.active(rank, t)) {
      terms.push_back({input.shared_x.data() + t * bytes, 1.0F});
    }
    scalar().weighted_sum(
        terms.data(), static_cast<std::int64_t>(terms.size()), layer.dtype, layer.h, want.data());
    if (std::memcmp(got.buffer.data() + t * bytes, want.data(), want.size()) != 0) {
      return "combine: token " + std::to_string(t);
    }
  }
  return "";
}

}  // namespace waybill::testing
