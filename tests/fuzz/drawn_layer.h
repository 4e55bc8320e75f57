#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "drawing.h"
#include "waybill/combine.h"
#include "waybill/dispatch.h"
#include "waybill/setup.h"
#include "window/layout.h"

namespace waybill::fuzz {

/// A small layer as one rank sees it, in the letters of docs/contract/operators.md. Legal, so that
/// calls get as far as the rows of peers; single tensors may seldom be of another shape.
struct DrawnLayer {
  /// With `tp` one expert a rank and no elastic_info.
  DrawnLayer(Draw& draw, bool tp);

  DispatchArgs dispatch_args(Draw& draw) const;
  /// `expand_x` has at least `rows` rows; triples and counts are drawn.
  CombineArgs combine_args(Draw& draw, const TensorView& expand_x, std::int64_t rows) const;
  CombineAddRmsNormArgs norm_args(Draw& draw, const CombineArgs& combine) const;
  SetupCommonArgs common_args(Draw& draw) const;
  /// The rows that this rank expects back where no mask leaves any out.
  std::vector<window::ReturnEntry> places() const;
  /// localE of each rank.
  std::vector<std::int64_t> local_experts() const;
  /// Prefix sums of `rows` rows by (local expert, source).
  TensorView counts(Draw& draw, std::int64_t rows) const;

  int num_ranks = 1;
  int rank = 0;
  std::int64_t h = 1;
  std::int64_t k = 1;
  std::int64_t bs = 0;
  std::int64_t global_bs = 0;
  std::int64_t experts_per_rank = 1;
  std::int64_t num_shared = 1;
  std::int64_t num_shared_ranks = 0;
  std::int64_t num_experts = 1;
  std::int64_t num_zero = 0;
  std::int64_t num_copy = 0;
  std::int64_t num_constant = 0;
  DType dtype = DType::kFloat32;
  bool quantised = false;
  int comm_quant_mode = 0;
  std::vector<std::int32_t> elastic;  ///< elastic_info; empty: none
  std::vector<std::int32_t> ids;      ///< (BS, K)

 private:
  void draw_elastic(Draw& draw);
  template <typename Args>
  void set_common(Args& args, Draw& draw) const;
  TensorView ids_view(Draw& draw) const;
  std::optional<TensorView> mask(Draw& draw, bool of_tokens) const;
};

}  // namespace waybill::fuzz
