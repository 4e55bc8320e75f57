"""npu_moe_update_expert and npu_moe_eplb_update_expert: logical experts to their instances."""

from __future__ import annotations

from torch import Tensor

from .._calls import operator

__all__ = ["npu_moe_eplb_update_expert", "npu_moe_update_expert"]


@operator
def npu_moe_update_expert(
    expert_ids: Tensor,
    eplb_table: Tensor,
    *,
    expert_scales: Tensor | None = None,
    pruning_threshold: Tensor | None = None,
    active_mask: Tensor | None = None,
    local_rank_id: int = -1,
    world_size: int = -1,
    balance_mode: int = 0,
) -> tuple[Tensor, Tensor]:
    """Choose a physical instance for every expert id, and prune light choices.

    Local: no group. With c = eplb_table[e][0] instances of expert e = expert_ids[t,k]: the only one
    when c is 1; with balance_mode 0 number local_rank_id div ceil(world_size/c); with balance_mode
    1 number t mod c.

    Args:
        expert_ids: (BS, K) int32 or int64, rows of eplb_table, or -1: not routed. Not read where
            active_mask is false.
        eplb_table: (logical experts, F) int32; row e = [c, id_1, ..., id_c, padding].
        expert_scales: (BS, K) float16, bfloat16 or float32; with pruning_threshold or not at all.
        pruning_threshold: (K,) or (1, K) float32.
        active_mask: (BS,) bool, any pattern.
        local_rank_id, world_size: needed by balance_mode 0: 0 <= local_rank_id < world_size.
        balance_mode: 0 by rank, 1 by token.

    Returns:
        balanced_expert_ids: (BS, K), expert_ids' dtype; -1 and the ids of tokens that are not
            active are as they were.
        balanced_active_mask: (BS, K) bool: the token is active and expert_scales[t,k] >=
            pruning_threshold[k] * (sum of the token's scales, float32, in the order of k). Equality
            keeps, NaN prunes; without scales every choice of an active token is kept. A choice
            whose id is -1 is not kept, and its scale counts as 0.

    Raises:
        ArgumentError: an argument is wrong; errors of the table name the row.
    """


@operator
def npu_moe_eplb_update_expert(
    expert_ids: Tensor,
    eplb_table: Tensor,
    local_rank_id: int,
    world_size: int,
    *,
    balance_mode: int = 0,
) -> Tensor:
    """Choose a physical instance for every expert id by rank.

    Local: no group. npu_moe_update_expert in balance_mode 0, without a mask.

    Args:
        expert_ids: (BS, K) int32 or int64, rows of eplb_table.
        eplb_table: (logical experts, F) int32; row e = [c, id_1, ..., id_c, padding].
        local_rank_id, world_size: 0 <= local_rank_id < world_size.
        balance_mode: 0.

    Returns:
        (BS, K), expert_ids' dtype.

    Raises:
        ArgumentError: an argument is wrong; errors of the table name the row.
    """
