"""Ranks as processes for tests: forked from a server that has imported torch, kept between tests.

    with RankPool(4) as pool:
        results = pool.run(function, per_rank=[(x0,), (x1,), (x2,), (x3,)])

Each rank calls `function(rank, *arguments)`; `rank` is a Rank: its number, and the name of the
pool's group. Functions and arguments are pickled, so functions live in modules. Every wait is
bounded: ranks that do not answer are killed, and what they were doing is in the error.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import itertools
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

import waybill
from waybill import groups

# What torch.ops and compiled programs raise for a bad argument: torch 2.15 calls operators past
# pybind11, which made a ValueError of std::invalid_argument.
TORCH = tuple(map(int, torch.__version__.split("+")[0].split(".")[:2]))
BAD_ARGUMENT = ValueError if TORCH < (2, 15) else RuntimeError

_numbers = itertools.count()
Function = Callable[..., Any]


class RankFailed(AssertionError):
    """A rank raised what the test did not ask for, or did not answer."""


@dataclass
class Rank:
    """What a function knows about the rank it runs on."""

    rank: int
    world_size: int
    name: str  # of the pool's group
    folder: Path  # shared by the ranks of the pool
    host: int = 0  # of a network, see host_ranks.py
    open_store: Callable[[str], dist.Store] | None = None  # where it is not a file
    phase_hook: Callable[[int], None] | None = None  # called with each phase where hooks are on
    memory: dict[str, Any] = field(default_factory=dict)  # kept between runs

    @property
    def layer(self) -> dict[str, Any]:
        """Arguments that every operator on the group takes."""
        return {
            "group_ep": self.name,
            "ep_world_size": self.world_size,
            "ep_rank_id": self.rank,
        }

    def store(self, name: str = "store") -> dist.Store:
        if self.open_store is not None:
            return self.open_store(name)
        return dist.FileStore(str(self.folder / name))  # without a size it outlives its users


@dataclass(frozen=True)
class PoolOptions:
    timeout: float | None = 20.0  # of the group
    threads: int = 1
    connected: bool = True
    process_group: bool = False  # also init_process_group("gloo")
    hooks: bool = False
    begin: Callable[[Rank], None] | None = None  # done first; the process has one thread


def _serve(
    rank: int, world_size: int, name: str, folder: str, options: PoolOptions, pipe: Connection
) -> None:
    """The life of a rank process."""
    torch.set_num_threads(1)
    own = Rank(rank, world_size, name, Path(folder))
    dump = open(own.folder / f"stack-{rank}", "w")  # noqa: SIM115 - as long as the process
    faulthandler.register(signal.SIGUSR1, file=dump, all_threads=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _answer(pipe, lambda: _open(own, options))
    while True:
        try:
            function, arguments = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        if function is None:
            break
        _answer(pipe, lambda: function(own, *arguments))  # noqa: B023 - called at once
    if dist.is_initialized():
        dist.destroy_process_group()
    sys.stdout.flush()


def _open(own: Rank, options: PoolOptions) -> None:
    if options.begin is not None:
        options.begin(own)
    if options.process_group:
        dist.init_process_group(
            "gloo", store=own.store("gloo"), rank=own.rank, world_size=own.world_size
        )

    def hook(phase: int) -> None:
        if own.phase_hook is not None:
            own.phase_hook(phase)

    if options.connected:
        groups.connect_with_hook(
            own.store(),
            own.rank,
            own.world_size,
            own.name,
            options.timeout,
            options.threads,
            on_phase=hook if options.hooks else None,
        )


def _answer(pipe: Connection, action: Callable[[], Any]) -> None:
    try:
        result = ("done", action())
    except BaseException as error:
        result = ("raised", (error, traceback.format_exc()))
    try:
        message = pickle.dumps(result)
    except Exception as error:
        text = f"{result[1]!r} cannot be pickled: {error}"
        message = pickle.dumps(("raised", (RuntimeError(text), text)))
    pipe.send_bytes(message)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # its parent, the fork server, will see to it


def process_context() -> Any:
    """Processes are forked from a server that has imported everything and started no thread."""
    context = multiprocessing.get_context("forkserver")
    modules = ["torch", "waybill", "pytest", "ranks", "host_ranks", "cases", "family"]
    context.set_forkserver_preload(modules)
    here = str(Path(__file__).parent)
    if here not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(
            filter(None, [here, os.environ.get("PYTHONPATH")])
        )
    return context


class RankPool:
    """`num_ranks` processes that share a group. Used by one thread."""

    def __init__(self, num_ranks: int, **options: Any) -> None:
        self.num_ranks = num_ranks
        self.options = PoolOptions(**options)
        self.name = f"pool-{os.getpid()}-{next(_numbers)}"
        self.folder = Path(tempfile.mkdtemp(prefix="waybill-ranks-"))
        self.broken = False
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        self._pending: set[int] = set()
        for rank in range(num_ranks):
            pipe, process = self._spawn(rank, self.options)
            self._pipes.append(pipe)
            self._processes.append(process)
        self._pending = set(range(num_ranks))
        self.wait()

    def _spawn(self, rank: int, options: PoolOptions) -> tuple[Connection, Any]:
        context = process_context()
        mine, theirs = context.Pipe()
        process = context.Process(
            target=_serve,
            args=(rank, self.num_ranks, self.name, str(self.folder), options, theirs),
            daemon=True,
        )
        process.start()
        theirs.close()
        return mine, process

    def restart(self, rank: int) -> None:
        """A new process for a rank that was killed; it has not connected."""
        self._pipes[rank].close()
        options = dataclasses.replace(self.options, connected=False, process_group=False)
        self._pipes[rank], self._processes[rank] = self._spawn(rank, options)
        self._pending = {rank}
        self.wait()

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def run(
        self,
        function: Function,
        *arguments: Any,
        per_rank: Sequence[tuple[Any, ...]] | None = None,
        ranks: Sequence[int] | None = None,
        timeout: float = 60.0,
    ) -> list[Any]:
        """Calls function(rank, *arguments, *per_rank[r]) on the ranks; their results in order.

        A rank that raises fails the test with its traceback.
        """
        self.start(function, *arguments, per_rank=per_rank, ranks=ranks)
        return self.wait(timeout=timeout)

    def outcomes(
        self,
        function: Function,
        *arguments: Any,
        per_rank: Sequence[tuple[Any, ...]] | None = None,
        ranks: Sequence[int] | None = None,
        timeout: float = 60.0,
    ) -> list[Any]:
        """The same, but exceptions stand where results would; None for ranks left out or killed."""
        self.start(function, *arguments, per_rank=per_rank, ranks=ranks)
        return self.wait(timeout=timeout, raising=False)

    def start(
        self,
        function: Function,
        *arguments: Any,
        per_rank: Sequence[tuple[Any, ...]] | None = None,
        ranks: Sequence[int] | None = None,
    ) -> None:
        """Begins a run; wait() ends it."""
        assert not self._pending, "a run is under way"
        self.start_more(function, *arguments, per_rank=per_rank, ranks=ranks)

    def start_more(
        self,
        function: Function,
        *arguments: Any,
        per_rank: Sequence[tuple[Any, ...]] | None = None,
        ranks: Sequence[int] | None = None,
    ) -> None:
        """Begins a run on ranks that are free, while others are at work."""
        for rank in range(self.num_ranks) if ranks is None else ranks:
            own = per_rank[rank] if per_rank is not None else ()
            self._pipes[rank].send_bytes(pickle.dumps((function, (*arguments, *own))))
            self._pending.add(rank)

    def wait(self, *, timeout: float = 60.0, raising: bool = True) -> list[Any]:
        results: list[Any] = [None] * self.num_ranks
        traces: dict[int, str] = {}
        deadline = time.monotonic() + timeout
        while self._pending:
            pipes = {self._pipes[rank]: rank for rank in self._pending}
            ready = wait(list(pipes), timeout=max(deadline - time.monotonic(), 0))
            if not ready:
                self._give_up(timeout)
            for pipe in ready:
                rank = pipes[pipe]
                self._pending.discard(rank)
                try:
                    kind, value = pickle.loads(pipe.recv_bytes())
                except (EOFError, ConnectionError):
                    self.broken = True
                    continue
                if kind == "raised":
                    value, traces[rank] = value
                results[rank] = value
        if raising and traces:
            text = "\n".join(f"rank {rank}: {trace}" for rank, trace in sorted(traces.items()))
            raise RankFailed(text)
        return results

    def _give_up(self, timeout: float) -> None:
        late = sorted(self._pending)
        for rank in late:
            self.signal(rank, signal.SIGUSR1)
        time.sleep(0.3)
        stacks = [f"rank {r}:\n{(self.folder / f'stack-{r}').read_text()}" for r in late]
        self._pending.clear()
        self.close(graceful=False)
        raise RankFailed(f"ranks {late} did not answer in {timeout} s\n" + "\n".join(stacks))

    def signal(self, rank: int, number: int) -> None:
        os.kill(self._processes[rank].pid, number)

    def kill(self, rank: int) -> None:
        """Ends a rank as a crash would."""
        self.broken = True
        self._processes[rank].kill()
        self._processes[rank].join(10)

    def close(self, *, graceful: bool = True) -> None:
        """Ends all ranks. Raises when one had to be killed though nothing was wrong."""
        self.broken = True
        for pipe in self._pipes:
            try:
                if graceful:
                    pipe.send_bytes(pickle.dumps((None, ())))
            except OSError:
                pass
        stuck = []
        for rank, process in enumerate(self._processes):
            process.join(15 if graceful else 0)
            if process.is_alive():
                stuck.append(rank)
                process.kill()
                process.join(10)
        for pipe in self._pipes:
            pipe.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._processes_ended(stuck if graceful else [])

    def _processes_ended(self, stuck: list[int]) -> None:
        if stuck:
            raise RankFailed(f"ranks {stuck} did not end by themselves")

    def __enter__(self) -> RankPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(graceful=kind is None)


class LocalPool:
    """The same with ranks as threads of this process: run() and outcomes() of functions."""

    def __init__(self, num_ranks: int, *, timeout: float = 20.0, threads: int = 1) -> None:
        self.num_ranks = num_ranks
        self.broken = False
        base = f"local-{next(_numbers)}"
        self.names = [f"{base}-{rank}" for rank in range(num_ranks)]
        self.folder = Path(tempfile.mkdtemp(prefix="waybill-ranks-"))
        groups.connect_local(self.names, timeout=timeout, threads=threads)
        self._ranks = [
            Rank(rank, num_ranks, name, self.folder) for rank, name in enumerate(self.names)
        ]

    def outcomes(
        self,
        function: Function,
        *arguments: Any,
        per_rank: Sequence[tuple[Any, ...]] | None = None,
        ranks: Sequence[int] | None = None,
        timeout: float = 60.0,
    ) -> list[Any]:
        from concurrent.futures import ThreadPoolExecutor

        chosen = list(range(self.num_ranks) if ranks is None else ranks)
        results: list[Any] = [None] * self.num_ranks
        with ThreadPoolExecutor(len(chosen)) as executor:
            futures = {}
            for rank in chosen:
                own = per_rank[rank] if per_rank is not None else ()
                futures[rank] = executor.submit(function, self._ranks[rank], *arguments, *own)
            for rank, future in futures.items():
                error = future.exception(timeout)
                results[rank] = future.result() if error is None else error
        return results

    def run(self, *arguments: Any, **options: Any) -> list[Any]:
        results = self.outcomes(*arguments, **options)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    def close(self) -> None:
        self.broken = True
        for name in self.names:
            waybill.release(name, timeout=1.0)
        shutil.rmtree(self.folder, ignore_errors=True)
