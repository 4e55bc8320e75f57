"""Masks and padding: tokens that take no part, choices that are left out, batches of unequal size.

Two ranks, an expert on each. Rank 0 has three tokens, of which one is padding and one drops a
choice by the id -1; rank 1 has none at all and still makes the calls, since every rank waits for
every other one. With unequal batches all ranks give the same `global_bs`, a bound on BS * ranks.

Run: .venv/bin/python examples/03_masks_and_padding.py

Prints:
    rank 0: 2 rows for expert 0, tokens came back as [3.0, 4.0, 0.0]
    rank 1: 1 rows for expert 1, tokens came back as []
"""

from __future__ import annotations

import torch
from example_ranks import start
from torch.distributed import Store

import waybill

TOKENS = [3, 0]  # BS of each rank
IDS = [[[0, 1], [0, -1], [7, 7]], []]  # -1: not routed; ids at masked places are not read
MASK = [[True, True, False], []]  # the third token is padding


def run(rank: int, size: int, store: Store) -> str:
    group = waybill.connect(store, rank, size, "masks")
    tokens = TOKENS[rank]
    x = torch.arange(1.0, tokens + 1)[:, None].repeat(1, 4)  # 1, 2, 3
    ids = torch.tensor(IDS[rank], dtype=torch.int32).reshape(tokens, 2)
    mask = torch.tensor(MASK[rank], dtype=torch.bool)  # (BS,); (BS, K) masks single choices
    common = {"x_active_mask": mask, "global_bs": size * max(TOKENS)}

    expand_x, _, assist, counts, recv_counts, _, _ = waybill.npu_moe_distribute_dispatch_v2(
        x, ids, group, size, rank, 2, **common
    )
    rows = expand_x * (2 - rank)  # expert 0 doubles, expert 1 changes nothing
    weights = torch.ones(tokens, 2)
    y = waybill.npu_moe_distribute_combine_v2(
        rows, ids, assist, recv_counts, weights, group, size, rank, 2, **common
    )
    # Token 0: 2 * 1 + 1 * 1. Token 1: 2 * 2, its second choice is left out. Token 2: zeros.
    assert y[:, 0].tolist() == ([3.0, 4.0, 0.0] if rank == 0 else [])
    return f"{counts[0]} rows for expert {rank}, tokens came back as {y[:, 0].tolist()}"


if __name__ == "__main__":
    start(run, 2)
