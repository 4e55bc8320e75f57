#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "waybill/combine.h"
#include "waybill/dispatch.h"
#include "waybill/dtype.h"
#include "waybill/setup.h"

namespace waybill::testing {

enum class MaskForm { kNone, kTokens, kPairs };
enum class ExpertRows { kPrivate, kInPlace, kExpertBuffer };

/// One layer of the whole group: what all ranks agree on, and what each rank passes. Under
/// elastic_info it is the layer in force: ranks and experts have their new numbers here, and
/// `given` says what the arguments are.
struct LayerCase {
  struct RankInput {
    std::int64_t bs = 0;
    MaskForm mask_form = MaskForm::kNone;
    std::vector<std::byte> x;  ///< (bs, x_stride) elements
    std::vector<std::int32_t> ids;
    std::vector<std::uint8_t> mask;
    std::vector<float> smooth;           ///< (S+M, H), M as given
    std::vector<float> dispatch_scales;  ///< (bs, K)
    std::vector<float> weights;          ///< (bs, K)
    std::vector<std::byte> shared_x;     ///< (bs, H)
    std::vector<std::byte> ori_x;        ///< (bs, H)
    std::vector<std::byte> residual;     ///< (bs, H)
    bool with_shared_x = false;
  };
  /// What the arguments say where elastic_info is given.
  struct Given {
    int num_ranks = 1;
    std::int64_t num_experts = 1;
    int num_shared_ranks = 0;
    std::vector<int> members;        ///< old rank of each new one
    std::vector<std::int32_t> info;  ///< elastic_info; empty: None
  };

  int num_ranks = 1;
  std::int64_t h = 1;
  std::int64_t k = 1;
  std::int64_t num_experts = 1;
  int num_shared = 1;  ///< as passed
  int num_shared_ranks = 0;
  std::int64_t num_zero = 0;
  std::int64_t num_copy = 0;
  std::int64_t num_constant = 0;
  bool wide_alphas = false;  ///< (N, H) alphas
  DType dtype = DType::kBFloat16;
  std::int64_t x_stride = 1;  ///< elements between rows of x, >= h
  bool quantised = false;
  bool smooth = false;
  bool weighted = false;
  int nums_type = 1;
  std::int64_t global_bs = 0;
  int comm_quant_mode = 0;
  IndexForm form = IndexForm::kTriples;
  bool norm = false;             ///< combine_add_rms_norm in place of combine
  bool set_up = false;           ///< in the two halves of the set-up family
  bool scale_of_shared = false;  ///< set_up without shared ranks: (1+M, H) scales
  int tp_rank = -1;              ///< 0 or 1 with TP = 2: one of a pair of layers
  ExpertRows expert_rows = ExpertRows::kPrivate;
  bool not_routed = false;  ///< some ids are -1
  std::uint64_t row_seed = 0;
  std::vector<std::byte> alpha_1;  ///< (N,) or (N, H)
  std::vector<std::byte> alpha_2;
  std::vector<std::byte> const_v;  ///< (N, H)
  std::vector<std::byte> gamma;    ///< (H,)
  Given given;
  std::vector<RankInput> ranks;

  std::string describe() const;
  int shared_experts() const { return num_shared_ranks == 0 ? 0 : num_shared; }
  std::int64_t local_experts(int rank) const {
    return rank < num_shared_ranks ? 1 : num_experts / (num_ranks - num_shared_ranks);
  }
  bool elastic() const { return !given.info.empty(); }
  bool is_scaled_in() const { return elastic() && given.info[0] != 0; }
  int given_ranks() const { return elastic() ? given.num_ranks : num_ranks; }
  std::int64_t given_experts() const { return elastic() ? given.num_experts : num_experts; }
  int given_shared_ranks() const { return elastic() ? given.num_shared_ranks : num_shared_ranks; }
  /// Position in the group of a rank of this layer.
  int group_rank(int rank) const {
    return is_scaled_in() ? given.members[static_cast<std::size_t>(rank)] : rank;
  }
  /// The inverse; -1 for a rank that is left out.
  int rank_in_layer(int group_rank) const;
  std::int64_t num_special() const { return num_zero + num_copy + num_constant; }
  bool has_tp() const { return tp_rank >= 0; }

  bool unmasked(int rank, std::int64_t token, std::int64_t slot) const;
  /// Whether the choice takes part: the mask allows it, and its id is not -1.
  bool active(int rank, std::int64_t token, std::int64_t slot) const;
  bool active(int rank, std::int64_t token) const;
  TensorView x_view(int rank) const;
  DispatchArgs dispatch_args(int rank) const;
  /// `dispatched` gives the counts and the places of the rows.
  CombineArgs combine_args(int rank,
                           const TensorView& expand_x,
                           const DispatchResult& dispatched) const;
  CombineAddRmsNormArgs norm_args(int rank, const CombineArgs& combine) const;
  SetupCommonArgs setup_args(int rank) const;
  /// Row `row` of the rank's expert output, the same wherever it is computed.
  void fill_expert_row(int rank, std::int64_t row, std::byte* out) const;
};

/// A legal case drawn from the seed, without TP.
LayerCase draw_case(std::uint64_t seed, int max_ranks);
/// The two layers of a call with TP = 2, which differ in what the ranks pass.
std::vector<LayerCase> draw_tp_pair(std::uint64_t seed, int max_ranks);
/// Random bits that are mostly ordinary numbers of the dtype.
void fill_random(DType dtype, std::mt19937_64& random, std::byte* out, std::int64_t count);

/// What a row is: where it came from.
struct ModelRow {
  std::int64_t local_expert;
  int source;
  std::int64_t token;
  std::int64_t slot;
};

/// The rows that a rank receives, by sorting tuples: no counting, no offsets.
std::vector<ModelRow> model_rows(const LayerCase& layer, int rank);

/// Differences between a dispatch result and the contract, empty when there are none. `peer`: the
/// layer of the other TP rank.
std::string check_dispatch(const LayerCase& layer,
                           int rank,
                           const DispatchResult& got,
                           const LayerCase* peer = nullptr);
/// The same for combine's result ...
std::string check_combine(const LayerCase& layer,
                          int rank,
                          const Tensor& got,
                          const LayerCase* peer = nullptr);
/// ... and for that of combine_add_rms_norm.
std::string check_norm(const LayerCase& layer,
                       int rank,
                       const CombineAddRmsNormResult& got,
                       const LayerCase* peer = nullptr);

}  // namespace waybill::testing
