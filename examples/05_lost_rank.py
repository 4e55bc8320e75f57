"""A rank that dies, and a reset: the others get an error in seconds and go on without it.

Rank 2 of three ends before its second call. PeerLost names it, whatever the timeout. `reset` agrees
with the other living ranks on who is there; then `elastic_info` says which new rank each has.

Run: .venv/bin/python examples/05_lost_rank.py

Prints:
    rank 0: lost [2], went on as [0, 1], token came back as 10.0
    rank 1: lost [2], went on as [0, 1], token came back as 10.0
"""

from __future__ import annotations

import os

import torch
from example_ranks import start
from torch.distributed import Store

import waybill


def layer(name: str, rank: int, size: int, expert: int, elastic_info=None) -> torch.Tensor:
    """One token with the value 5, one expert on each rank, which doubles."""
    x, ids = torch.full((1, 4), 5.0), torch.tensor([[expert]], dtype=torch.int32)
    call = {"moe_expert_num": size, "elastic_info": elastic_info}
    expand_x, _, assist, _, counts, _, _ = waybill.npu_moe_distribute_dispatch_v2(
        x, ids, name, size, rank, **call
    )
    return waybill.npu_moe_distribute_combine_v2(
        2 * expand_x, ids, assist, counts, torch.ones(1, 1), name, size, rank, **call
    )


def run(rank: int, size: int, store: Store) -> str:
    name = waybill.connect(store, rank, size, "lost")
    assert layer(name, rank, size, expert=2)[0, 0] == 10.0  # all tokens go to rank 2
    if rank == 2:
        os._exit(0)  # as if it were killed
    try:
        layer(name, rank, size, expert=2)
        raise AssertionError("a call without rank 2 cannot succeed")
    except waybill.PeerLost as error:
        lost = error.ranks
    alive = waybill.reset(name)  # the same list on every rank that lives
    assert lost == [2] and alive == [0, 1]
    new_rank = [alive.index(old) if old in alive else -1 for old in range(size)]
    old_rank = alive + [-1] * (size - len(alive))
    elastic_info = torch.tensor([1, len(alive), 0, len(alive), *new_rank, *old_rank]).int()
    y = layer(name, rank, size, expert=1 - rank, elastic_info=elastic_info)
    assert y.tolist() == [[10.0] * 4]
    return f"lost {lost}, went on as {alive}, token came back as {y[0, 0]}"


if __name__ == "__main__":
    start(run, 3)
