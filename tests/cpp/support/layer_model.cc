#include <algorithm>
#include <cstring>
#include <string>
#include <tuple>

#include "contract/check.h"
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

std::string shape_differs(const char* what, const Tensor& got, const Dims& want) {
  return got.shape == want
             ? ""
             : std::string(what) + ": got the shape " + contract::describe(got.shape) + ", want " +
                   contract::describe(want);
}

/// Rank that owns MoE expert e.
int owner(const LayerCase& layer, std::int64_t e) {
  const std::int64_t per_rank = layer.num_experts / (layer.num_ranks - layer.num_shared_ranks);
  return layer.num_shared_ranks + static_cast<int>(e / per_rank);
}

/// The shapes of docs/contract/operators.md section 2, from the arguments as they were given.
std::string check_shapes(const LayerCase& layer, int rank, const DispatchResult& got) {
  const std::int64_t e = layer.given_ranks();
  const std::int64_t sr = layer.given_shared_ranks();
  const std::int64_t bs = layer.ranks[static_cast<std::size_t>(rank)].bs;
  const std::int64_t gbs = layer.global_bs == 0 ? bs * e : layer.global_bs;
  const std::int64_t local = layer.given_experts() / (e - sr);
  const bool shared = layer.group_rank(rank) < sr;
  const std::int64_t a_moe = gbs * std::min(local, layer.k);
  const std::int64_t r = sr == 0 ? 1 : sr / layer.num_shared;
  const std::int64_t a_shared = sr == 0 ? 0 : gbs / e * ((e + r - 1) / r);
  const std::int64_t a = layer.elastic() ? std::max(a_moe, a_shared) : shared ? a_shared : a_moe;
  const std::int64_t entries = layer.elastic() ? std::max<std::int64_t>(local, 1)
                               : shared        ? 1
                                               : local;
  const std::int64_t tp = layer.has_tp() ? 2 : 1;
  const std::int64_t more =
      layer.weighted ? 2 * gbs * layer.k * std::max<std::int64_t>(e / 8, 1) : 0;
  const bool triples = layer.form == IndexForm::kTriples;
  std::string text = shape_differs("expand_x", got.expand_x, {tp * a, layer.h});
  text += shape_differs("dynamic_scales", got.dynamic_scales, {tp * a});
  text += shape_differs("assist_info_for_combine",
                        got.assist_info_for_combine,
                        {triples ? std::max(bs * layer.k, a * 128) : bs * layer.k});
  text += shape_differs("expert_token_nums", got.expert_token_nums, {entries});
  if (!layer.set_up) {
    text += shape_differs("ep_recv_counts", got.ep_recv_counts, {tp * e * entries + more});
    text += shape_differs("tp_recv_counts", got.tp_recv_counts, {layer.has_tp() ? 2 : 0});
    text += shape_differs("expand_scales", got.expand_scales, {a});
  }
  return text;
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
            : layer.shared_experts() + (layer.scale_of_shared ? 1 : 0) +
                  source.ids[static_cast<std::size_t>(row.token * layer.k + row.slot)];
    smooth = source.smooth.data() + index * layer.h;
  }
  bytes.resize(static_cast<std::size_t>(layer.h));
  scalar().quantise_row(
      x, layer.dtype, smooth, layer.h, reinterpret_cast<std::int8_t*>(bytes.data()), &scale);
}

/// Prefix sums of `rows` from element `begin` of ep_recv_counts on.
std::string check_prefix_sums(const LayerCase& layer,
                              int rank,
                              const std::vector<ModelRow>& rows,
                              const std::int32_t* got) {
  std::int64_t total = 0;
  for (std::int64_t l = 0; l < layer.local_experts(rank); ++l) {
    for (int r = 0; r < layer.num_ranks; ++r) {
      total += std::count_if(rows.begin(), rows.end(), [&](const ModelRow& row) {
        return row.local_expert == l && row.source == r;
      });
      const std::int64_t index = l * layer.num_ranks + r;
      if (got[index] != total) {
        return differs("ep_recv_counts", index, got[index], static_cast<double>(total));
      }
    }
  }
  return "";
}

std::string check_counts(const LayerCase& layer,
                         int rank,
                         const std::vector<ModelRow>& rows,
                         const std::vector<ModelRow>& peer_rows,
                         const DispatchResult& got) {
  const auto* counts = got.ep_recv_counts.data<std::int32_t>();
  std::string text = check_prefix_sums(layer, rank, rows, counts);
  std::int64_t end = layer.local_experts(rank) * layer.num_ranks;
  if (layer.has_tp()) {
    text += check_prefix_sums(layer, rank, peer_rows, counts + end);
    end *= 2;
    const auto* tp = got.tp_recv_counts.data<std::int32_t>();
    if (tp[layer.tp_rank] != static_cast<std::int64_t>(rows.size()) ||
        tp[1 - layer.tp_rank] != static_cast<std::int64_t>(peer_rows.size())) {
      text += differs("tp_recv_counts", 0, tp[0], static_cast<double>(rows.size()));
    }
  }
  for (std::int64_t i = end; i < got.ep_recv_counts.shape[0]; ++i) {
    if (counts[i] != 0) {
      return text + differs("ep_recv_counts", i, counts[i], 0);
    }
  }
  std::int64_t before = 0;
  const auto* nums = got.expert_token_nums.data<std::int64_t>();
  for (std::int64_t l = 0; l < got.expert_token_nums.shape[0]; ++l) {
    std::int64_t want = 0;
    if (l < layer.local_experts(rank)) {
      const auto here = [l](const ModelRow& row) { return row.local_expert == l; };
      want = std::count_if(rows.begin(), rows.end(), here) +
             std::count_if(peer_rows.begin(), peer_rows.end(), here);
      want += layer.nums_type == 1 ? 0 : before;
    }
    before = want;
    if (nums[l] != want) {
      return text +
             differs(
                 "expert_token_nums", l, static_cast<double>(nums[l]), static_cast<double>(want));
    }
  }
  return text;
}

