"""The exchange of the model over the ranks of a group, with Waybill's operators.

Rank r of E holds the experts [r*L, (r+1)*L) of every layer, L = experts/E.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from model import MoELayer
from prompts import MAX_PROMPT
from torch import Tensor

import waybill


@dataclass
class Recorded:
    """What one call of the exchange got and gave on this rank."""

    layer: int
    x: Tensor
    expert_ids: Tensor
    expert_scales: Tensor
    shared: Tensor
    expand_x: Tensor
    assist: Tensor
    counts: Tensor
    expert_rows: Tensor
    y: Tensor


@dataclass
class WaybillExchange:
    """dispatch_v2, the experts of this rank, combine_v2.

    The experts write into the buffer that dispatch handed out, so that combine publishes their
    rows without a copy. With `record`, keeps copies of the first `record` calls.
    """

    group: str
    rank: int
    ranks: int
    record: int = 0
    recorded: list[Recorded] = field(default_factory=list)
    routing: list[tuple[int, Tensor]] = field(default_factory=list)

    def __call__(
        self,
        layer: MoELayer,
        layer_index: int,
        x: list[Tensor],
        expert_ids: list[Tensor],
        expert_scales: list[Tensor],
        shared: list[Tensor],
    ) -> list[Tensor]:
        experts = layer.config.experts
        common = (self.group, self.ranks, self.rank, experts)
        # Prompts have different lengths, so the ranks have different numbers of tokens.
        global_bs = self.ranks * MAX_PROMPT
        rows, _, assist, nums, counts, _, _ = waybill.npu_moe_distribute_dispatch_v2(
            x[0], expert_ids[0], *common, global_bs=global_bs
        )
        received = int(counts[-1])
        keep = len(self.recorded) < self.record
        arrived = rows[:received].clone() if keep else None
        layer.experts(self.rank * (experts // self.ranks), rows, nums, out=rows)
        y = waybill.npu_moe_distribute_combine_v2(
            rows,
            expert_ids[0],
            assist,
            counts,
            expert_scales[0],
            *common,
            global_bs=global_bs,
            shared_expert_x=shared[0],
        )
        self.routing.append((layer_index, expert_ids[0].clone()))
        if arrived is not None:
            self.recorded.append(
                Recorded(
                    layer_index,
                    x[0].clone(),
                    expert_ids[0].clone(),
                    expert_scales[0].clone(),
                    shared[0].clone(),
                    arrived,
                    assist[: 3 * received].clone(),
                    counts.clone(),
                    rows[:received].clone(),
                    y.clone(),
                )
            )
        return [y]


def count_rows(routing: list[tuple[int, Tensor]], experts: int, ranks: int) -> list[int]:
    """Rows that this rank's recorded calls sent to each rank."""
    ids = torch.cat([ids.flatten() for _, ids in routing]).long()
    return torch.bincount(ids // (experts // ranks), minlength=ranks).tolist()
