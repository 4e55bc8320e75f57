"""How long setup takes while a peer is late, beside copying the same rows once.

    python bench/setup.py

Two processes; rank 1 comes to each setup `--late` seconds after rank 0. Prints, for dispatch_setup
and combine_setup on rank 0, the time of the call, the time of one copy of its rows, and the ratio;
and checks that the pair gives the bits of dispatch_v2 and combine_v2.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

import waybill

RANKS = 2


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.perf_counter()
    result = action()
    return result, (time.perf_counter() - begin) * 1e6


def copy_us(rows: Tensor) -> float:
    """One copy of the rows into memory that was touched before, microseconds."""
    target = torch.empty_like(rows)
    return statistics.median(timed(lambda: target.copy_(rows))[1] for _ in range(30))


def layer(rank: int, name: str, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "group_ep": name,
        "ep_world_size": RANKS,
        "ep_rank_id": rank,
        "moe_expert_num": options.experts,
    }


def run(rank: int, folder: str, options: argparse.Namespace, out: Any) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", RANKS)
    name = waybill.connect(store, rank, RANKS, "setup-bench", timeout=60, threads=1)
    common = layer(rank, name, options)
    random = torch.Generator().manual_seed(rank)
    x = torch.randn(options.bs, options.hidden, generator=random).bfloat16()
    weights, ids = torch.rand(options.bs, options.experts, generator=random).topk(options.topk)
    ids = ids.int()
    times: dict[str, list[float]] = {"dispatch_setup": [], "combine_setup": []}
    equal = True
    for turn in range(options.warm_up + options.rounds):
        whole = waybill.npu_moe_distribute_dispatch_v2(x, ids, **common)
        count = int(whole[4][-1])
        experts = torch.randn(count, options.hidden, generator=random).bfloat16()
        total = waybill.npu_moe_distribute_combine_v2(
            experts, ids, whole[2], whole[4], weights, **common
        )
        late = options.late if turn >= options.warm_up else 0.0
        time.sleep(late * rank)
        (y, index, command), us = timed(
            lambda: waybill.npu_moe_distribute_dispatch_setup(x, ids, **common)
        )
        rows, _, assist, _ = waybill.npu_moe_distribute_dispatch_teardown(
            x, y, ids, command, **common
        )
        time.sleep(late * rank)
        (reserved, command), back_us = timed(
            lambda e=experts, a=assist: waybill.npu_moe_distribute_combine_setup(
                e, ids, a, **common
            )
        )
        parts = waybill.npu_moe_distribute_combine_teardown(
            experts, reserved, ids, index, weights, command, **common
        )
        equal = equal and torch.equal(rows[:count], whole[0][:count]) and torch.equal(parts, total)
        if turn >= options.warm_up:
            times["dispatch_setup"].append(us)
            times["combine_setup"].append(back_us)
    copies = {"dispatch_setup": copy_us(x), "combine_setup": copy_us(experts)}
    out.put((rank, times, copies, equal))
    waybill.release(name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bs", type=int, default=256)
    parser.add_argument("--hidden", type=int, default=7168)
    parser.add_argument("--topk", type=int, default=8)
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--late", type=float, default=2.0, help="seconds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=3)
    options = parser.parse_args()
    context = mp.get_context("fork")
    out = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=run, args=(rank, folder, options, out), daemon=True)
            for rank in range(RANKS)
        ]
        for process in processes:
            process.start()
        results = sorted(out.get(timeout=120) for _ in processes)
        for process in processes:
            process.join(30)
    _, times, copies, _ = results[0]
    for name, values in times.items():
        median = statistics.median(values)
        print(
            f"{name}: {median:.0f} us while rank 1 is {options.late} s late; "
            f"one copy of its rows {copies[name]:.0f} us; ratio {median / copies[name]:.2f}"
        )
    equal = all(result[3] for result in results)
    print("bits of dispatch_v2 and combine_v2:", "equal" if equal else "DIFFERENT")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