/// The rows from row `first` of expand_x on, with their scales.
std::string check_rows(const LayerCase& layer,
                       const std::vector<ModelRow>& rows,
                       const DispatchResult& got,
                       std::int64_t first) {
  std::vector<std::byte> want;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    float scale = 0;
    expected_row(layer, rows[i], want, scale);
    const std::int64_t place = first + static_cast<std::int64_t>(i);
    const auto bytes = static_cast<std::int64_t>(want.size());
    if (std::memcmp(got.expand_x.buffer.data() + place * bytes, want.data(), want.size()) != 0) {
      return "expand_x: row " + std::to_string(place);
    }
    if (layer.quantised &&
        std::memcmp(got.dynamic_scales.data<float>() + place, &scale, sizeof(scale)) != 0) {
      return differs("dynamic_scales", place, got.dynamic_scales.data<float>()[place], scale);
    }
  }
  return "";
}

std::string check_triples(const std::vector<ModelRow>& rows, const DispatchResult& got) {
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::int32_t* triple = got.assist_info_for_combine.data<std::int32_t>() + 3 * i;
    if (triple[0] != rows[i].source || triple[1] != rows[i].token || triple[2] != rows[i].slot) {
      return "assist_info_for_combine: row " + std::to_string(i);
    }
  }
  return "";
}

/// expand_idx of the pairs that are sent, by counting anew for each.
std::string check_occurrences(const LayerCase& layer, int rank, const DispatchResult& got) {
  const LayerCase::RankInput& input = layer.ranks[static_cast<std::size_t>(rank)];
  const auto pairs = static_cast<std::int64_t>(input.ids.size());
  const auto id_of = [&](std::int64_t i) { return input.ids[static_cast<std::size_t>(i)]; };
  for (std::int64_t i = 0; i < pairs; ++i) {
    if (!layer.active(rank, i / layer.k, i % layer.k) || id_of(i) >= layer.num_experts) {
      continue;
    }
    std::int64_t want = 0;
    for (std::int64_t j = 0; j < i; ++j) {
      want += layer.active(rank, j / layer.k, j % layer.k) && id_of(j) == id_of(i) ? 1 : 0;
    }
    const std::int32_t value = got.assist_info_for_combine.data<std::int32_t>()[i];
    if (value != want) {
      return differs("expand_idx", i, value, static_cast<double>(want));
    }
  }
  return "";
}

std::string check_expand_scales(const LayerCase& layer,
                                const std::vector<ModelRow>& rows,
                                const DispatchResult& got) {
  const auto* scales = got.expand_scales.data<float>();
  for (std::size_t i = 0; layer.weighted && i < rows.size(); ++i) {
    const ModelRow& row = rows[i];
    const float weight =
        row.slot >= layer.k
            ? 1.0F
            : layer.ranks[static_cast<std::size_t>(row.source)]
                  .dispatch_scales[static_cast<std::size_t>(row.token * layer.k + row.slot)];
    if (scales[i] != weight) {
      return differs("expand_scales", static_cast<std::int64_t>(i), scales[i], weight);
    }
  }
  for (std::int64_t i = 0; !layer.weighted && i < got.expand_scales.shape[0]; ++i) {
    if (scales[i] != 0) {
      return differs("expand_scales", i, scales[i], 0);
    }
  }
  return "";
}

}  // namespace

std::vector<ModelRow> model_rows(const LayerCase& layer, int rank) {
  std::vector<ModelRow> rows;
  for (int source = 0; source < layer.num_ranks; ++source) {
    const LayerCase::RankInput& input = layer.ranks[static_cast<std::size_t>(source)];
    for (std::int64_t t = 0; t < input.bs; ++t) {
      for (std::int64_t j = 0; j < layer.k; ++j) {
        const std::int64_t e = input.ids[static_cast<std::size_t>(t * layer.k + j)];
        if (layer.active(source, t, j) && e < layer.num_experts && owner(layer, e) == rank) {
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

std::string check_dispatch(const LayerCase& layer,
                           int rank,
                           const DispatchResult& got,
                           const LayerCase* peer) {
  const numerics::DefaultFloatMode float_mode;
  const std::vector<ModelRow> rows = model_rows(layer, rank);
  const std::vector<ModelRow> peer_rows =
      peer == nullptr ? std::vector<ModelRow>() : model_rows(*peer, rank);
  if (got.rows != static_cast<std::int64_t>(rows.size())) {
    return differs("rows", 0, static_cast<double>(got.rows), static_cast<double>(rows.size()));
  }
  std::string text = check_shapes(layer, rank, got);
  text += check_counts(layer, rank, rows, peer_rows, got);
  text += check_rows(layer, rows, got, 0);
  if (peer != nullptr) {
    text += check_rows(*peer, peer_rows, got, got.rows);
  }
  text += layer.form == IndexForm::kTriples ? check_triples(rows, got)
                                            : check_occurrences(layer, rank, got);
  return layer.set_up ? text : text + check_expand_scales(layer, rows, got);
}

}  // namespace waybill::testing
