"""Resets behind each other, with calls of some ranks in between."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import waybill
from local_groups import LocalGroups

E, BS, H = 3, 2, 8
ROUNDS = 20


def only(alive: int) -> Tensor:
    """elastic_info of a call that one rank makes alone."""
    new_of_old = [0 if rank == alive else -1 for rank in range(E)]
    return torch.tensor([1, 1, 0, 1, *new_of_old, alive, -1, -1], dtype=torch.int32)


@pytest.fixture
def groups() -> Iterator[LocalGroups]:
    made = LocalGroups(E, timeout=5)
    yield made
    made.close()


def test_idle_ranks_go_from_reset_to_reset(groups: LocalGroups) -> None:
    """A rank that makes no call between two resets is in the second one when others still leave
    the first one: nobody is lost.
    """

    def run(place: int) -> None:
        name = groups.name(place)
        layer = {**groups.where(place), "ep_world_size": E, "moe_expert_num": E}
        x, ids = torch.full((BS, H), float(place)), torch.zeros(BS, 1, dtype=torch.int32)

        def round_trip(elastic_info: Tensor | None) -> None:
            rows, _, triples, _, counts, _, _ = waybill.npu_moe_distribute_dispatch_v2(
                x, ids, elastic_info=elastic_info, **layer
            )
            back = waybill.npu_moe_distribute_combine_v2(
                rows, ids, triples, counts, torch.ones(BS, 1), elastic_info=elastic_info, **layer
            )
            assert torch.equal(back, x)

        for _ in range(ROUNDS):
            round_trip(None)
            for alive in (0, 2, 1):
                if place == alive:
                    round_trip(only(alive))
                assert waybill.reset(name) == list(range(E))

    groups.run(run)


def test_resets_only(groups: LocalGroups) -> None:
    def run(place: int) -> None:
        for _ in range(3 * ROUNDS):
            assert waybill.reset(groups.name(place)) == list(range(E))

    groups.run(run)
