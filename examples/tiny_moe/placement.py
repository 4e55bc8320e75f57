"""Where the experts live: each rank holds its own, and replicas of the hottest ones.

All ranks have the same number L of slots, so that physical expert p lives on rank p//L; a slot
without an expert stays empty.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from model import LocalExchange, MoELayer
from torch import Tensor

import waybill

ROUTING = Path(__file__).parent / "routing.safetensors"
EMPTY = -1


@dataclass(frozen=True)
class Placement:
    """`slots[layer][p]`: the expert in physical slot p. `tables[layer]`: eplb_table."""

    ranks: int
    slots: list[list[int]]
    tables: list[Tensor]

    @property
    def num_slots(self) -> int:
        """M: physical experts of all ranks."""
        return len(self.slots[0])

    @property
    def per_rank(self) -> int:
        """L."""
        return self.num_slots // self.ranks

    def of_rank(self, layer: int, rank: int) -> list[int]:
        return self.slots[layer][rank * self.per_rank : (rank + 1) * self.per_rank]

    def remap(self, layer: int, expert_ids: Tensor, rank: int) -> Tensor:
        """Logical ids to physical ones: the ranks share the instances of an expert."""
        physical, _ = waybill.npu_moe_update_expert(
            expert_ids, self.tables[layer], local_rank_id=rank, world_size=self.ranks
        )
        return physical


def place(experts: int, layers: int, ranks: int, redundant: int) -> Placement:
    """`redundant` replicas for each layer, of the experts that the recorded routing used most."""
    own = experts // ranks
    extra = -(-redundant // ranks)
    slots, tables = [], []
    for layer in range(layers):
        hottest = [e for e, _ in recorded_load(layer, layers).most_common(redundant)]
        held = [
            list(range(rank * own, (rank + 1) * own)) + [EMPTY] * extra for rank in range(ranks)
        ]
        for number, expert in enumerate(hottest):
            # Half way round the group from the expert's own rank, or the next one with room.
            first = expert // own + max(ranks // 2, 1) + number // ranks
            for step in range(ranks):
                target = held[(first + step) % ranks]
                if EMPTY in target and expert not in target:
                    target[target.index(EMPTY)] = expert
                    break
        flat = [expert for rank in held for expert in rank]
        slots.append(flat)
        tables.append(table_of(flat, experts))
    return Placement(ranks, slots, tables)


def table_of(slots: list[int], experts: int) -> Tensor:
    """eplb_table: row e = [c, id_1, ..., id_c, padding]."""
    instances = [[p for p, held in enumerate(slots) if held == e] for e in range(experts)]
    width = max(map(len, instances))
    rows = [[len(ids), *ids, *[0] * (width - len(ids))] for ids in instances]
    return torch.tensor(rows, dtype=torch.int32)


def recorded_load(layer: int, layers: int) -> Counter[int]:
    """Rows by expert in the recorded routing, whose calls are in the order of the layers."""
    from safetensors import safe_open

    load: Counter[int] = Counter()
    with safe_open(ROUTING, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a dict
            if int(name.split(".")[1]) % layers == layer:
                load.update(file.get_tensor(name).flatten().tolist())
    return load


class PlacedLocalExchange(LocalExchange):
    """What the ranks of a placement compute, in one process."""

    def __init__(self, placement: Placement) -> None:
        self.placement = placement

    def instances(
        self, layer: MoELayer, layer_index: int, expert_ids: list[Tensor]
    ) -> tuple[list[Tensor], list[int]]:
        remapped = [
            self.placement.remap(layer_index, ids, rank) for rank, ids in enumerate(expert_ids)
        ]
        return remapped, self.placement.slots[layer_index]
