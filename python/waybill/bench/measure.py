"""Runs the methods of one case in turns, and makes records of their times."""

from __future__ import annotations

import datetime
import os
import time
from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy
import torch.distributed as dist

from .. import _library, groups
from .layer import Layer
from .methods import make_methods
from .ranks import TIMEOUT, Board, RankContext, run_ranks
from .routing import shown
from .settings import PHASES, Case

WARM_UP = 5

Times = dict[str, "numpy.ndarray"]
"""Of each method (rounds, phases, ranks, 2): begin and end, nanoseconds; 0 without the phase."""


def measure(
    case: Case, names: tuple[str, ...], rounds: int, warm_up: int = WARM_UP
) -> list[dict[str, Any]]:
    """The records of one case."""
    turns = warm_up + rounds
    times_of_rank = turns * len(names) * len(PHASES) * 2
    row_bytes = case.hidden * case.torch_dtype.itemsize
    board = Board(case.ranks, times_of_rank, case.ranks * case.bs * row_bytes)
    done = run_ranks(case.ranks, _run_rank, (case, names, turns), threads=case.threads, board=board)
    shape = (case.ranks, turns, len(names), len(PHASES), 2)
    by_rank = board.times.reshape(shape)[:, warm_up:]
    times = {
        name: by_rank[:, :, names.index(name)].transpose(1, 2, 0, 3)
        for name in done[0]  # those that ran
    }
    return make_records(case, times)


def _run_rank(own: RankContext, case: Case, names: tuple[str, ...], turns: int) -> list[str]:
    """Writes times to the board; the methods that ran."""
    layer = Layer(case, own.rank, own.board.payload)
    if "gloo" in names:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group(
            "gloo",
            store=dist.FileStore(f"{own.folder}/gloo", own.ranks),
            rank=own.rank,
            world_size=own.ranks,
            timeout=datetime.timedelta(seconds=TIMEOUT),
        )
    own.meet()  # every rank's rows are there
    methods = make_methods(own, layer, names)
    own.pin()  # after connecting: a group counts the cores that its process may run on
    times = own.board.times[own.rank].reshape(turns, len(names), len(PHASES), 2)
    order = list(methods)
    for turn in range(turns):
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            method = methods[name]
            for number, phase in enumerate(PHASES):
                if phase not in method.phases:
                    continue
                call = method.dispatch if phase == "dispatch" else method.combine
                own.meet()
                begin = time.monotonic_ns()
                call()
                end = time.monotonic_ns()
                times[turn, names.index(name), number] = begin, end
            method.check(rows_too=turn in (0, turns - 1))
            method.forget()
    own.meet()
    del methods, method
    for name in _library.group_names():
        groups.release(name)
    if dist.is_initialized():
        dist.destroy_process_group()
    return order


def make_records(case: Case, times: Times) -> list[dict[str, Any]]:
    """A record for each method and phase that it has."""
    keys = {**asdict(case), "routing": shown(case.routing)}
    records = []
    for phase in (*PHASES, "both"):
        us = {name: _durations(taken, phase) for name, taken in times.items()}
        have = {name: values for name, values in us.items() if values is not None}
        for name, values in have.items():
            quantised = phase != "combine" and (case.quant == 2 or name == "int8")
            num_bytes = _bytes(case, phase, quantised and name not in ("gloo", "copy"))
            median = float(numpy.median(values))
            records.append(
                {
                    **keys,
                    "method": name,
                    "phase": phase,
                    "us": {
                        "median": round(median, 2),
                        "p90": round(float(numpy.percentile(values, 90)), 2),
                        "p99": round(float(numpy.percentile(values, 99)), 2),
                        "min": round(float(values.min()), 2),
                    },
                    "slowest_rank": _slowest_rank(times[name], phase),
                    "gb_per_s": round(num_bytes / median / 1e3, 3),
                    "bytes": num_bytes,
                    "ratio": {
                        other: _spread(theirs / values)
                        for other, theirs in have.items()
                        if other != name
                    },
                }
            )
    return records


def _numbers_of(phase: str) -> list[int]:
    return [0, 1] if phase == "both" else [PHASES.index(phase)]


def _bytes(case: Case, phase: str, quantised: bool) -> int:
    if phase == "both":
        return case.bytes_of(quantised) + case.bytes_of(False)
    return case.bytes_of(quantised)


def _durations(taken: numpy.ndarray, phase: str) -> numpy.ndarray | None:
    """Microseconds of each round, last end minus first begin; None without the phase."""
    begins, ends = taken[..., 0].min(2), taken[..., 1].max(2)
    numbers = _numbers_of(phase)
    if (ends[:, numbers] == 0).any():
        return None
    return ((ends - begins)[:, numbers].sum(1) / 1e3).clip(min=1e-3)


def _slowest_rank(taken: numpy.ndarray, phase: str) -> int:
    """The rank that most often ended last."""
    late = taken[..., 1] - taken[..., 0].min(2, keepdims=True)
    last = late[:, _numbers_of(phase)].sum(1).argmax(1)
    return int(Counter(last.tolist()).most_common(1)[0][0])


def _spread(ratios: numpy.ndarray) -> dict[str, float]:
    """Of ratios of single rounds."""
    p10, median, p90 = (round(float(q), 3) for q in numpy.percentile(ratios, [10, 50, 90]))
    return {"median": median, "p10": p10, "p90": p90}
