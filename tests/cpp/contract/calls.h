#pragma once

#include <cstdint>
#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "contract/check.h"
#include "waybill/combine.h"
#include "waybill/dispatch.h"

namespace waybill::contract {

/// A tensor of which only shape and dtype are read.
inline TensorView shaped(DType dtype, const Dims& shape) {
  return TensorView::contiguous(nullptr, dtype, shape);
}

/// A tensor with more dimensions than any operator takes.
inline TensorView with_four_dims(DType dtype) {
  TensorView view = shaped(dtype, {1, 1, 1});
  view.total_dims = 4;
  return view;
}

// E = 4, M = 8, BS = 4, K = 2, H = 16, no shared experts; rank 1.
inline constexpr GroupFacts kGroup{.rank = 1, .world_size = 4};
/// The same with a TP group, in which the rank is 1, too.
inline constexpr GroupFacts kTpGroup{.rank = 1, .world_size = 4, .tp_rank = 1, .tp_world_size = 2};

/// elastic_info of a group of four whose rank 2 is gone, for L = 2. Borrowed by calls.
struct ScaledIn {
  std::vector<std::int32_t> elastic = {1, 3, 0, 6, 0, 1, -1, 2, 0, 1, 3, -1};

  TensorView elastic_view() const {
    return TensorView::contiguous(
        elastic.data(), DType::kInt32, {static_cast<std::int64_t>(elastic.size())});
  }
};

/// A legal call of dispatch, for tests that change it in one place.
struct DispatchCall : ScaledIn {
  DispatchArgs args{.x = shaped(DType::kBFloat16, {4, 16}),
                    .expert_ids = shaped(DType::kInt32, {4, 2}),
                    .layer = {.ep_world_size = 4, .ep_rank_id = 1, .moe_expert_num = 8}};

  DispatchCall() = default;
  DispatchCall(const DispatchCall&) = delete;  // args.elastic_info may point into elastic
  DispatchCall& operator=(const DispatchCall&) = delete;
};

/// A legal call of combine with five received rows.
struct CombineCall : ScaledIn {
  std::vector<std::int32_t> counts = {1, 1, 2, 2, 3, 4, 4, 5};
  CombineArgs args{
      .expand_x = shaped(DType::kBFloat16, {6, 16}),
      .expert_ids = shaped(DType::kInt32, {4, 2}),
      .assist_info_for_combine = shaped(DType::kInt32, {15}),
      .ep_send_counts = TensorView::contiguous(counts.data(), DType::kInt32, {8}),
      .expert_scales = shaped(DType::kFloat32, {4, 2}),
      .layer = {.ep_world_size = 4, .ep_rank_id = 1, .moe_expert_num = 8},
  };

  CombineCall() = default;
  CombineCall(const CombineCall&) = delete;  // args point into counts and elastic
  CombineCall& operator=(const CombineCall&) = delete;
};

/// One wrong place in a call, and what the error has to say about it.
template <typename Call>
struct BadCall {
  const char* name;
  std::function<void(Call&)> change;
  const char* argument;
  const char* expected;  ///< stands between "expected" and ", got"
  const char* got;       ///< stands between "got" and the rank
};

template <typename Call>
void PrintTo(const BadCall<Call>& bad, std::ostream* out) {
  *out << bad.name;
}

template <typename Call>
std::string sentence_of(const char* op, const BadCall<Call>& bad) {
  return std::string(op) + ": argument " + bad.argument + ": expected " + bad.expected + ", got " +
         bad.got + " (rank 1)";
}

}  // namespace waybill::contract
