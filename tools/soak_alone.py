"""Eight processes whose programs go on after every exception, and ranks that fail alone.

    python tools/soak_alone.py --minutes 10

One rank at a time is short of memory or of address space, raises between dispatch and combine or
between a setup and its teardown, comes late, or is interrupted as it waits. Values carry the number
of their layer and are all checked. Ends with the counts, and with 1 when a value was wrong, a rank
made no progress, a rank went on with a group that needed a reset, or an error was one that nothing
can have caused.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # no thread may be there when ranks are forked
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "python" / room) for room in ("faults", "links", "support")]

import torch  # noqa: E402
from soak_alone_ranks import FAULTS, TIMEOUT, AloneBoard, AloneRank  # noqa: E402

from fault_board import machine_level  # noqa: E402
from fault_runs import fork_rank, left_behind  # noqa: E402

NUM_RANKS = 8
POLL_SECONDS = 0.02
PROGRESS_SECONDS = 60.0
HANG_SECONDS = 6 * TIMEOUT  # a reset may take twice the timeout and two seconds, more than once
LAYER_SECONDS = 2 * HANG_SECONDS  # in which all ranks complete a layer
END_SECONDS = 40.0
WEIGHTS = (4, 3, 3, 2, 0.2, 2, 2, 4)  # of FAULTS
SHOWN_PROBLEMS = 20


class AloneSoak:
    """The process that forks the ranks and says which of them fails next."""

    def __init__(self, minutes: float, pause: float, seed: int) -> None:
        self.seconds = minutes * 60
        self.pause = pause
        self.seed = seed
        self.draw = random.Random(seed)
        self.board = AloneBoard()
        self.folder = Path(tempfile.mkdtemp(prefix="waybill-alone-"))
        self.pids: dict[int, int] = {}
        self.problems: list[str] = []
        self.begin = time.monotonic()
        self.layers = [0] * NUM_RANKS  # completed by each rank when all had completed more
        self.layers_at = self.begin

    def run(self) -> None:
        for rank in range(NUM_RANKS):
            self.board.words[self.board.LAST + rank] = time.monotonic_ns()
            own = AloneRank(rank, NUM_RANKS, self.board, self.folder, self.seed)
            self.pids[rank] = fork_rank(own.live, self.output_of(rank))
        next_fault = self.begin + 2 * self.pause
        next_line = self.begin + PROGRESS_SECONDS
        while self.now() < self.seconds and not self.problems:
            self.look_after()
            if time.monotonic() >= next_fault:
                self.hit()
                next_fault = time.monotonic() + self.pause * (0.5 + self.draw.random())
            if time.monotonic() >= next_line:
                next_line += PROGRESS_SECONDS
                print(f"{self.now():.0f} s: {min(self.layers)} layers", flush=True)
            time.sleep(POLL_SECONDS)
        self.board.words[self.board.OVER] = 1
        deadline = time.monotonic() + END_SECONDS
        while self.pids and time.monotonic() < deadline and not self.problems:
            self.reap()
            time.sleep(POLL_SECONDS)
        if self.pids:
            self.problems.append(f"ranks {sorted(self.pids)} did not end")
            self.show_stacks()
        for pid in self.pids.values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def now(self) -> float:
        return time.monotonic() - self.begin

    def output_of(self, rank: int) -> Path:
        return self.folder / f"output-{rank}"

    def hit(self) -> None:
        words = self.board.words
        words[self.board.VICTIM] = self.draw.randrange(NUM_RANKS)
        words[self.board.KIND] = self.draw.choices(range(len(FAULTS)), WEIGHTS)[0]
        words[self.board.FAULT] += 1

    def reap(self) -> None:
        for rank, pid in list(self.pids.items()):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self.pids.pop(rank)
                code = os.waitstatus_to_exitcode(status)
                if code or not self.board.words[self.board.OVER]:
                    tail = self.output_of(rank).read_text()[-3000:]
                    self.problems.append(f"rank {rank} ended with {code}:\n{tail}")

    def look_after(self) -> None:
        self.reap()
        now = time.monotonic_ns()
        for rank in self.pids:
            waited = (now - self.board.words[self.board.LAST + rank]) / 1e9
            if waited > HANG_SECONDS:
                self.problems.append(f"rank {rank} made no progress for {waited:.0f} s")
        layers = list(self.board.words[self.board.LAYERS : self.board.LAYERS + NUM_RANKS])
        if all(new > old for new, old in zip(layers, self.layers, strict=True)):
            self.layers, self.layers_at = layers, time.monotonic()
        elif time.monotonic() - self.layers_at > LAYER_SECONDS:
            self.problems.append(f"no layer of all ranks for {LAYER_SECONDS:.0f} s")
        if sum(self.wrong()) > SHOWN_PROBLEMS:
            self.problems.append("too many problems to go on")

    def wrong(self) -> list[int]:
        return list(self.board.words[self.board.WRONG : self.board.WRONG + NUM_RANKS])

    def show_stacks(self) -> None:
        for rank, pid in self.pids.items():
            os.kill(pid, signal.SIGUSR2)
            time.sleep(0.1)
            print(f"rank {rank}:\n{self.output_of(rank).read_text()[-3000:]}")

    def report(self) -> int:
        counts: Counter[str] = Counter()
        for path in self.folder.glob("counts-*"):
            counts.update(json.loads(path.read_text()))
        shown = 0
        for rank in range(NUM_RANKS):
            lines = self.output_of(rank).read_text().splitlines()
            for line in (line for line in lines if " problem: " in line):
                shown += 1
                if shown <= SHOWN_PROBLEMS:
                    print(f"rank {rank}: {line}")
        for problem in self.problems:
            print("problem:", problem)
        for name, count in sorted(counts.items()):
            print(f"{count:9} {name}")
        wrong = sum(self.wrong())
        print(
            f"{counts['calls']} calls in {self.now():.0f} s, {counts['layers']} layers on "
            f"{NUM_RANKS} ranks, "
            f"{sum(count for name, count in counts.items() if name.startswith('faults'))} faults, "
            f"{sum(count for name, count in counts.items() if name.startswith('errors: '))} errors "
            f"caught, {counts['resets']} resets; {wrong} wrong values or errors, "
            f"{len(self.problems)} hangs, crashes or things left behind"
        )
        return 1 if wrong or self.problems else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--pause", type=float, default=0.5, help="seconds from fault to fault")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    before = machine_level()
    soak = AloneSoak(options.minutes, options.pause, options.seed)
    print(f"{NUM_RANKS} ranks, {options.minutes:g} minutes, seed {options.seed}", flush=True)
    soak.run()
    soak.problems += left_behind(before)
    status = soak.report()
    if status:
        print(f"what each rank heard: {soak.folder}/output-*")
    else:
        shutil.rmtree(soak.folder, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
