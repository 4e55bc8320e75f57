#pragma once

#include <cstdint>
#include <string_view>

namespace waybill {

/// What all operators of a layer are given alike: a member of the arguments of dispatch, of combine
/// and of the setup family. Fields have the names and defaults of the Python arguments. Letters: E
/// ranks of the group, BS tokens of this rank, M MoE experts, SR ranks of shared experts, S shared
/// experts (0 when SR is 0).
struct LayerArgs {
  int ep_world_size = 0;                    ///< E, the size of the group
  int ep_rank_id = 0;                       ///< this rank's position in the group
  std::int64_t moe_expert_num = 0;          ///< M, divisible by E - SR
  int expert_shard_type = 0;                ///< 0
  std::int64_t shared_expert_num = 1;       ///< S
  std::int64_t shared_expert_rank_num = 0;  ///< SR, divisible by S
  std::int64_t global_bs = 0;      ///< 0: all ranks have the same BS; else a multiple of E, >= BS*E
  std::string_view comm_alg = {};  ///< a hint that never changes results
};

}  // namespace waybill
