"""Times of the exchange on recorded inputs, Waybill and gloo in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from distributed import Recorded, WaybillExchange
from model import TinyMoE
from prompts import MAX_PROMPT
from torch import Tensor

import waybill
from waybill.tools.bench.gloo import GlooExchange
from waybill.tools.workload.settings import Sizes

ROUNDS = 12
WARM_UP = 3


def time_exchanges(
    model: TinyMoE, exchange: WaybillExchange, rank: int, ranks: int
) -> dict[tuple[int, str], float]:
    """Median microseconds for each layer's first recorded call, (layer, method) -> time.

    Collective. Both methods exchange the same rows and leave the experts out; a time is the
    slowest rank's.
    """
    config = model.config
    times: dict[tuple[int, str], float] = {}
    for call in first_calls(exchange.recorded, config.layers):
        per_rank = exchange.placement.per_rank
        sizes = Sizes(ranks, len(call.x), config.hidden, config.top_k, per_rank)
        gloo = GlooExchange(sizes)
        common = (exchange.group, ranks, rank, per_rank * ranks)
        methods: dict[str, Callable[[], Tensor]] = {
            "waybill": lambda c=call, a=common: waybill_call(c, a, ranks * MAX_PROMPT),
            "gloo": lambda c=call, g=gloo: (
                g.combine(g.dispatch(c.x, c.expert_ids), c.expert_scales) + c.shared
            ),
        }
        samples: dict[str, list[float]] = {name: [] for name in methods}
        for turn in range(WARM_UP + ROUNDS):
            for name, method in methods.items():
                dist.barrier()
                begin = time.perf_counter()
                method()
                us = (time.perf_counter() - begin) * 1e6
                if turn >= WARM_UP:
                    samples[name].append(us)
        for name, values in samples.items():
            slowest = torch.tensor(statistics.median(values), dtype=torch.float64)
            dist.all_reduce(slowest, dist.ReduceOp.MAX)
            times[call.layer, name] = float(slowest)
    return times


def first_calls(recorded: list[Recorded], layers: int) -> list[Recorded]:
    """The prompt's call of each layer: the one with the most tokens."""
    return recorded[:layers]


def waybill_call(call: Recorded, common: tuple[str, int, int, int], global_bs: int) -> Tensor:
    rows, _, assist, _, counts, _, _ = waybill.npu_moe_distribute_dispatch_v2(
        call.x, call.expert_ids, *common, global_bs=global_bs
    )
    return waybill.npu_moe_distribute_combine_v2(
        rows,
        call.expert_ids,
        assist,
        counts,
        call.expert_scales,
        *common,
        global_bs=global_bs,
        shared_expert_x=call.shared,
    )
