"""Two ranks, each an interpreter of its own: spawned by this script, or started by torchrun."""

import os
import sys
import threading

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch_npu

from waybill import reference

WORLD, BS, H, K, M = 2, 4, 32, 2, 4


def make_inputs(rank):
    random = torch.Generator().manual_seed(rank)
    x = torch.randn(BS, H, generator=random).bfloat16()
    return x, torch.argsort(torch.rand(BS, M, generator=random), dim=1)[:, :K].int()


def layer(x, ids, name, rank):
    common = {
        "group_ep": name,
        "ep_world_size": WORLD,
        "ep_rank_id": rank,
        "moe_expert_num": M,
    }
    rows, _, triples, _, counts, _, _ = torch_npu.npu_moe_distribute_dispatch_v2(x, ids, **common)
    weights = torch.full((BS, K), 0.5, device=f"npu:{rank}")
    return torch_npu.npu_moe_distribute_combine_v2(rows, ids, triples, counts, weights, **common)


def oracle(rank):
    xs, ids = zip(*map(make_inputs, range(WORLD)), strict=True)
    common = {"ep_world_size": WORLD, "moe_expert_num": M}
    sent = reference.npu_moe_distribute_dispatch_v2(xs, ids, **common)
    names = ("expand_x", "assist_info_for_combine", "ep_recv_counts")
    rows, triples, counts = ([getattr(out, name) for out in sent] for name in names)
    weights = [torch.full((BS, K), 0.5)] * WORLD
    return reference.npu_moe_distribute_combine_v2(rows, ids, triples, counts, weights, **common)[
        rank
    ]


def collectives(rank):
    """What torch.distributed does on the CPU it does here."""
    total = torch.ones(3, device="npu") * (rank + 1)
    dist.all_reduce(total)
    assert total.tolist() == [3, 3, 3]
    objects = [None] * WORLD
    dist.all_gather_object(objects, {"rank": rank})
    assert [item["rank"] for item in objects] == [0, 1]
    parts = [torch.empty(2, device="npu") for _ in range(WORLD)]
    dist.all_gather(parts, torch.full((2,), float(rank)).npu())
    assert torch.equal(torch.stack(parts), torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    dist.barrier(device_ids=[rank])


def work(rank, port):
    torch.npu.set_device(f"npu:{rank}")
    torch.set_num_threads(1)
    if port is None:  # torchrun; torch finds the back end by itself
        dist.init_process_group(device_id=torch.device("npu", rank))
    else:
        address = f"tcp://127.0.0.1:{port}"
        dist.init_process_group("hccl", rank=rank, world_size=WORLD, init_method=address)
    assert dist.get_backend() == "hccl"
    group = dist.new_group(ranks=range(WORLD), backend="hccl")
    alone = [dist.new_group(ranks=[own], backend="hccl") for own in range(WORLD)][rank]
    assert dist.get_world_size(alone) == 1 and alone.get_hccl_comm_name(rank)
    name = group._get_backend(torch.device("npu")).get_hccl_comm_name(rank)
    collectives(rank)

    x, ids = (tensor.npu() for tensor in make_inputs(rank))
    results = [layer(x, ids, name, rank)]
    thread = threading.Thread(target=lambda: results.append(layer(x, ids, name, rank)))
    thread.start()
    thread.join()
    for result in results:
        assert torch.equal(result.cpu(), oracle(rank))
    assert len(results) == 2
    dist.destroy_process_group()
    sys.stdout.write(f"PASS {rank}\n")  # at once: ranks share the pipe


if __name__ == "__main__":
    if "TORCHELASTIC_RUN_ID" in os.environ:
        work(int(os.environ["RANK"]), None)
    else:
        mp.spawn(work, args=(int(sys.argv[1]),), nprocs=WORLD)
