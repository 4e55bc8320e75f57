"""Runs the methods of one case in turns, and makes records of their times."""

from __future__ import annotations

import datetime
import math
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy
import torch.distributed as dist

from ... import _library, groups
from ..namespaces import Network
from ..workload.routing import shown
from ..workload.settings import PHASES, Case
from .layer import Layer
from .methods import make_methods
from .overlap import Overlap, measure_overlap
from .ranks import TIMEOUT, Board, RankContext, run_ranks

WARM_UP = 5
LEAST_WARM_UP = 2
LEAST_ROUNDS = 5
CHECK_ROWS_EVERY = 5  # rounds; sums are checked in every one
STOP = -2
MARKS = 3  # begin and end of a phase, and the bytes that the rank's host sent meanwhile

Times = dict[str, "numpy.ndarray"]
"""Of each method (rounds, phases, ranks, 2): begin and end, nanoseconds; 0 without the phase."""


@dataclass(frozen=True)
class Effort:
    """How long a case is measured: no more rounds than `rounds`, no longer than `seconds`.

    But LEAST_WARM_UP and LEAST_ROUNDS in any case.
    """

    rounds: int
    warm_up: int = WARM_UP
    seconds: float = math.inf

    def next_round(self, turn: int, round_number: int, elapsed: float) -> int:
        """After `turn` turns, the last of them `round_number` (-1: to warm up); or STOP."""
        if round_number < 0:
            tired = turn >= LEAST_WARM_UP and elapsed > self.seconds / 3
            return 0 if turn >= self.warm_up or tired else -1
        done = round_number + 1
        tired = done >= LEAST_ROUNDS and elapsed > self.seconds
        return STOP if done >= self.rounds or tired else done


@dataclass(frozen=True)
class Measured:
    """Of one case."""

    records: list[dict[str, Any]]
    overlaps: list[Overlap]
    """How much of its transfer each phase hides; only between hosts."""


def measure(
    case: Case, names: tuple[str, ...], effort: Effort, network: Network | None = None
) -> Measured:
    """One case; on the hosts of a network, where the case has several."""
    times_of_rank = effort.rounds * len(names) * len(PHASES) * MARKS
    row_bytes = case.hidden * case.torch_dtype.itemsize
    board = Board(case.ranks, times_of_rank, case.ranks * case.bs * row_bytes)
    results = run_ranks(
        case.ranks,
        _run_rank,
        (case, names, effort),
        threads=case.threads,
        board=board,
        network=network,
    )
    done, rounds, _ = results[0]
    shape = (case.ranks, effort.rounds, len(names), len(PHASES), MARKS)
    by_rank = board.times.reshape(shape)[:, :rounds]
    marks = {name: by_rank[:, :, names.index(name)].transpose(1, 2, 0, 3) for name in done}
    times = {name: taken[..., :2] for name, taken in marks.items()}
    records = make_records(case, times)
    if network is not None:
        for record in records:
            _add_link(record, case, marks[record["method"]][..., 2])
    return Measured(records, Overlap.of_ranks([overlap for _, _, overlap in results]))


def _run_rank(
    own: RankContext, case: Case, names: tuple[str, ...], effort: Effort
) -> tuple[list[str], int, dict[str, Any]]:
    """Writes times to the board; the methods that ran, the rounds, and times of overlaps."""
    layer = Layer(case, own.rank, own.board.payload)
    if "gloo" in names:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", own.host.device if own.host else "lo")
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
    times = own.board.times[own.rank].reshape(effort.rounds, len(names), len(PHASES), MARKS)
    counter = _counter(own)
    order = list(methods)
    turn, round_number, rounds = 0, -1, 0
    begun = time.monotonic()
    while round_number != STOP:
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            method = methods[name]
            for number, phase in enumerate(PHASES):
                if phase not in method.phases:
                    continue
                call = method.dispatch if phase == "dispatch" else method.combine
                own.meet(patient=True)
                sent = counter()
                own.meet()
                begin = time.monotonic_ns()
                call()
                end = time.monotonic_ns()
                own.meet(patient=True)
                if round_number >= 0:
                    marks = begin, end, counter() - sent
                    times[round_number, names.index(name), number] = marks
            method.check(rows_too=turn == 0 or round_number % CHECK_ROWS_EVERY == 0)
            method.forget()
        turn += 1
        rounds = round_number + 1
        round_number = _agree(own, effort.next_round(turn, round_number, time.monotonic() - begun))
    overlap: dict[str, Any] = {}
    if own.host is not None and case.quant == 0:
        overlap = measure_overlap(own, layer, effort.rounds)
    del methods, method
    for name in _library.group_names():
        groups.release(name)
    if dist.is_initialized():
        dist.destroy_process_group()
    return order, rounds, overlap


def _counter(own: RankContext) -> Callable[[], int]:
    """What the rank's host has sent to others; 0 on one host."""
    if own.host is None:
        return lambda: 0
    path = Path("/sys/class/net", own.host.device, "statistics", "tx_bytes")
    return lambda: int(path.read_text())


def _add_link(record: dict[str, Any], case: Case, sent: numpy.ndarray) -> None:
    """Bytes that each host sent in the phase; `sent`: (rounds, phases, ranks)."""
    numbers = _numbers_of(record["phase"])
    of_hosts = sent[:, numbers, :: case.ranks_per_host].sum(1)
    record["link_sent_bytes"] = [int(median) for median in numpy.median(of_hosts, 0)]
    record["link_bytes"] = int(numpy.median(of_hosts.sum(1)))


def _agree(own: RankContext, round_number: int) -> int:
    """Rank 0's opinion."""
    if own.rank == 0:
        own.board.word[0] = round_number
    own.meet()
    return int(own.board.word[0])


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
                    "rounds": len(values),
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
