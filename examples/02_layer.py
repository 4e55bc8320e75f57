"""A layer with experts: two ranks with two experts each, and tokens that choose two of the four.

What dispatch returns are the rows of this rank's experts, one expert behind the other; the counts
say where one ends. Expert e multiplies by e + 1, and combine adds a token's two rows, weighted.

Run: .venv/bin/python examples/02_layer.py

Prints:
    rank 0: experts 0 and 1 got 3 and 2 rows, tokens came back as [1.5, 6.0, 6.0]
    rank 1: experts 2 and 3 got 3 and 4 rows, tokens came back as [14.0, 12.5, 21.0]
"""

from __future__ import annotations

import torch
from example_ranks import start
from torch.distributed import Store

import waybill

EXPERTS = 4
IDS = torch.tensor([[[0, 1], [1, 3], [2, 0]], [[3, 2], [0, 3], [2, 3]]], dtype=torch.int32)


def layer(x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, where: dict) -> tuple:
    """Dispatch, the experts of this rank, combine."""
    expand_x, _, assist, counts, recv_counts, _, _ = waybill.npu_moe_distribute_dispatch_v2(
        x, ids, moe_expert_num=EXPERTS, **where
    )
    rows = expand_x[: counts.sum()]  # what lies behind the rows received is unspecified
    first = len(counts) * where["ep_rank_id"]
    for local, part in enumerate(rows.split(counts.tolist())):
        part *= first + local + 1  # in place: then combine copies nothing
    y = waybill.npu_moe_distribute_combine_v2(
        rows, ids, assist, recv_counts, weights, moe_expert_num=EXPERTS, **where
    )
    return y, counts.tolist()


def run(rank: int, size: int, store: Store) -> str:
    name = waybill.connect(store, rank, size, "layer")
    where = {"group_ep": name, "ep_world_size": size, "ep_rank_id": rank}
    x = (torch.arange(1.0, 4.0) + 3 * rank)[:, None].repeat(1, 8)  # (BS, H): 1, 2, 3 on rank 0
    ids, weights = IDS[rank], torch.full((3, 2), 0.5)
    y, counts = layer(x, ids, weights, where)
    expected = x * (weights * (ids + 1)).sum(1, keepdim=True)
    assert torch.equal(y, expected)
    return (
        f"experts {2 * rank} and {2 * rank + 1} got {counts[0]} and {counts[1]} rows, "
        f"tokens came back as {y[:, 0].tolist()}"
    )


if __name__ == "__main__":
    start(run, 2)
