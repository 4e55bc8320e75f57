"""A group of hccl for each test, made and destroyed: nothing of the earlier ones is left."""

import gc
import os
import sys
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch_npu

WORLD, ROUNDS, WARM = 2, 6, 2


def left_behind():
    with open("/proc/self/status") as status:
        size = next(int(line.split()[1]) for line in status if line.startswith("VmSize"))
    return len(os.listdir("/proc/self/fd")), size >> 20


def is_as(before):
    return all(now <= then for now, then in zip(left_behind(), before, strict=True))


def use(rank, group):
    name = group._get_backend(torch.device("npu")).get_hccl_comm_name(rank)
    x = torch.randn(8, 64, dtype=torch.bfloat16).npu()
    ids = torch.randint(0, WORLD, (8, 1)).int().npu()
    where = (name, WORLD, rank, WORLD)
    sent = torch_npu.npu_moe_distribute_dispatch_v2(x, ids, *where)
    weights = torch.ones(8, 1).npu()
    back = torch_npu.npu_moe_distribute_combine_v2(sent[0], ids, sent[2], sent[4], weights, *where)
    assert torch.equal(back, x)
    return name


def main(rank, port):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    torch.npu.set_device(rank)
    dist.init_process_group("hccl", rank=rank, world_size=WORLD)
    names, numbers = [], []
    for _ in range(ROUNDS):
        group = dist.new_group(list(range(WORLD)), backend="hccl")
        names.append(use(rank, group))
        dist.destroy_process_group(group)
        del group
        gc.collect()
        numbers.append(left_behind())
    deadline = time.monotonic() + 20
    while not is_as(numbers[WARM - 1]) and time.monotonic() < deadline:
        time.sleep(0.01)  # torch's own sockets
    assert is_as(numbers[WARM - 1]), numbers
    assert len(set(names)) == ROUNDS
    print(f"PASS {rank}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.start_processes(main, args=(sys.argv[1],), nprocs=WORLD, start_method="fork")
