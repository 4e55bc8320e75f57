#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "support/layer_case.h"

namespace waybill::testing {
namespace {

class Draw {
 public:
  explicit Draw(std::uint64_t seed) : random_(seed) {}
  std::int64_t below(std::int64_t n) {
    return static_cast<std::int64_t>(random_() % static_cast<std::uint64_t>(n));
  }
  template <typename T>
  T of(std::initializer_list<T> values) {
    return values.begin()[below(static_cast<std::int64_t>(values.size()))];
  }
  bool one_in(std::int64_t n) { return below(n) == 0; }
  float unit() { return static_cast<float>(below(1 << 20)) / static_cast<float>(1 << 20); }
  std::mt19937_64& random() { return random_; }
  std::vector<std::byte> numbers(DType dtype, std::int64_t count) {
    std::vector<std::byte> bytes(
        static_cast<std::size_t>(std::max<std::int64_t>(count * size_of(dtype), 1)));
    fill_random(dtype, random_, bytes.data(), count);
    return bytes;
  }

 private:
  std::mt19937_64 random_;
};

void draw_experts(Draw& draw, LayerCase& layer, int max_ranks) {
  layer.num_ranks = static_cast<int>(1 + draw.below(max_ranks));
  if (layer.num_ranks > 1 && draw.one_in(3)) {
    layer.num_shared = static_cast<int>(1 + draw.below(std::min(4, layer.num_ranks - 1)));
    const std::int64_t most = (layer.num_ranks - 1) / layer.num_shared;
    layer.num_shared_ranks = static_cast<int>(layer.num_shared * (1 + draw.below(most)));
  } else {
    layer.num_shared = static_cast<int>(draw.below(2));
  }
  const std::int64_t local = layer.has_tp() ? 1 : 1 + draw.below(4);
  layer.num_experts = (layer.num_ranks - layer.num_shared_ranks) * local;
}

/// Z, C and N with what they need.
void draw_special(Draw& draw, LayerCase& layer) {
  layer.num_zero = draw.one_in(2) ? draw.below(3) : 0;
  layer.num_copy = draw.one_in(2) ? draw.below(3) : 0;
  layer.num_constant = draw.one_in(2) ? draw.below(4) : 0;
  layer.wide_alphas = draw.one_in(2);
  const std::int64_t alphas = layer.num_constant * (layer.wide_alphas ? layer.h : 1);
  layer.alpha_1 = draw.numbers(layer.dtype, alphas);
  layer.alpha_2 = draw.numbers(layer.dtype, alphas);
  layer.const_v = draw.numbers(layer.dtype, layer.num_constant * layer.h);
}

/// Makes the layer drawn so far what is left of a larger one, or of itself with other numbers.
void draw_elastic(Draw& draw, LayerCase& layer, int max_ranks) {
  LayerCase::Given& given = layer.given;
  const int new_shared = layer.num_shared_ranks;
  const int new_moe = layer.num_ranks - new_shared;
  const std::int64_t local = layer.num_experts / new_moe;
  const bool off = draw.one_in(6);
  int shared = new_shared;
  int moe = new_moe;
  if (!off) {
    if (new_shared > 0) {
      shared =
          static_cast<int>(layer.num_shared * (1 + draw.below(new_shared / layer.num_shared + 1)));
    }
    moe = new_moe + static_cast<int>(draw.below(3));
    if (shared + moe < layer.num_ranks || shared + moe > max_ranks) {
      shared = new_shared;
      moe = new_moe;
    }
  }
  given.num_ranks = shared + moe;
  given.num_shared_ranks = shared;
  given.num_experts = moe * local;
  const auto count = static_cast<std::size_t>(given.num_ranks);
  if (off) {
    given.info.assign(4 + 2 * count, -5);
    given.info[0] = 0;
    return;
  }
  given.members.resize(count);
  std::iota(given.members.begin(), given.members.end(), 0);
  std::shuffle(given.members.begin(), given.members.end(), draw.random());
  given.members.resize(static_cast<std::size_t>(layer.num_ranks));
  if (draw.one_in(2)) {
    std::sort(given.members.begin(), given.members.end());
  }
  given.info = {1, layer.num_ranks, new_shared, static_cast<std::int32_t>(layer.num_experts)};
  given.info.resize(4 + 2 * count, -1);
  for (std::size_t now = 0; now < given.members.size(); ++now) {
    const auto old = static_cast<std::size_t>(given.members[now]);
    given.info[4 + old] = static_cast<std::int32_t>(now);
    given.info[4 + count + now] = static_cast<std::int32_t>(old);
  }
}

void draw_ids(Draw& draw, LayerCase& layer, int r) {
  LayerCase::RankInput& input = layer.ranks[static_cast<std::size_t>(r)];
  const bool distinct = layer.k <= layer.num_experts;
  for (std::int64_t t = 0; t < input.bs; ++t) {
    std::vector<std::int32_t> used;
    const bool left_out = layer.not_routed && draw.one_in(5);
    for (std::int64_t j = 0; j < layer.k; ++j) {
      std::int32_t id = static_cast<std::int32_t>(draw.below(layer.num_experts));
      while (distinct && std::find(used.begin(), used.end(), id) != used.end()) {
        id = static_cast<std::int32_t>((id + 1) % layer.num_experts);
      }
      used.push_back(id);
      if (layer.num_special() > 0 && draw.one_in(3)) {
        id = static_cast<std::int32_t>(layer.given_experts() + draw.below(layer.num_special()));
      }
      if (left_out || (layer.not_routed && draw.one_in(4))) {
        id = -1;
      }
      input.ids.push_back(layer.unmasked(r, t, j) ? id : -77);
      input.weights.push_back(draw.unit());
      input.dispatch_scales.push_back(draw.unit());
    }
  }
}

void draw_rank(Draw& draw, LayerCase& layer, std::int64_t bs) {
  LayerCase::RankInput rank;
  rank.bs = bs;
  rank.mask_form = layer.set_up ? draw.of({MaskForm::kNone, MaskForm::kTokens})
                                : draw.of({MaskForm::kNone, MaskForm::kTokens, MaskForm::kPairs});
  rank.x = draw.numbers(layer.dtype, bs * layer.x_stride);
  rank.mask.resize(
      static_cast<std::size_t>(bs * (rank.mask_form == MaskForm::kPairs ? layer.k : 1)));
  for (auto& flag : rank.mask) {
    flag = draw.one_in(3) ? 0 : 1;
  }
  layer.ranks.push_back(std::move(rank));
  draw_ids(draw, layer, static_cast<int>(layer.ranks.size()) - 1);
  LayerCase::RankInput& input = layer.ranks.back();
  const std::int64_t rows =
      layer.shared_experts() + (layer.scale_of_shared ? 1 : 0) + layer.given_experts();
  for (std::int64_t i = 0; layer.smooth && i < rows * layer.h; ++i) {
    input.smooth.push_back(draw.unit() + 0.5F);
  }
  input.with_shared_x = layer.given_shared_ranks() == 0 && draw.one_in(3);
  input.shared_x = draw.numbers(layer.dtype, bs * layer.h);
  input.ori_x = draw.numbers(layer.dtype, bs * layer.h);
  input.residual = draw.numbers(layer.dtype, bs * layer.h);
}

/// Everything but the ranks' own inputs.
void draw_layer(Draw& draw, LayerCase& layer, int max_ranks) {
  draw_experts(draw, layer, max_ranks);
  layer.dtype = draw.of({DType::kBFloat16, DType::kFloat16, DType::kFloat32});
  layer.h = draw.of<std::int64_t>({1, 7, 8, 31, 64, 100, 257});
  layer.x_stride = layer.h + (draw.one_in(3) ? draw.below(5) : 0);
  // Without duplicates a rank never gets more than its capacity.
  layer.k = 1 + draw.below(std::min<std::int64_t>(layer.num_experts, 9));
  layer.quantised = draw.one_in(2);
  layer.smooth = layer.quantised && draw.one_in(2);
  layer.nums_type = static_cast<int>(draw.below(2));
  layer.comm_quant_mode = !layer.has_tp() && draw.one_in(3) ? 2 : 0;
  layer.expert_rows =
      draw.of({ExpertRows::kPrivate, ExpertRows::kInPlace, ExpertRows::kExpertBuffer});
  layer.not_routed = draw.one_in(3);
  layer.set_up = !layer.has_tp() && draw.one_in(5);
  if (layer.set_up) {
    layer.form = IndexForm::kOccurrences;
    layer.scale_of_shared = layer.num_shared_ranks == 0 && layer.num_shared == 1 && draw.one_in(2);
  } else {
    layer.weighted = draw.one_in(2);
    layer.form = draw.of({IndexForm::kTriples, IndexForm::kTriples, IndexForm::kOccurrences});
    layer.norm = draw.one_in(4);
    if (draw.one_in(2)) {
      draw_special(draw, layer);
    }
    if (!layer.has_tp() && draw.one_in(4)) {
      draw_elastic(draw, layer, max_ranks);
    }
  }
  layer.gamma = draw.numbers(layer.dtype, layer.h);
}

void draw_ranks(Draw& draw, LayerCase& layer, bool equal, std::int64_t common) {
  for (int r = 0; r < layer.num_ranks; ++r) {
    draw_rank(draw, layer, equal ? common : draw.below(9));
  }
  layer.row_seed = draw.random()();
}

}  // namespace

void fill_random(DType dtype, std::mt19937_64& random, std::byte* out, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint64_t bits = random();
    if (dtype == DType::kFloat32) {
      // sign, exponent around 1, 23 bits of mantissa
      const auto value =
          static_cast<std::uint32_t>((bits & 0x807fffffU) | ((120 + (bits >> 40 & 15)) << 23));
      std::memcpy(out + 4 * i, &value, 4);
    } else if (dtype == DType::kBFloat16) {
      const auto value =
          static_cast<std::uint16_t>((bits & 0x807fU) | ((120 + (bits >> 40 & 15)) << 7));
      std::memcpy(out + 2 * i, &value, 2);
    } else {
      const auto value =
          static_cast<std::uint16_t>((bits & 0x83ffU) | ((10 + (bits >> 40 & 7)) << 10));
      std::memcpy(out + 2 * i, &value, 2);
    }
  }
}

LayerCase draw_case(std::uint64_t seed, int max_ranks) {
  Draw draw(seed * 0x9e3779b97f4a7c15ULL + 1);
  LayerCase layer;
  draw_layer(draw, layer, max_ranks);
  const bool equal = draw.one_in(2);
  draw_ranks(draw, layer, equal, draw.below(9));
  if (!equal || draw.one_in(3)) {
    layer.global_bs = layer.given_ranks() * (8 + draw.below(3));
  }
  return layer;
}

std::vector<LayerCase> draw_tp_pair(std::uint64_t seed, int max_ranks) {
  Draw draw(seed * 0x9e3779b97f4a7c15ULL + 3);
  LayerCase layer;
  layer.tp_rank = 0;
  draw_layer(draw, layer, max_ranks);
  layer.global_bs = layer.num_ranks * (8 + draw.below(2));
  std::vector<LayerCase> pair(2, layer);
  for (int tp_rank = 0; tp_rank < 2; ++tp_rank) {
    LayerCase& column = pair[static_cast<std::size_t>(tp_rank)];
    column.tp_rank = tp_rank;
    draw_ranks(draw, column, draw.one_in(2), draw.below(9));
  }
  return pair;
}

}  // namespace waybill::testing
