"""The part of the self test that needs no oracle: relatives of an operator give its bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import ops, reference

Same = Callable[[Tensor, Tensor], bool]


def check_v1(
    same: Same,
    sent: tuple[Tensor, ...],
    dispatch: dict[str, Any],
    combine: dict[str, Any],
    rows: Tensor,
) -> list[str]:
    """v1 dispatch and combine of what dispatch_v2 and combine_v2 did, where v1 has the options."""
    first = ops.npu_moe_distribute_dispatch(**dispatch)
    count = int(sent[4].max())
    problems = []
    if not same(first[0][:count], sent[0][:count]) or not torch.equal(first[4], sent[4]):
        problems.append("npu_moe_distribute_dispatch")
    back = ops.npu_moe_distribute_combine(
        rows, dispatch["expert_ids"], first[2], first[4], **combine
    )
    want = ops.npu_moe_distribute_combine_v2(
        rows, dispatch["expert_ids"], sent[2], sent[4], **combine
    )
    return problems if same(back, want) else [*problems, "npu_moe_distribute_combine"]


def check_setup(
    same: Same, x: Tensor, ids: Tensor, weights: Tensor, layer: dict[str, Any], quant_mode: int
) -> list[str]:
    """The set-up family against dispatch_v2 and combine_v2."""
    whole = ops.npu_moe_distribute_dispatch_v2(x, ids, quant_mode=quant_mode, **layer)
    y, expand_idx, command = ops.npu_moe_distribute_dispatch_setup(
        x, ids, quant_mode=quant_mode, **layer
    )
    rows, scales, assist, nums = ops.npu_moe_distribute_dispatch_teardown(
        x, y, ids, command, quant_mode=quant_mode, **layer
    )
    count = int(whole[4].max())
    good = same(rows[:count], whole[0][:count]) and torch.equal(nums, whole[3])
    if quant_mode == 2:
        good = good and same(scales[:count], whole[1][:count])
    problems = [] if good else ["npu_moe_distribute_dispatch_setup/teardown"]

    experts = rows.to(x.dtype)
    total = ops.npu_moe_distribute_combine_v2(experts, ids, whole[2], whole[4], weights, **layer)
    reserved, command = ops.npu_moe_distribute_combine_setup(experts, ids, assist, **layer)
    parts = ops.npu_moe_distribute_combine_teardown(
        experts, reserved, ids, expand_idx, weights, command, **layer
    )
    return problems if same(parts, total) else [*problems, "npu_moe_distribute_combine_setup"]


def check_local(group: str, world_size: int, rank: int, ids: Tensor, weights: Tensor) -> list[str]:
    """Expert remapping against the oracle, and the barrier."""
    experts = int(ids.max()) + 1 if ids.numel() else 1
    table = torch.tensor([[1 + e % 2, 2 * e, 2 * e + 1] for e in range(experts)], dtype=torch.int32)
    counts_fit = world_size >= 2
    problems = []
    for mode in (0, 1) if counts_fit else (1,):
        threshold = torch.full((ids.shape[1],), 0.1)
        options: dict[str, Any] = {
            "expert_scales": weights,
            "pruning_threshold": threshold,
            "local_rank_id": rank,
            "world_size": world_size,
            "balance_mode": mode,
        }
        got = ops.npu_moe_update_expert(ids, table, **options)
        want = reference_update(ids, table, rank, world_size, weights, threshold, mode)
        if not all(torch.equal(a, b) for a, b in zip(got, want, strict=True)):
            problems.append(f"npu_moe_update_expert, balance_mode {mode}")
        eplb = ops.npu_moe_eplb_update_expert(ids, table, rank, world_size) if mode == 0 else None
        if eplb is not None and not torch.equal(eplb, got[0]):
            problems.append("npu_moe_eplb_update_expert")
    if ops._npu_distribute_barrier(ids, group, world_size) is not ids:
        problems.append("_npu_distribute_barrier")
    return problems


def reference_update(
    ids: Tensor,
    table: Tensor,
    rank: int,
    world_size: int,
    weights: Tensor,
    threshold: Tensor,
    mode: int,
) -> tuple[Tensor, Tensor]:
    """The oracle takes lists over all ranks; here all have this rank's inputs."""
    outputs = reference.npu_moe_update_expert(
        [ids] * world_size,
        [table] * world_size,
        expert_scales=[weights] * world_size,
        pruning_threshold=[threshold] * world_size,
        world_size=world_size,
        balance_mode=mode,
    )
    return outputs[rank]
