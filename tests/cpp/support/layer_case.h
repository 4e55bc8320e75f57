#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "waybill/combine.h"
#include "waybill/dispatch.h"
#include "waybill/dtype.h"

namespace waybill::testing {

enum class MaskForm { kNone, kTokens, kPairs };
enum class ExpertRows { kPrivate, kInPlace, kExpertBuffer };

/// One layer of the whole group: what all ranks agree on, and what each rank passes.
struct LayerCase {
  struct RankInput {
    std::int64_t bs = 0;
    MaskForm mask_form = MaskForm::kNone;
    std::vector<std::byte> x;  ///< (bs, x_stride) elements
    std::vector<std::int32_t> ids;
    std::vector<std::uint8_t> mask;
    std::vector<float> smooth;           ///< (S+M, H)
    std::vector<float> dispatch_scales;  ///< (bs, K)
    std::vector<float> weights;          ///< (bs, K)
    std::vector<std::byte> shared_x;     ///< (bs, H)
    bool with_shared_x = false;
  };

  int num_ranks = 1;
  std::int64_t h = 1;
  std::int64_t k = 1;
  std::int64_t num_experts = 1;
  int num_shared = 1;  ///< as passed
  int num_shared_ranks = 0;
  DType dtype = DType::kBFloat16;
  std::int64_t x_stride = 1;  ///< elements between rows of x, >= h
  bool quantised = false;
  bool smooth = false;
  bool weighted = false;
  int nums_type = 1;
  std::int64_t global_bs = 0;
  int comm_quant_mode = 0;
  ExpertRows expert_rows = ExpertRows::kPrivate;
  std::uint64_t row_seed = 0;
  std::vector<RankInput> ranks;

  std::string describe() const;
  int shared_experts() const { return num_shared_ranks == 0 ? 0 : num_shared; }
  std::int64_t local_experts(int rank) const {
    return rank < num_shared_ranks ? 1 : num_experts / (num_ranks - num_shared_ranks);
  }

  bool active(int rank, std::int64_t token, std::int64_t slot) const;
  bool active(int rank, std::int64_t token) const;
  TensorView x_view(int rank) const;
  DispatchArgs dispatch_args(int rank) const;
  CombineArgs combine_args(int rank,
                           const TensorView& expand_x,
                           const DispatchResult& dispatched) const;
  /// Row `row` of the rank's expert output, the same wherever it is computed.
  void fill_expert_row(int rank, std::int64_t row, std::byte* out) const;
};

/// A legal case drawn from the seed.
LayerCase draw_case(std::uint64_t seed, int max_ranks);

/// What a row is: where it came from.
struct ModelRow {
  std::int64_t local_expert;
  int source;
  std::int64_t token;
  std::int64_t slot;
};

/// The rows that a rank receives, by sorting tuples: no counting, no offsets.
std::vector<ModelRow> model_rows(const LayerCase& layer, int rank);

/// Differences between a dispatch result and the contract, empty when there are none.
std::string check_dispatch(const LayerCase& layer, int rank, const DispatchResult& got);
/// The same for combine's result.
std::string check_combine(const LayerCase& layer, int rank, const Tensor& got);

}  // namespace waybill::testing
