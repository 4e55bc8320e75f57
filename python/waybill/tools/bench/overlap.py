"""How much of a transfer between hosts setup and teardown hide behind a computation."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from ... import ops
from ..workload.settings import PHASES
from .layer import Layer, check_sums
from .ranks import RankContext

WARM_UP = 5
LEAST_ROUNDS = 5
SIDE = 128  # of the matrices that are multiplied
CALIBRATION = 50  # products

Times = dict[str, list[tuple[int, int]]]
"""By what was timed: begin and end of each round on a rank."""


@dataclass(frozen=True)
class Overlap:
    """Of dispatch, combine or both; medians over the rounds, microseconds of all ranks."""

    phase: str
    pair_us: float
    """Setup and teardown, one behind the other."""
    compute_us: float
    """The computation alone."""
    both_us: float
    """Setup, computation, teardown."""
    hidden: float
    """The part of the pair's time that the computation hides: median of single rounds."""

    @staticmethod
    def of_ranks(times: Sequence[Times]) -> list[Overlap]:
        """From what measure_overlap returned on each rank; nothing from nothing."""
        if not times or not times[0]:
            return []
        us = {what: _us([of_rank[what] for of_rank in times]) for what in times[0]}
        found = []
        for name, phases in (*((phase, (phase,)) for phase in PHASES), ("both", PHASES)):
            pair, compute, both = (
                sum(us[phase + what] for phase in phases) for what in ("", " compute", " both")
            )
            hidden = float(numpy.median(1.0 - (both - compute) / pair))
            pair, compute, both = (
                round(float(numpy.median(taken)), 2) for taken in (pair, compute, both)
            )
            found.append(Overlap(name, pair, compute, both, round(hidden, 3)))
        return found


def measure_overlap(own: RankContext, layer: Layer, rounds: int) -> Times:
    """Collective, on a group of its own. The computation takes as long as the pair does."""
    pair = _Pair(own.connect("overlap"), layer)
    times: Times = {}
    warm: dict[str, list[float]] = {phase: [] for phase in PHASES}
    for _ in range(WARM_UP):
        for phase in PHASES:
            warm[phase].append(_slowest_us(own, pair.call(phase, lambda: None)))
            pair.check()
    us = {phase: statistics.median(of_phase) for phase, of_phase in warm.items()}
    factor = torch.rand((SIDE, SIDE))
    share = min(len(os.sched_getaffinity(0)) / own.ranks, 1.0) if not own.is_pinned else 1.0
    products = {phase: _products(us[phase] * share, factor) for phase in PHASES}
    for _ in range(max(rounds, LEAST_ROUNDS)):
        for phase in PHASES:
            compute = _computation(factor, products[phase])
            for what, call in (
                (phase, pair.call(phase, lambda: None)),
                (f"{phase} compute", compute),
                (f"{phase} both", pair.call(phase, compute)),
            ):
                times.setdefault(what, []).append(_timed(own, call))
                pair.check()
    return times


class _Pair:
    """Setup and teardown of both phases, with something between."""

    def __init__(self, group: str, layer: Layer) -> None:
        case = layer.case
        self.layer = layer
        self.common = (group, case.ranks, layer.rank, case.experts)
        self.expected = layer.expected_sums()
        self.sums: torch.Tensor | None = None

    def call(self, phase: str, between: Callable[[], None]) -> Callable[[], None]:
        chosen = self._dispatch if phase == "dispatch" else self._combine
        return lambda: chosen(between)

    def _dispatch(self, between: Callable[[], None]) -> None:
        layer = self.layer
        y, self.places, commands = ops.npu_moe_distribute_dispatch_setup(
            layer.x, layer.ids, *self.common
        )
        between()
        self.rows, _, self.assist, _ = ops.npu_moe_distribute_dispatch_teardown(
            layer.x, y, layer.ids, commands, *self.common
        )

    def _combine(self, between: Callable[[], None]) -> None:
        layer = self.layer
        quantised, commands = ops.npu_moe_distribute_combine_setup(
            self.rows, layer.ids, self.assist, *self.common
        )
        between()
        self.sums = ops.npu_moe_distribute_combine_teardown(
            self.rows,
            quantised,
            layer.ids,
            self.places,
            layer.weights,
            commands,
            *self.common,
        )

    def check(self) -> None:
        if self.sums is not None:
            check_sums("overlap", self.layer.rank, self.sums, self.expected, exact=True)
            self.sums = None


def _timed(own: RankContext, call: Callable[[], None]) -> tuple[int, int]:
    own.meet(patient=True)
    own.meet()
    begin = time.monotonic_ns()
    call()
    end = time.monotonic_ns()
    own.meet(patient=True)
    return begin, end


def _slowest_us(own: RankContext, call: Callable[[], None]) -> float:
    """The longest time of all ranks."""
    begin, end = _timed(own, call)
    own.board.notes[own.rank] = end - begin
    own.meet(patient=True)
    slowest = float(own.board.notes.max()) / 1e3
    own.meet(patient=True)
    return slowest


def _computation(factor: torch.Tensor, products: int) -> Callable[[], None]:
    def compute() -> None:
        for _ in range(products):
            torch.mm(factor, factor)

    return compute


def _products(us: float, factor: torch.Tensor) -> int:
    """How many products take so long."""
    begin = time.thread_time_ns()
    _computation(factor, CALIBRATION)()
    each = (time.thread_time_ns() - begin) / 1e3 / CALIBRATION
    return max(int(us / each), 1)


def _us(of_ranks: Sequence[list[tuple[int, int]]]) -> Any:
    """Of each round the last end minus the first begin."""
    marks = numpy.array(of_ranks)  # (ranks, rounds, 2)
    return (marks[..., 1].max(0) - marks[..., 0].min(0)) / 1e3
