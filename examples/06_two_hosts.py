"""Two hosts: the same program where ranks cannot share memory and talk through UCX.

Waybill finds out by itself which ranks share a host. WAYBILL_HOST overrides that, so here four
ranks of one machine act as two hosts; it needs UCX's library (Debian: libucx0). Beside this,
examples/two_hosts runs under torchrun on two machines, or on network namespaces.

Run: .venv/bin/python examples/06_two_hosts.py

Prints:
    rank 0: reaches ranks [0, 1] by memory, [2, 3] by messages; tokens came back as 6.0
    rank 1: reaches ranks [0, 1] by memory, [2, 3] by messages; tokens came back as 12.0
    rank 2: reaches ranks [2, 3] by memory, [0, 1] by messages; tokens came back as 18.0
    rank 3: reaches ranks [2, 3] by memory, [0, 1] by messages; tokens came back as 24.0
"""

from __future__ import annotations

import os

import torch
from example_ranks import start
from torch.distributed import Store

import waybill


def run(rank: int, size: int, store: Store) -> str:
    os.environ["WAYBILL_HOST"] = f"host-{rank // 2}"  # ranks 0 and 1, ranks 2 and 3
    os.environ.setdefault("UCX_NET_DEVICES", "lo")  # the loopback is enough for one machine
    name = waybill.connect(store, rank, size, "hosts")
    hosts = [route["host"] for route in waybill.routes(name)]
    near = [other for other in range(size) if hosts[other] == hosts[rank]]
    far = [other for other in range(size) if other not in near]
    assert hosts == ["host-0", "host-0", "host-1", "host-1"]

    x = torch.full((2, 16), rank + 1.0)
    ids = torch.tensor([near[:1] + far[:1]] * 2, dtype=torch.int32)  # an expert near, one far
    expand_x, _, assist, _, counts, _, _ = waybill.npu_moe_distribute_dispatch_v2(
        x, ids, name, size, rank, moe_expert_num=size
    )
    rows = 3 * expand_x
    weights = torch.ones(2, 2)
    y = waybill.npu_moe_distribute_combine_v2(
        rows, ids, assist, counts, weights, name, size, rank, moe_expert_num=size
    )
    assert torch.equal(y, 6 * x)
    return f"reaches ranks {near} by memory, {far} by messages; tokens came back as {y[0, 0]}"


if __name__ == "__main__":
    start(run, 4)
