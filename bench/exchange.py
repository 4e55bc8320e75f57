"""Dispatch and combine through PyTorch beside the same exchange over gloo.

One program runs both in turns, in the same processes, on the same routing and the same rows, and
checks that both give the same sums. Waybill runs a second time in checked mode (WAYBILL_CHECK=1).
The exchange over gloo is what one would write by hand with
torch.distributed: sort the pairs by expert, pack the rows, exchange the counts, all_to_all_single
the rows, unpack by expert; on the way back the same in reverse and a weighted sum.

    python bench/exchange.py --ranks 2,8 --bs 128
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from rich.console import Console
from rich.table import Table

import waybill

JOIN_SECONDS = 600


@dataclass(frozen=True)
class Sizes:
    """One line of the table; letters as in ops.md."""

    ranks: int
    bs: int
    hidden: int
    top_k: int
    experts_per_rank: int

    @property
    def experts(self) -> int:
        return self.ranks * self.experts_per_rank


class GlooExchange:
    """The exchange by hand over torch.distributed's gloo."""

    def __init__(self, sizes: Sizes, rank: int) -> None:
        self.sizes = sizes
        self.rank = rank

    def dispatch(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        sizes = self.sizes
        flat = ids.flatten().long()
        self.order = flat.argsort(stable=True)
        packed = x[self.order // sizes.top_k]
        sent = torch.bincount(flat, minlength=sizes.experts)
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent)
        self.send_rows = sent.view(sizes.ranks, -1).sum(1).tolist()
        by_source = received.view(sizes.ranks, sizes.experts_per_rank)
        self.recv_rows = by_source.sum(1).tolist()
        rows = torch.empty((sum(self.recv_rows), sizes.hidden), dtype=x.dtype)
        dist.all_to_all_single(
            rows.view(torch.uint8), packed.view(torch.uint8), self.recv_rows, self.send_rows
        )
        # Rows come by source, then expert; experts want them by expert, then source.
        expert = torch.arange(sizes.experts_per_rank).repeat(sizes.ranks)
        self.by_expert = expert.repeat_interleave(by_source.flatten()).argsort(stable=True)
        return rows[self.by_expert]

    def combine(self, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        sizes = self.sizes
        packed = torch.empty_like(rows)
        packed[self.by_expert] = rows
        back = torch.empty((sum(self.send_rows), sizes.hidden), dtype=rows.dtype)
        dist.all_to_all_single(
            back.view(torch.uint8), packed.view(torch.uint8), self.send_rows, self.recv_rows
        )
        pairs = torch.empty_like(back)
        pairs[self.order] = back
        pairs = pairs.view(-1, sizes.top_k, sizes.hidden)
        return torch.einsum("tkh,tk->th", pairs.float(), weights).to(rows.dtype)


class WaybillExchange:
    """The same through the operators."""

    def __init__(self, sizes: Sizes, rank: int, group: str) -> None:
        self.common = (group, sizes.ranks, rank, sizes.experts)

    def dispatch(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        self.ids = ids
        self.out = waybill.npu_moe_distribute_dispatch_v2(x, ids, *self.common)
        return self.out[0]

    def combine(self, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        assist, counts = self.out[2], self.out[4]
        return waybill.npu_moe_distribute_combine_v2(
            rows, self.ids, assist, counts, weights, *self.common
        )


def make_inputs(sizes: Sizes, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Uniform routing with distinct experts in a token."""
    generator = torch.Generator().manual_seed(1000 + rank)
    x = torch.randn((sizes.bs, sizes.hidden), generator=generator).to(torch.bfloat16)
    scores = torch.rand((sizes.bs, sizes.experts), generator=generator)
    weights, ids = scores.topk(sizes.top_k)
    return x, ids.int(), (weights / weights.sum(1, keepdim=True)).float()


def timed(call: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, float]:
    dist.barrier()
    begin = time.perf_counter()
    result = call()
    return result, (time.perf_counter() - begin) * 1e6


def slowest(us: float) -> float:
    """The time of the slowest rank is the time of the call."""
    value = torch.tensor(us, dtype=torch.float64)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return float(value)


def checked_group() -> str:
    """A second group of the same ranks, in checked mode."""
    os.environ["WAYBILL_CHECK"] = "1"
    name = waybill.comm_name(dist.new_group())
    del os.environ["WAYBILL_CHECK"]
    return name


def measure(sizes: Sizes, rank: int, rounds: int) -> dict[str, list[float]]:
    x, ids, weights = make_inputs(sizes, rank)
    methods: dict[str, GlooExchange | WaybillExchange] = {
        "waybill": WaybillExchange(sizes, rank, waybill.comm_name()),
        "checked": WaybillExchange(sizes, rank, checked_group()),
        "gloo": GlooExchange(sizes, rank),
    }
    times: dict[str, list[float]] = {}
    for turn in range(rounds + 3):
        sums = {}
        for name, method in methods.items():
            rows, sent = timed(lambda m=method: m.dispatch(x, ids))
            sums[name], back = timed(lambda m=method, r=rows: m.combine(r, weights))
            sent, back = slowest(sent), slowest(back)
            if turn >= 3:  # the first ones warm up
                times.setdefault(f"{name} dispatch", []).append(sent)
                times.setdefault(f"{name} combine", []).append(back)
            del rows
        assert torch.equal(sums["waybill"], sums["checked"])
        torch.testing.assert_close(sums["waybill"], sums["gloo"], rtol=2e-2, atol=2e-2)
    return times


def run_rank(rank: int, sizes: Sizes, rounds: int, folder: str, results: mp.SimpleQueue) -> None:
    torch.set_num_threads(1)
    cores = sorted(os.sched_getaffinity(0))
    if sizes.ranks <= len(cores):
        os.sched_setaffinity(0, {cores[rank]})
    store = dist.FileStore(os.path.join(folder, "store"), sizes.ranks)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", store=store, rank=rank, world_size=sizes.ranks)
    times = measure(sizes, rank, rounds)
    if rank == 0:
        results.put(times)
    dist.barrier()
    waybill.release(waybill.comm_name())
    dist.destroy_process_group()


def run(sizes: Sizes, rounds: int) -> dict[str, float]:
    """Median microseconds of each method, and the ratio of the sums."""
    context = mp.get_context("fork")
    results = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            context.Process(target=run_rank, args=(r, sizes, rounds, folder, results))
            for r in range(sizes.ranks)
        ]
        for process in ranks:
            process.start()
        times = results.get()
        for process in ranks:
            process.join(JOIN_SECONDS)
    median = {name: statistics.median(values) for name, values in times.items()}
    gloo = median["gloo dispatch"] + median["gloo combine"]
    own = median["waybill dispatch"] + median["waybill combine"]
    checked = median["checked dispatch"] + median["checked combine"]
    return {**median, "ratio": gloo / own, "checked": checked / own}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", default="2,8", help="comma-separated")
    parser.add_argument("--bs", default="8,128", help="tokens of a rank, comma-separated")
    parser.add_argument("--hidden", type=int, default=7168)
    parser.add_argument("--topk", type=int, default=8)
    parser.add_argument("--experts-per-rank", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", help="also write the numbers to this file")
    arguments = parser.parse_args()
    columns = ["waybill dispatch", "waybill combine", "gloo dispatch", "gloo combine"]
    ratios = ("gloo / waybill", "checked mode / waybill")
    table = Table("ranks", "BS", *columns, *ratios, title="Microseconds, median")
    records = []
    for ranks in map(int, arguments.ranks.split(",")):
        for bs in map(int, arguments.bs.split(",")):
            sizes = Sizes(ranks, bs, arguments.hidden, arguments.topk, arguments.experts_per_rank)
            result = run(sizes, arguments.rounds)
            records.append({**asdict(sizes), **result})
            cells = [f"{result[name]:.0f}" for name in columns]
            cells += [f"{result['ratio']:.1f}x", f"{result['checked']:.1f}x"]
            table.add_row(str(ranks), str(bs), *cells)
    Console().print(table)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(records, file, indent=1)


if __name__ == "__main__":
    main()
