"""Ranks as processes of this machine, and the board on which they meet between timed parts."""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy
import torch
import torch.distributed as dist

from ... import groups
from ..namespaces import Host, Network

STRIDE = 16  # int64s between two ranks' counters: each has cache lines of its own
SPINS = 2000
PATIENT_SPINS = 50
NAP = 50e-6  # seconds
TIMEOUT = 120.0  # seconds, of a meeting or of a call
JOIN_SECONDS = 30.0
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class RankFailed(RuntimeError):
    """A rank raised or ended; the text has its traceback."""


class Board:
    """Memory that the ranks of a run share: forked processes inherit it."""

    def __init__(self, ranks: int, times: int = 0, payload_bytes: int = 0) -> None:
        self.ranks = ranks
        self._counters = _shared(ranks * STRIDE * 8).view(numpy.int64)
        self.times = _shared(ranks * times * 8).view(numpy.int64).reshape(ranks, times)
        """Nanoseconds of CLOCK_MONOTONIC; a rank writes its own row."""
        self.payload = _shared(payload_bytes)
        self.word = _shared(8).view(numpy.int64)
        """What rank 0 tells the others between two meetings."""
        self.notes = _shared(ranks * 8).view(numpy.int64)
        """What each rank tells the others between two meetings."""
        self._met = 0

    def meet(self, rank: int, *, patient: bool = False) -> None:
        """Returns when every rank has called it as often.

        patient: leaves its core to ranks that are still at work.
        """
        self._met += 1
        self._counters[rank * STRIDE] = self._met
        arrived = self._counters[::STRIDE]
        spins = 0
        while int(arrived.min()) < self._met:
            spins += 1
            if patient and spins > PATIENT_SPINS:
                time.sleep(NAP)
            else:
                os.sched_yield()
            if spins % SPINS == 0 and int(arrived.max()) > 1 << 62:
                raise RankFailed("another rank failed")

    def fail(self, rank: int) -> None:
        """Ends the waits of the others."""
        self._counters[rank * STRIDE] = (1 << 62) + 1


def _shared(num_bytes: int) -> Any:
    """Bytes of anonymous shared memory as an array; at least 8 of them."""
    return numpy.frombuffer(mmap.mmap(-1, max(num_bytes, 8)), dtype=numpy.uint8)[:num_bytes]


@dataclass
class RankContext:
    """What a function knows about the rank that runs it."""

    rank: int
    ranks: int
    threads: int
    folder: str
    board: Board
    parent: int
    host: Host | None = None  # which the process has entered

    def connect(self, name: str, **options: Any) -> str:
        """A group of all ranks."""
        store = dist.FileStore(f"{self.folder}/{name}", self.ranks)
        return groups.connect(
            store,
            self.rank,
            self.ranks,
            name,
            timeout=TIMEOUT,
            threads=self.threads,
            **options,
        )

    def meet(self, *, patient: bool = False) -> None:
        self.board.meet(self.rank, patient=patient)

    @property
    def is_pinned(self) -> bool:
        """Whether pin() has found enough cores."""
        return self.ranks == 1 or len(os.sched_getaffinity(0)) == self.threads

    def pin(self) -> None:
        """To cores of its own, where there are enough. Threads that run already stay free."""
        if is_pinned(self.ranks, self.threads):
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, cores[self.rank * self.threads :][: self.threads])


def is_pinned(ranks: int, threads: int) -> bool:
    """Whether every thread of every rank gets a core of its own."""
    return ranks * threads <= len(os.sched_getaffinity(0))


def run_ranks(
    ranks: int,
    function: Callable[..., Any],
    arguments: Sequence[Any] = (),
    *,
    threads: int = 1,
    board: Board | None = None,
    timeout: float = 600.0,
    network: Network | None = None,
) -> list[Any]:
    """function(RankContext, *arguments) on every rank, a process each; the results.

    network: on its hosts, as many ranks on each.
    """
    context = multiprocessing.get_context("fork")
    board = board or Board(ranks)
    pipes: list[Connection] = []
    processes = []
    with tempfile.TemporaryDirectory(prefix="waybill-bench-") as folder:
        try:
            for rank in range(ranks):
                mine, theirs = context.Pipe(duplex=False)
                host = network.hosts[rank * network.num_hosts // ranks] if network else None
                own = RankContext(rank, ranks, threads, folder, board, os.getpid(), host)
                process = context.Process(
                    target=_serve, args=(own, theirs, function, tuple(arguments)), daemon=True
                )
                process.start()
                theirs.close()
                pipes.append(mine)
                processes.append(process)
            return _answers(pipes, timeout)
        finally:
            for process in processes:
                process.join(JOIN_SECONDS if all(p.is_alive() for p in processes) else 5.0)
                if process.is_alive():
                    process.kill()
                    process.join()
            for pipe in pipes:
                pipe.close()


def _answers(pipes: Sequence[Connection], timeout: float) -> list[Any]:
    """One of each rank; raises when one failed, ended or took too long."""
    deadline = time.monotonic() + timeout
    answers: dict[int, Any] = {}
    while len(answers) < len(pipes):
        missing = [rank for rank in range(len(pipes)) if rank not in answers]
        ready = wait([pipes[rank] for rank in missing], max(deadline - time.monotonic(), 0.0))
        if not ready:
            raise RankFailed(f"ranks {missing} did not end in {timeout:.0f} s")
        for rank in missing:
            if pipes[rank] not in ready:
                continue
            try:
                failure, result = pipes[rank].recv()
            except EOFError:
                raise RankFailed(f"rank {rank} ended without a result") from None
            if failure is not None:
                raise RankFailed(f"rank {rank}: {failure}")
            answers[rank] = result
    return [answers[rank] for rank in range(len(pipes))]


def _serve(
    own: RankContext, pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """The life of a rank."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # However the command ends, its ranks do.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != own.parent:
        return
    try:
        if own.host is not None:
            own.host.enter()  # while there is one thread
        torch.set_num_threads(own.threads)
        pipe.send((None, function(own, *arguments)))
    except BaseException:
        own.board.fail(own.rank)
        pipe.send((traceback.format_exc(), None))
