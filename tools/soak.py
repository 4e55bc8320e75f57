"""Random calls on eight processes for minutes, and a fault every few seconds.

    python tools/soak.py --minutes 10

A process is killed, and a new one comes back under its rank, or a process is stopped and continued,
at a random moment. All results are compared with the oracle bit for bit. Ends with the counts, a
plot of memory, descriptors and calls over time, and with 1 when a row was wrong, an error named a
rank that nothing had happened to, ranks did not come back in time, or memory or descriptors grew.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # no thread may be there when ranks are forked
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "python" / room) for room in ("faults", "links", "support")]

import torch  # noqa: E402
from soak_plot import Sample, save_plot  # noqa: E402
from soak_ranks import (  # noqa: E402
    JOINING,
    SHRUNK,
    TIMEOUT,
    WHOLE,
    SoakBoard,
    SoakRank,
    answers,
    scaled,
)

from fault_board import machine_level  # noqa: E402
from fault_runs import fork_rank, left_behind  # noqa: E402

NUM_RANKS = 8
IMMORTAL = (1, 5)
"""Ranks that are stopped but never killed: what leaks shows in processes that live long."""
POLL_SECONDS = 0.005
PROGRESS_SECONDS = 60
RECOVERY_SECONDS = 40.0
SCALED_SECONDS = 0.5  # of calls among the survivors, before a replacement comes
KILLS = ("kill", "restart")
"""A new process comes when the others have gone on, or at once."""
FAULTS = (*KILLS, *KILLS, "stop", "short stop")
AGAIN, AGAIN_SECONDS = 0.25, 0.3  # how often, and how soon, a new process is killed as well
SHORT_STOP = 0.5
LONG_STOPS = (TIMEOUT + 1.0, 3 * TIMEOUT)  # before the others' reset, or well behind it
BUSY_SECONDS = 1.0  # when ranks may be late without a fault
MEMORY_SHARE, MEMORY_BYTES = 0.05, 16 << 20  # growth of a process that is allowed
DESCRIPTORS = 2


class Hung(Exception):
    """Ranks did not come to where they should be."""


class Bounds(NamedTuple):
    """An immortal rank early in the run and at its end: medians of PSS and descriptors."""

    rank: int
    memory: tuple[float, float]
    descriptors: tuple[float, float]

    @property
    def problems(self) -> list[str]:
        (early, late), (few, many) = self.memory, self.descriptors
        found = []
        if late > early * (1 + MEMORY_SHARE) + MEMORY_BYTES:
            found.append(
                f"rank {self.rank}: memory grew from {early / 2**20:.0f} to {late / 2**20:.0f} MiB"
            )
        if many > few + DESCRIPTORS:
            found.append(f"rank {self.rank}: descriptors grew from {few:.0f} to {many:.0f}")
        return found


class Soak:
    """The process that forks the ranks, does things to them, and measures."""

    def __init__(self, minutes: float, pause: float, seed: int) -> None:
        self.seconds = minutes * 60
        self.pause = pause
        self.seed = seed
        self.draw = random.Random(seed)
        self.board = SoakBoard()
        self.folder = Path(tempfile.mkdtemp(prefix="waybill-soak-"))
        self.pids: dict[int, int] = {}
        self.begin = time.monotonic()
        self.samples: list[Sample] = []
        self.faults: list[tuple[float, str]] = []
        self.problems: list[str] = []
        self.again = 0  # new processes that were killed as they came back
        self.looked = time.monotonic()
        self.busy = 0.0  # the longest time for which this process did not run

    def prepare(self) -> None:
        """What the oracle says, once: the ranks inherit it."""
        answers(NUM_RANKS)
        for rank in range(NUM_RANKS):
            others = tuple(other for other in range(NUM_RANKS) if other != rank)
            for number in range(4):
                scaled(NUM_RANKS, others, number)

    def fork(self, rank: int) -> None:
        own = SoakRank(rank, NUM_RANKS, self.board, self.folder, self.seed)
        self.board.step[rank] = JOINING
        self.pids[rank] = fork_rank(own.live, self.output_of(rank))

    def output_of(self, rank: int) -> Path:
        return self.folder / f"output-{rank}"

    def run(self) -> None:
        self.begin = self.looked = time.monotonic()
        for rank in range(NUM_RANKS):
            self.fork(rank)
        try:
            self.wait(self.all_whole, "all ranks call", RECOVERY_SECONDS)
            next_fault = time.monotonic() + self.pause
            while self.now() < self.seconds:
                self.look_after()
                if time.monotonic() >= next_fault:
                    next_fault += self.pause
                    self.hit()
                    next_fault = max(next_fault, time.monotonic())
            self.board.words[self.board.OVER] = 1
            self.wait(lambda: not self.pids, "all ranks end", RECOVERY_SECONDS)
        except Hung as hung:
            self.problems.append(str(hung))
            self.show_stacks()
        finally:
            for pid in self.pids.values():
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def now(self) -> float:
        return time.monotonic() - self.begin

    def all_whole(self) -> bool:
        return all(self.board.step[rank] == WHOLE for rank in range(NUM_RANKS))

    def others(self, rank: int, *steps: int) -> bool:
        return all(self.board.step[o] in steps for o in range(NUM_RANKS) if o != rank)

    def wait(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            self.look_after()
            if time.monotonic() > deadline:
                steps = list(self.board.step[:NUM_RANKS])
                raise Hung(f"at {self.now():.0f} s: not within {seconds} s: {what}; steps {steps}")

    def sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.look_after()

    def look_after(self) -> None:
        """One turn of the loop: processes that ended, a sample a second."""
        before, self.looked = self.looked, time.monotonic()
        self.busy = max(self.busy, self.looked - before)
        for rank, pid in list(self.pids.items()):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self.pids.pop(rank)
                code = os.waitstatus_to_exitcode(status)
                if code:
                    tail = self.output_of(rank).read_text()[-3000:]
                    raise Hung(f"rank {rank} ended with {code}:\n{tail}")
        if len(self.samples) <= self.now():
            calls = sum(self.board.calls[:NUM_RANKS])
            self.samples.append(Sample.take(self.now(), self.pids, calls))
            if len(self.samples) % PROGRESS_SECONDS == 0:
                print(f"{self.now():.0f} s: {calls} calls, {len(self.faults)} faults", flush=True)
        time.sleep(POLL_SECONDS)

    # Faults

    def hit(self) -> None:
        kind = self.draw.choice(FAULTS)
        mortal = [rank for rank in range(NUM_RANKS) if rank not in IMMORTAL]
        rank = self.draw.choice(mortal if kind in KILLS else range(NUM_RANKS))
        self.sleep(self.draw.random() * 0.05)  # anywhere in a call
        self.board.words[self.board.HIT_AT + rank] = 1
        self.faults.append((self.now(), kind))
        if kind in KILLS:
            self.replace(rank, kind)
        else:
            self.stop(rank, SHORT_STOP if kind == "short stop" else self.draw.choice(LONG_STOPS))
        self.wait(self.all_whole, f"all are back after a {kind} of rank {rank}", RECOVERY_SECONDS)
        self.board.words[self.board.HIT_AT + rank] = 0

    def replace(self, rank: int, kind: str) -> None:
        self.kill(rank)
        if kind == "kill":
            self.wait(lambda: self.others(rank, SHRUNK), "the others notice", RECOVERY_SECONDS)
            self.sleep(SCALED_SECONDS)
        self.fork(rank)
        while self.draw.random() < AGAIN:
            self.sleep(self.draw.random() * AGAIN_SECONDS)
            self.kill(rank)
            self.fork(rank)
            self.again += 1

    def kill(self, rank: int) -> None:
        pid = self.pids.pop(rank)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self.board.step[rank] = JOINING
        self.board.words[self.board.ASKS_BACK + rank] = 0

    def stop(self, rank: int, seconds: float) -> None:
        os.kill(self.pids[rank], signal.SIGSTOP)
        try:
            self.sleep(seconds)
        finally:
            os.kill(self.pids[rank], signal.SIGCONT)
        if seconds > TIMEOUT:
            self.sleep(0.1)  # it finds out

    # The end

    def show_stacks(self) -> None:
        for rank, pid in self.pids.items():
            os.kill(pid, signal.SIGUSR2)
            time.sleep(0.1)
            print(f"rank {rank}:\n{self.output_of(rank).read_text()[-3000:]}")

    def bounds(self) -> list[Bounds]:
        last = self.samples[-1].at if self.samples else 0.0
        early = [s for s in self.samples if 0.15 * last <= s.at < 0.35 * last]
        late = [s for s in self.samples if 0.8 * last <= s.at]
        found = []
        for rank in IMMORTAL:
            memory, descriptors = (
                tuple(
                    median(getattr(s, field)[rank] for s in part if rank in getattr(s, field))
                    for part in (early, late)
                )
                for field in ("memory", "descriptors")
            )
            found.append(Bounds(rank, memory, descriptors))
        return found

    def total(self, first: int) -> int:
        return sum(self.board.words[first + rank] for rank in range(NUM_RANKS))

    def check_outputs(self) -> None:
        wrong, blamed = self.total(self.board.WRONG), self.total(self.board.BLAMED)
        for rank in range(NUM_RANKS) if wrong else []:
            lines = self.output_of(rank).read_text().splitlines()
            for place, line in enumerate(lines):
                if "wrong:" in line or "unexpected:" in line:
                    self.problems.append(f"rank {rank}: " + "\n".join(lines[place : place + 20]))
        if blamed:
            text = f"{blamed} timeouts named a rank that nothing had happened to"
            if self.busy < BUSY_SECONDS:
                self.problems.append(text)
            else:
                print(f"{text}: the machine was busy for {self.busy:.1f} s")

    def report(self, out: Path) -> int:
        self.check_outputs()
        if len(self.samples) >= 10 and not self.problems:
            for bounds in self.bounds():
                (early, late), (few, many) = bounds.memory, bounds.descriptors
                print(
                    f"rank {bounds.rank}: {early / 2**20:.0f} MiB early, {late / 2**20:.0f} MiB at "
                    f"the end; {few:.0f} and {many:.0f} descriptors"
                )
                self.problems += bounds.problems
        seconds = self.now()
        save_plot(self.samples, self.faults, out / "soak.png")
        for problem in self.problems:
            print("problem:", problem)
        kinds = Counter(kind for _, kind in self.faults)
        calls = sum(self.board.calls[:NUM_RANKS])
        wrong = self.total(self.board.WRONG)
        print(
            f"{calls} calls in {seconds:.0f} s, {len(self.faults)} faults survived "
            f"({', '.join(f'{count} {kind}' for kind, count in kinds.items())}; {self.again} new "
            f"processes killed as they came back), "
            f"{wrong} wrong rows or errors; plot: {out / 'soak.png'}"
        )
        return 1 if self.problems or wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--pause", type=float, default=5.0, help="seconds from fault to fault")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("build/soak"), help="folder of the plot")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    before = machine_level()
    soak = Soak(options.minutes, options.pause, options.seed)
    soak.prepare()
    print(f"{NUM_RANKS} ranks, {options.minutes:g} minutes", flush=True)
    soak.run()
    soak.problems += left_behind(before)
    status = soak.report(options.out)
    shutil.rmtree(soak.folder, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
