"""Setup and teardown: a computation of one's own between sending rows and receiving them.

A setup publishes this rank's rows and returns at once; the teardown waits for the other ranks. So
what needs no rows of others, here a shared expert, is computed while they come. On one host the
teardown reads the rows; between hosts they travel during the computation.

Run: .venv/bin/python examples/04_setup_and_teardown.py

Prints:
    rank 0: routed 2.0 + shared 100.0 = 102.0
    rank 1: routed 2.0 + shared 200.0 = 202.0
"""

from __future__ import annotations

import torch
from example_ranks import start
from torch.distributed import Store

import waybill


def run(rank: int, size: int, store: Store) -> str:
    name = waybill.connect(store, rank, size, "setup")
    layer = {"group_ep": name, "ep_world_size": size, "ep_rank_id": rank, "moe_expert_num": 2}
    x = torch.full((1, 8), rank + 1.0)
    ids = torch.tensor([[1 - rank]], dtype=torch.int32)  # the expert on the other rank

    y, expand_idx, ticket = waybill.npu_moe_distribute_dispatch_setup(x, ids, **layer)
    shared = 100 * x  # any computation; no other call on this group may come before the teardown
    expand_x, _, assist, counts = waybill.npu_moe_distribute_dispatch_teardown(
        x, y, ids, ticket, **layer
    )
    assert counts.tolist() == [1] and expand_x[0, 0] == 2.0 - rank
    rows = expand_x * (rank + 1)  # expert e multiplies by e + 1

    quant_x, ticket = waybill.npu_moe_distribute_combine_setup(rows, ids, assist, **layer)
    scales = torch.ones(1, 1)  # another place for a computation; rows must not change meanwhile
    result = waybill.npu_moe_distribute_combine_teardown(
        rows, quant_x, ids, expand_idx, scales, ticket, **layer, shared_expert_x=shared
    )
    assert result.tolist() == [[2.0 + 100 * (rank + 1)] * 8]
    routed = result[0, 0] - shared[0, 0]
    return f"routed {routed} + shared {shared[0, 0]} = {result[0, 0]}"


if __name__ == "__main__":
    start(run, 2)
