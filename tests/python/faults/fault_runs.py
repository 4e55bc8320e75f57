"""Runs fault cases: forks their ranks, sends what has to come from outside, collects what they say.

Ranks are forked from a process that has imported torch and started no thread.
"""

from __future__ import annotations

import atexit
import ctypes
import faulthandler
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from fault_board import Board, machine_level
from fault_cases import COMBINE, Fault, FaultCase, Return
from fault_judge import REPLACEMENT, Record, judge
from fault_layers import prepare
from fault_ranks import FAILED, LOOKED, SHRUNK, FaultRank, ProgramError
from waybill.tools.namespaces import Network

CASE_SECONDS = 60.0
POLL_SECONDS = 0.002
PR_SET_PDEATHSIG = 1
LEFT_SECONDS = 5.0
BUSY_SECONDS = 0.2  # a machine that does not let this process run for so long is too busy to judge
PAUSED_SECONDS = 2.0  # whatever did not happen meanwhile may have been expected
LATE = re.compile(r"after [\d.]+ s|did not come|did not end|not within|left behind")
RETURNS = {Return.AT_ONCE: LOOKED, Return.FAILED: FAILED, Return.SHRUNK: SHRUNK}
"""The step of all survivors at which the new process is started."""
REPEATS = 3  # of a case that failed meanwhile


@dataclass(frozen=True)
class Result:
    case: FaultCase
    problems: list[str]
    seconds: float
    busy: float  # the longest time for which this process did not run meanwhile
    repeats: bool = False  # it is run again

    @property
    def may_be_load(self) -> bool:
        """Whether a busy machine may be to blame: something took too long, and no row was wrong."""
        paused = self.busy > PAUSED_SECONDS
        late = paused or any(LATE.search(text) for text in self.problems)
        wrong = any("wrong row" in text for text in self.problems)
        return bool(self.problems) and self.busy > BUSY_SECONDS and late and not wrong


