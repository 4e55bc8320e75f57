"""What PyTorch adds to a call of the library.

The library counts the time inside its calls (`in_call_total_ns` of waybill.stats); the rest of the
time that an operator takes is Python's, the dispatcher's and the binding's. It is measured in
batches of calls and per way to call the same operator, so that it can be seen where it goes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ... import groups, operators, ops
from .ranks import RankContext, run_ranks

CALLS = 20  # of a batch
BATCHES = 100
WARM_UP = 10

HIDDEN, TOP_K, EXPERTS_PER_RANK = 7168, 8, 8


@dataclass(frozen=True)
class Entry:
    """One way to call one operator, on a group of `ranks`; microseconds of a call."""

    operator: str
    entry: str
    ranks: int
    bs: int
    us: float
    in_call_us: float
    overhead_us: float
    least_overhead_us: float  # of the batch that was disturbed least


def measure(ranks: int, bs: int = 8, batches: int = BATCHES) -> list[Entry]:
    """Of rank 0; the median of the batches."""
    results = run_ranks(ranks, _run_rank, (bs, batches), threads=1)
    return [Entry(*values) for values in results[0]]


def _run_rank(own: RankContext, bs: int, batches: int) -> list[tuple[Any, ...]]:
    name = own.connect("overhead")
    own.pin()
    calls = _calls(own, name, bs)
    whole: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    outside: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    for batch in range(WARM_UP + batches):
        for key, call in calls.items():
            us, overhead = _time(name, call)
            if batch >= WARM_UP:
                whole[key].append(us)
                outside[key].append(overhead)
    found = []
    for (operator, entry), values in whole.items():
        added = outside[operator, entry]
        us, overhead = statistics.median(values), statistics.median(added)
        numbers = (us, us - overhead, overhead, min(added))
        found.append((operator, entry, own.ranks, bs, *(round(value, 2) for value in numbers)))
    groups.release(name)
    return found


def _time(name: str, call: Callable[[], Any]) -> tuple[float, float]:
    """Microseconds of a call in a batch, and those outside the library."""
    inside = -groups.stats(name)["in_call_total_ns"]
    begin = time.perf_counter_ns()
    for _ in range(CALLS):
        call()
    end = time.perf_counter_ns()
    inside += groups.stats(name)["in_call_total_ns"]
    return (end - begin) / CALLS / 1e3, (end - begin - inside) / CALLS / 1e3


def _calls(own: RankContext, name: str, bs: int) -> dict[tuple[str, str], Callable[[], Any]]:
    """Every operator by every way to call it."""
    experts = own.ranks * EXPERTS_PER_RANK
    generator = torch.Generator().manual_seed(own.rank)
    x = torch.randn((bs, HIDDEN), generator=generator).bfloat16()
    weights, ids = torch.rand((bs, experts), generator=generator).topk(TOP_K)
    ids = ids.int()
    common = (name, own.ranks, own.rank, experts)
    out = ops.npu_moe_distribute_dispatch_v2(x, ids, *common)
    rows, assist, counts = out[0], out[2], out[4]
    token = groups.tokens[name]
    sums = (rows, ids, assist, counts, weights, *common)
    x_ref = torch.zeros(1)
    barrier = (x_ref, name, own.ranks)
    given: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (ops.npu_moe_distribute_dispatch_v2, (x, ids, *common)),
        (ops.npu_moe_distribute_combine_v2, sums),
        (ops._npu_distribute_barrier, barrier),
    ]
    calls: dict[tuple[str, str], Callable[[], Any]] = {}
    for function, arguments in given:
        operator = operators.named(function.__name__)
        packet = getattr(torch.ops.waybill, operator.name)
        options = [argument.default_value for argument in operator.arguments[len(arguments) :]]
        ordered = (token, *arguments, *options)
        short = operator.name.replace("npu_moe_distribute_", "")
        calls[short, "waybill.*"] = partial(function, *arguments)
        calls[short, "torch.ops.waybill.*"] = partial(packet, *arguments)
        calls[short, "*.default"] = partial(packet.default, *arguments)
        calls[short, "*.default, with a token"] = partial(operator.ordered, *ordered)
    calls["expert_buffer", "*.default"] = partial(
        torch.ops.waybill._expert_buffer.default, name, 1, 8, torch.bfloat16
    )
    return calls
