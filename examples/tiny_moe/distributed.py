"""The exchange of the model over the ranks of a group, with Waybill's operators.

Rank r of E holds the slots [r*L, (r+1)*L) of every layer's placement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from model import MoELayer, TinyMoE
from placement import Placement
from prompts import MAX_PROMPT
from torch import Tensor

import waybill


@dataclass
class Recorded:
    """What one call of the exchange got and gave on this rank."""

    layer: int
    x: Tensor
    expert_ids: Tensor  # physical
    expert_scales: Tensor
    shared: Tensor
    expand_x: Tensor
    assist: Tensor | None  # triples; the set-up family has none
    counts: Tensor
    expert_rows: Tensor
    y: Tensor


class Arrived(NamedTuple):
    """What dispatch brought."""

    rows: Tensor
    nums: Tensor
    counts: Tensor
    assist: Tensor  # the set-up family: the counts
    expand_idx: Tensor | None


@dataclass
class WaybillExchange:
    """update_expert, dispatch, the experts of this rank, combine.

    The experts write into the buffer that dispatch handed out, so that combine publishes their
    rows without a copy. With `overlap` dispatch and combine are taken apart into setup and
    teardown, and the shared expert is computed while the rows travel. With `record`, keeps copies
    of the first `record` calls.
    """

    group: str
    rank: int
    placement: Placement
    overlap: bool = False
    record: int = 0
    recorded: list[Recorded] = field(default_factory=list)
    routing: list[tuple[int, Tensor]] = field(default_factory=list)
    rows_sent: list[int] = field(default_factory=list)
    elastic: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows_sent = [0] * self.placement.ranks

    @property
    def common(self) -> dict[str, Any]:
        ranks = self.placement.ranks
        return {
            "group_ep": self.group,
            "ep_world_size": ranks,
            "ep_rank_id": self.rank,
            "moe_expert_num": self.placement.num_slots,
            # Prompts have different lengths, so the ranks have different numbers of tokens.
            "global_bs": ranks * MAX_PROMPT,
        }

    def lose(self, rank: int, model: TinyMoE) -> None:
        """Goes on without a rank: nobody chooses its experts, and the others move up."""
        lost = range(rank * self.placement.per_rank, (rank + 1) * self.placement.per_rank)
        for block in model.blocks:
            block.moe.available[list(lost)] = False
        ranks = self.placement.ranks
        left = [r for r in range(ranks) if r != rank]
        new_rank = [left.index(r) if r in left else -1 for r in range(ranks)]
        head = [1, len(left), 0, len(left) * self.placement.per_rank]
        info = torch.tensor([*head, *new_rank, *left, -1], dtype=torch.int32)
        self.elastic = {"elastic_info": info}

    def physical(self, layer_index: int, expert_ids: Tensor) -> Tensor:
        """Where the rows go: instances of the experts, in the numbering in force."""
        ids = self.placement.remap(layer_index, expert_ids, self.rank)
        owners = torch.bincount(
            ids.flatten() // self.placement.per_rank, minlength=self.placement.ranks
        )
        self.rows_sent = [a + b for a, b in zip(self.rows_sent, owners.tolist(), strict=True)]
        if not self.elastic:
            return ids
        new_rank = self.elastic["elastic_info"][4 : 4 + self.placement.ranks]
        local = self.placement.per_rank
        return (new_rank[(ids // local).long()] * local + ids % local).to(torch.int32)

    def __call__(
        self,
        layer: MoELayer,
        layer_index: int,
        x: list[Tensor],
        expert_ids: list[Tensor],
        expert_scales: list[Tensor],
        shared: Callable[[], list[Tensor]],
    ) -> list[Tensor]:
        ids = self.physical(layer_index, expert_ids[0])
        arrived, dense = (
            self.overlapped(x[0], ids, shared)
            if self.overlap
            else (
                self.dispatch(x[0], ids),
                shared()[0],
            )
        )
        received = int(arrived.counts[-1])
        if self.elastic:
            received = int(arrived.counts.max())
        keep = len(self.recorded) < self.record
        before = arrived.rows[:received].clone() if keep else None
        experts = self.placement.of_rank(layer_index, self.rank)
        layer.experts(experts, arrived.rows, arrived.nums, out=arrived.rows)
        combine = self.combine_overlapped if self.overlap else self.combine
        y = combine(arrived, ids, expert_scales[0], dense)
        self.routing.append((layer_index, expert_ids[0].clone()))
        if before is not None:
            self.recorded.append(
                Recorded(
                    layer_index,
                    x[0].clone(),
                    ids.clone(),
                    expert_scales[0].clone(),
                    dense.clone(),
                    before,
                    None if self.overlap else arrived.assist[: 3 * received].clone(),
                    arrived.counts.clone(),
                    arrived.rows[:received].clone(),
                    y.clone(),
                )
            )
        return [y]

    def dispatch(self, x: Tensor, ids: Tensor) -> Arrived:
        rows, _, assist, nums, counts, _, _ = waybill.npu_moe_distribute_dispatch_v2(
            x, ids, **self.common, **self.elastic
        )
        return Arrived(rows, nums, counts, assist, None)

    def combine(self, arrived: Arrived, ids: Tensor, scales: Tensor, dense: Tensor) -> Tensor:
        return waybill.npu_moe_distribute_combine_v2(
            arrived.rows,
            ids,
            arrived.assist,
            arrived.counts,
            scales,
            **self.common,
            **self.elastic,
            shared_expert_x=dense,
        )

    def overlapped(
        self, x: Tensor, ids: Tensor, shared: Callable[[], list[Tensor]]
    ) -> tuple[Arrived, Tensor]:
        y, expand_idx, command = waybill.npu_moe_distribute_dispatch_setup(x, ids, **self.common)
        dense = shared()[0]
        rows, _, assist, nums = waybill.npu_moe_distribute_dispatch_teardown(
            x, y, ids, command, **self.common
        )
        counts = assist[: self.placement.num_slots]  # E*L
        return Arrived(rows, nums, counts, assist, expand_idx), dense

    def combine_overlapped(
        self, arrived: Arrived, ids: Tensor, scales: Tensor, dense: Tensor
    ) -> Tensor:
        reserved, command = waybill.npu_moe_distribute_combine_setup(
            arrived.rows, ids, arrived.assist, **self.common
        )
        assert arrived.expand_idx is not None
        return waybill.npu_moe_distribute_combine_teardown(
            arrived.rows,
            reserved,
            ids,
            arrived.expand_idx,
            scales,
            command,
            **self.common,
            shared_expert_x=dense,
        )
