#pragma once

#include <algorithm>
#include <cstdint>

namespace waybill::contract {

/// The id that says "not routed": its (t,k) takes no part, as if a mask were false there.
inline constexpr std::int32_t kNotRouted = -1;

/// Who owns which expert. Ranks [0, SR) hold shared experts, ranks [SR, E) hold MoE experts.
struct Topology {
  int num_ranks = 1;               ///< E
  int rank = 0;                    ///< r
  std::int64_t num_experts = 1;    ///< M
  int num_shared_ranks = 0;        ///< SR
  int num_shared = 0;              ///< S, 0 when SR is 0
  std::int64_t special_begin = 0;  ///< first id of the zero, copy and constant experts
  std::int64_t special_end = 0;    ///< one past their last id

  bool is_special(std::int64_t id) const noexcept {
    return id >= special_begin && id < special_end;
  }
  bool is_routed(std::int64_t id) const noexcept { return id >= 0 && id < num_experts; }
  bool is_shared(int r) const noexcept { return r < num_shared_ranks; }
  /// L
  std::int64_t experts_per_rank() const noexcept {
    return num_experts / (num_ranks - num_shared_ranks);
  }
  /// Experts of rank r as prefix sums count them: L, on a shared rank 1.
  std::int64_t local_experts(int r) const noexcept { return is_shared(r) ? 1 : experts_per_rank(); }
  int owner_of(std::int64_t expert) const noexcept {
    return num_shared_ranks + static_cast<int>(expert / experts_per_rank());
  }
  /// First MoE expert of MoE rank r.
  std::int64_t first_expert(int r) const noexcept {
    return (r - num_shared_ranks) * experts_per_rank();
  }
  /// R, ranks that share the tokens of one shared expert; 0 without shared ranks.
  int ranks_per_shared() const noexcept {
    return num_shared == 0 ? 0 : num_shared_ranks / num_shared;
  }
  /// The shared expert of shared rank r.
  int shared_of(int r) const noexcept { return r / ranks_per_shared(); }
  /// Where rank `source` sends its tokens for shared expert s.
  int shared_target(int source, int s) const noexcept {
    return source % ranks_per_shared() + s * ranks_per_shared();
  }
  bool sends_to_shared(int source, int target) const noexcept {
    return is_shared(target) && shared_target(source, shared_of(target)) == target;
  }
};

/// A, the most rows rank r can receive.
inline std::int64_t capacity(const Topology& topology, int r, std::int64_t gbs, std::int64_t k) {
  if (!topology.is_shared(r)) {
    return gbs * std::min(topology.experts_per_rank(), k);
  }
  const std::int64_t per_shared = topology.ranks_per_shared();
  const std::int64_t sources = (topology.num_ranks + per_shared - 1) / per_shared;
  return gbs / topology.num_ranks * sources;
}

}  // namespace waybill::contract
