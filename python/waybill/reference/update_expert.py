"""npu_moe_update_expert and npu_moe_eplb_update_expert: instances, pruning.

See docs/contract/operators.md section 10.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ._routing import NOT_ROUTED, PerRank, require


class UpdateExpertOutput(NamedTuple):
    """Outputs of npu_moe_update_expert on one rank."""

    balanced_expert_ids: Tensor  # (BS, K), expert_ids' dtype
    balanced_active_mask: Tensor  # (BS, K) bool


def npu_moe_update_expert(
    expert_ids: PerRank[Tensor],
    eplb_table: PerRank[Tensor],
    *,
    expert_scales: PerRank[Tensor] | None = None,
    pruning_threshold: PerRank[Tensor] | None = None,
    active_mask: PerRank[Tensor] | None = None,
    local_rank_id: Sequence[int] | None = None,
    world_size: int = -1,
    balance_mode: int = 0,
) -> list[UpdateExpertOutput]:
    """Replace each logical expert by one of its instances, and drop pairs of little weight.

    expert_ids: (BS, K) int32 or int64. eplb_table: (experts, F) int32. expert_scales: (BS, K)
    fp16, bf16 or float32. pruning_threshold: (K,) or (1, K) float32. active_mask: (BS,) bool.
    local_rank_id: one number per rank, by default its place in the lists. -1 and the ids of tokens
    that are not active stay as they are.
    """
    outputs = []
    for rank in range(len(expert_ids)):
        ids = require(expert_ids[rank], "expert_ids")
        mask = None if active_mask is None else active_mask[rank]
        balanced = balance(
            ids,
            mask,
            require(eplb_table[rank], "eplb_table"),
            rank if local_rank_id is None else local_rank_id[rank],
            world_size,
            balance_mode,
        )
        keep = kept_pairs(
            ids,
            None if expert_scales is None else expert_scales[rank],
            None if pruning_threshold is None else pruning_threshold[rank],
            mask,
        )
        outputs.append(UpdateExpertOutput(balanced, keep))
    return outputs


def npu_moe_eplb_update_expert(
    expert_ids: PerRank[Tensor],
    eplb_table: PerRank[Tensor],
    *,
    local_rank_id: Sequence[int] | None = None,
    world_size: int,
    balance_mode: int = 0,
) -> list[Tensor]:
    """npu_moe_update_expert in balance_mode 0 without a mask: the list of balanced_expert_ids."""
    if balance_mode != 0:
        raise ValueError(f"balance_mode must be 0, got {balance_mode}")
    outputs = npu_moe_update_expert(
        expert_ids, eplb_table, local_rank_id=local_rank_id, world_size=world_size
    )
    return [output.balanced_expert_ids for output in outputs]


def balance(
    ids: Tensor,
    active_mask: Tensor | None,
    table: Tensor,
    local_rank_id: int,
    world_size: int,
    balance_mode: int,
) -> Tensor:
    """The instance of each (t, k) that is read, the others' ids as they are: ids' shape, dtype."""
    count, instances = table[:, 0].long(), table[:, 1:].long()
    read = ids != NOT_ROUTED
    if active_mask is not None:
        read = read & active_mask[:, None]
    token, _ = read.nonzero(as_tuple=True)
    experts = ids[read].long()
    check_table(experts, count, instances)
    if balance_mode == 0:
        if not 0 <= local_rank_id < world_size or bool((count > world_size).any()):
            raise ValueError(f"balance_mode 0: rank {local_rank_id} or a count beyond {world_size}")
        ranks_per_instance = (world_size + count - 1) // count
        which = (local_rank_id // ranks_per_instance)[experts]
    elif balance_mode == 1:
        which = token % count[experts]
    else:
        raise ValueError(f"balance_mode must be 0 or 1, got {balance_mode}")
    balanced = ids.clone()
    balanced[read] = instances[experts, which].to(ids.dtype)
    return balanced


def check_table(experts: Tensor, count: Tensor, instances: Tensor) -> None:
    width = instances.shape[1]
    used = torch.arange(width) < count[:, None]
    bad = (count < 1) | (count > width) | (used & (instances < 0)).any(dim=1)
    if bad.any():
        raise ValueError(f"eplb_table: row {int(bad.nonzero()[0])} has a bad count or a bad id")
    if ((experts < 0) | (experts >= len(count))).any():
        raise ValueError(f"expert_ids must be in [0, {len(count)}), or -1 for a choice left out")


def kept_pairs(
    ids: Tensor, scales: Tensor | None, threshold: Tensor | None, active_mask: Tensor | None
) -> Tensor:
    """balanced_active_mask, bool (BS, K): active, routed, and scale >= threshold * their sum."""
    keep = ids != NOT_ROUTED
    if (scales is None) != (threshold is None):
        raise ValueError("expert_scales and pruning_threshold come together")
    if scales is not None and threshold is not None:
        weights = torch.where(keep, scales.float(), 0.0)
        total = torch.zeros(len(ids), dtype=torch.float32)
        for k in range(ids.shape[1]):
            total = total + weights[:, k]
        keep = keep & (weights >= threshold.reshape(-1) * total[:, None])
    if active_mask is not None:
        keep = keep & active_mask[:, None]
    return keep