def fork_rank(life: Callable[[], None], output: Path) -> int:
    """A process that lives `life` and ends as a Python program does; its id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.close(file)
        faulthandler.register(signal.SIGUSR2, file=sys.__stderr__, all_threads=True)
        status = live_to_the_end(life)
    finally:
        os._exit(status)


def live_to_the_end(life: Callable[[], None]) -> int:
    try:
        life()
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
        status = 1
    atexit._run_exitfuncs()
    return status


class CaseRun:
    """One case under way. poll() until it is over."""

    def __init__(self, case: Any) -> None:
        self.case = case
        self.network = self.make_network(case)
        self.begin = time.monotonic()
        self.board = Board()
        self.folder = Path(tempfile.mkdtemp(prefix="waybill-faults-"))
        self.statuses: dict[int, int] = {}
        self.problems: list[str] = []
        self.stopped = False
        self.restarted = False
        self.polled = time.monotonic()
        self.busy = 0.0
        self.pids = {self.fork(rank): rank for rank in range(case.num_ranks)}

    @staticmethod
    def make_network(case: Any) -> Network | None:
        """The hosts of the ranks; None: all are on this one."""
        return shared_network(case.hosts) if case.hosts > 1 else None

    @staticmethod
    def prepare(case: Any) -> None:
        """The oracle's answers, before ranks are forked and while no case is under way."""
        for members in ((*range(case.num_ranks),), (*range(len(case.survivors)),)):
            prepare(case.operator, len(members), members, case.in_place)
        scaled = COMBINE if case.is_pair else case.operator
        prepare(scaled, case.num_ranks, case.survivors, case.in_place)

    def make_rank(self, rank: int, *, again: bool) -> FaultRank:
        return FaultRank(self.case, rank, self.board, self.folder, again=again)

    def fork(self, rank: int, *, again: bool = False) -> int:
        def life() -> None:
            if self.network is not None:
                self.network.enter(self.case.host_of(rank))
            own = self.make_rank(rank, again=again)
            try:
                own.live()
            except ProgramError:
                raise
            except Exception:
                own.record("crashed", text=traceback.format_exc())
                raise

        return fork_rank(life, self.folder / f"output-{rank}")

    def poll(self) -> bool:
        """Whether all processes have ended."""
        now = time.monotonic()
        self.busy = max(self.busy, now - self.polled)
        self.polled = now
        for pid in list(self.pids):
            found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
            if found == 0:
                continue
            if os.WIFSTOPPED(status):
                self.stopped = True
                continue
            rank = self.pids.pop(pid)
            place = REPLACEMENT if rank in self.statuses else rank
            self.statuses[place] = os.waitstatus_to_exitcode(status)
            if place == rank:
                self.board.ended_at[rank] = time.monotonic_ns()
        self.help_victim()
        if self.pids and time.monotonic() - self.begin > CASE_SECONDS:
            self.give_up()
        return not self.pids

    def help_victim(self) -> None:
        case = self.case
        if self.stopped:
            step = SHRUNK if case.fault is Fault.STOP else FAILED
            others_ended = set(self.pids.values()) == {case.victim}
            if self.board.all_at(case.survivors, step) or others_ended:
                self.stopped = False
                self.send(case.victim, signal.SIGCONT)
        restarts = case.fault is Fault.RESTART and case.victim in self.statuses
        if (
            restarts
            and not self.restarted
            and self.board.all_at(case.survivors, RETURNS[case.returns])
        ):
            self.restarted = True
            self.pids[self.fork(case.victim, again=True)] = case.victim

    def send(self, rank: int, number: int) -> None:
        for pid, own in self.pids.items():
            if own == rank:
                os.kill(pid, number)

    def give_up(self) -> None:
        """Nobody may hang: that is a failure, with the stacks of those that do."""
        late = sorted(self.pids.values())
        self.problems.append(f"ranks {late} did not end in {CASE_SECONDS} s")
        for number in (signal.SIGCONT, signal.SIGUSR2):
            for rank in late:
                self.send(rank, number)
        time.sleep(0.3)
        for rank in late:
            self.problems.append(f"rank {rank}: {(self.folder / f'output-{rank}').read_text()}")
            self.send(rank, signal.SIGKILL)

    def records(self, rank: int, suffix: str = "") -> list[Record]:
        path = self.folder / f"records-{rank}{suffix}"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def result(self) -> Result:
        case = self.case
        records = {rank: self.records(rank) for rank in range(case.num_ranks)}
        if self.restarted:
            records[REPLACEMENT] = self.records(case.victim, "-again")
        problems = self.problems + self.judged(records)
        shutil.rmtree(self.folder, ignore_errors=True)
        return Result(case, problems, time.monotonic() - self.begin, self.busy)

    def judged(self, records: dict[int, list[Record]]) -> list[str]:
        ended = self.board.ended_at[self.case.victim]
        return judge(self.case, records, ended / 1e9 if ended else None, self.statuses)


@cache
def shared_network(hosts: int) -> Network:
    """Of the cases of one process that leave its links alone; it ends with that process."""
    return Network(hosts)


def run_cases(
    cases: Sequence[Any], jobs: int = 1, kind_of: Callable[[Any], type[CaseRun]] = lambda _: CaseRun
) -> Iterator[Result]:
    """The cases' results as they end, `jobs` at a time; behind them the machine is as before.

    Cases depend on time: one that failed while the machine was too busy is run again.
    """
    repeats: Counter[Any] = Counter()
    assert len(os.listdir("/proc/self/task")) == 1, "ranks are forked: expected one thread"
    before = machine_level()
    for case in cases:
        kind_of(case).prepare(case)
    waiting = list(reversed(cases))
    running: list[CaseRun] = []
    while waiting or running:
        while waiting and len(running) < jobs:
            running.append(kind_of(waiting[-1])(waiting.pop()))
        for run in [run for run in running if run.poll()]:
            running.remove(run)
            result = run.result()
            if not running:  # nobody else's sockets are there
                result.problems.extend(left_behind(before))
            if result.may_be_load and repeats[result.case] < REPEATS:
                repeats[result.case] += 1
                waiting.append(result.case)
                result = replace(result, repeats=True)
            yield result
        time.sleep(POLL_SECONDS)


def left_behind(before: tuple[set[str], set[str]]) -> list[str]:
    """Names that were not there before and stay; those of other programs come and go."""
    new = [after - earlier for earlier, after in zip(before, machine_level(), strict=True)]
    deadline = time.monotonic() + LEFT_SECONDS
    while any(new) and time.monotonic() < deadline:
        time.sleep(0.1)
        new = [names & now for names, now in zip(new, machine_level(), strict=True)]
    return [f"left behind: {', '.join(sorted(names))}" for names in new if names]
