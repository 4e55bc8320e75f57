"""One mixture-of-experts layer whose experts lie on the ranks of all hosts, under torchrun.

On each of two hosts, with the same first address:

    torchrun --nnodes 2 --node-rank 0 --master-addr 192.0.2.1 --nproc-per-node 4 layer.py
    torchrun --nnodes 2 --node-rank 1 --master-addr 192.0.2.1 --nproc-per-node 4 layer.py

`python here.py` does the same on one machine, with network namespaces as hosts. Each rank checks
its tokens against the oracle; rank 0 prints who talks how, and what a call takes.
"""

from __future__ import annotations

import time

import torch
import torch.distributed as dist

import waybill

TOKENS, HIDDEN, TOPK, EXPERTS_PER_RANK = 64, 1024, 4, 4
ROUNDS = 20


def inputs_of(rank: int, num_experts: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x, expert_ids and expert_scales: the same wherever they are drawn."""
    draw = torch.Generator().manual_seed(rank)
    x = torch.rand(TOKENS, HIDDEN, generator=draw).to(torch.bfloat16)
    choices = torch.rand(TOKENS, num_experts, generator=draw).topk(TOPK)
    return x, choices.indices.int(), choices.values


def expert(rows: torch.Tensor, rank: int) -> torch.Tensor:
    """What the experts of a rank compute."""
    return rows * (1 + rank)


def layer(name: str, rank: int, ranks: int) -> torch.Tensor:
    """Dispatch, the experts of this rank, combine."""
    num_experts = EXPERTS_PER_RANK * ranks
    x, ids, weights = inputs_of(rank, num_experts)
    where = {"group_ep": name, "ep_world_size": ranks, "ep_rank_id": rank}
    rows, _, assist, _, counts, _, _ = waybill.npu_moe_distribute_dispatch_v2(
        x, ids, moe_expert_num=num_experts, **where
    )
    rows.copy_(expert(rows, rank))  # in the buffer that dispatch gave: combine need not copy
    return waybill.npu_moe_distribute_combine_v2(
        rows, ids, assist, counts, weights, moe_expert_num=num_experts, **where
    )


def oracle(ranks: int) -> list[torch.Tensor]:
    """The same for all ranks, without processes."""
    num_experts = EXPERTS_PER_RANK * ranks
    x, ids, weights = (
        list(column)
        for column in zip(*(inputs_of(rank, num_experts) for rank in range(ranks)), strict=True)
    )
    sizes = {"ep_world_size": ranks, "moe_expert_num": num_experts}
    dispatched = waybill.reference.npu_moe_distribute_dispatch_v2(x, ids, **sizes)
    return waybill.reference.npu_moe_distribute_combine_v2(
        [expert(own.expand_x, rank) for rank, own in enumerate(dispatched)],
        ids,
        [own.assist_info_for_combine for own in dispatched],
        [own.ep_recv_counts for own in dispatched],
        weights,
        **sizes,
    )


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    name = waybill.comm_name(timeout=60)
    y = layer(name, rank, ranks)
    assert torch.equal(y, oracle(ranks)[rank]), f"rank {rank}: not what the oracle computes"
    begin = time.perf_counter()
    for _ in range(ROUNDS):
        layer(name, rank, ranks)
    took = (time.perf_counter() - begin) / ROUNDS
    if rank == 0:
        for other, route in enumerate(waybill.routes(name)):
            print(f"rank {other} on {route['host'] or 'this host'}: {route['how']}")
        print(f"{ranks} ranks equal the oracle bit for bit; a layer takes {took * 1e6:.0f} us")
    waybill.release(name)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
