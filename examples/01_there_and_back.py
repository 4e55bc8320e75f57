"""A row there and back: each of two ranks sends a token to the other one and gets it back.

dispatch brings a token to the rank of its expert, combine brings the expert's row back to the
token. There are two experts, one on each rank; expert e multiplies by 10 (e + 1).

Run: .venv/bin/python examples/01_there_and_back.py

Prints:
    rank 0: sent 1.0 to expert 1, got back 20.0
    rank 1: sent 2.0 to expert 0, got back 20.0
"""

from __future__ import annotations

import torch
from example_ranks import start
from torch.distributed import Store

import waybill


def run(rank: int, size: int, store: Store) -> str:
    group = waybill.connect(store, rank, size, "there-and-back")  # meets the other rank
    x = torch.full((1, 4), rank + 1.0)  # one token of four elements: (BS, H)
    chosen = 1 - rank  # the expert on the other rank
    ids = torch.tensor([[chosen]], dtype=torch.int32)  # (BS, K): each token has one expert

    expand_x, _, assist, counts, recv_counts, _, _ = waybill.npu_moe_distribute_dispatch_v2(
        x, ids, group, size, rank, moe_expert_num=2
    )
    assert counts.tolist() == [1]  # the other rank's token came to this rank's expert
    assert expand_x[0].tolist() == [2.0 - rank] * 4
    rows = expand_x * 10 * (rank + 1)  # what the expert computes; any code may stand here

    weights = torch.ones(1, 1)  # combine adds up weight * row over a token's experts
    y = waybill.npu_moe_distribute_combine_v2(
        rows, ids, assist, recv_counts, weights, group, size, rank, moe_expert_num=2
    )
    assert y.tolist() == [[20.0] * 4]
    return f"sent {x[0, 0]} to expert {chosen}, got back {y[0, 0]}"


if __name__ == "__main__":
    start(run, 2)
