"""What one rank of tools/soak.py does: random calls, and coming back from whatever happens.

All members of the group make the same calls: the choice depends only on the group's epoch and the
number of the turn. The lowest member decides when all leave: it writes the turn on the board one
call ahead, so that everybody sees it before getting there.
"""

from __future__ import annotations

import random
import time
import traceback
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

import waybill
from cases import Case, outline, random_case
from fault_board import Board
from fault_layers import make_case
from forms import compare_form, expected_form, run_form

TIMEOUT = 4.0
RETURN_SECONDS = 40.0  # in which a rank has to be in again
SCALED_FORMS = ("v2", "v2+rms")
SCALED_CASES = 4
CASES = 40  # of each of the three families of operators

JOINING, SHRUNK, WHOLE = range(3)
"""Of a rank, on the board."""


class Answer(NamedTuple):
    case: Case
    want: list[list[Any]]


@cache
def answers(num_ranks: int) -> list[Answer]:
    """Random cases of the whole family that a group of this size can run."""
    found = []
    for features in ("full", "v1", "setup"):
        seeds = (
            seed
            for seed in range(100_000)
            if (plan := outline(seed, features=features)).sizes.e == num_ranks
            and plan.sizes.tp == 1
        )
        for seed, _ in zip(seeds, range(CASES), strict=False):
            case = random_case(seed, features=features)
            found.append(Answer(case, expected_form(case)))
    return found


@cache
def scaled(num_ranks: int, members: tuple[int, ...], number: int) -> Answer:
    """A case among the ranks that are left."""
    form = SCALED_FORMS[number % len(SCALED_FORMS)]
    hidden = (16, 56, 256, 1024)[number % SCALED_CASES]
    case = make_case(form, num_ranks, members, number, number % 3 == 0, hidden)
    return Answer(case, expected_form(case))


class SoakBoard(Board):
    """Names for the words that only the soak uses."""

    OVER, LEAVE_AT = range(2)
    WRONG, ASKS_BACK, HIT_AT, BLAMED = 16, 32, 48, 64  # a word for each rank

    @property
    def over(self) -> bool:
        return self.words[self.OVER] != 0

    def set_leave(self, epoch: int, turn: int) -> None:
        self.words[self.LEAVE_AT] = epoch << 28 | turn

    def leaves(self, epoch: int, turn: int) -> bool:
        word = self.words[self.LEAVE_AT]
        return word >> 28 == epoch and turn >= word & (1 << 28) - 1

    def of(self, first: int, rank: int) -> int:
        return self.words[first + rank]


class SoakRank:
    """One process; lives until the board says that it is over."""

    def __init__(
        self, rank: int, num_ranks: int, board: SoakBoard, folder: Path, seed: int
    ) -> None:
        self.rank = rank
        self.num_ranks = num_ranks
        self.board = board
        self.folder = folder
        self.seed = seed
        self.everyone = tuple(range(num_ranks))
        self.members = self.everyone
        self.name = folder.name

    def live(self) -> None:
        """Connects, or comes back under the rank of a process that was killed, and makes calls."""
        store = dist.FileStore(str(self.folder / "store"))  # without a size it outlives its users
        waybill.connect(
            store, self.rank, self.num_ranks, self.name, timeout=RETURN_SECONDS, threads=1
        )
        waybill.set_timeout(self.name, TIMEOUT)
        absent = waybill.stats(self.name)["absent"]
        self.members = tuple(rank for rank in self.everyone if rank not in absent)
        self.use()
        waybill.release(self.name)

    def use(self) -> None:
        """Calls until all leave for good."""
        failing_since = None
        while True:
            try:
                if failing_since is not None:
                    self.reset()
                    failing_since = None
                self.say_who_is_there()
                if self.make_turns():
                    return
                failing_since = time.monotonic()  # a rank asks to be in again
            except waybill.WaybillError as error:
                self.note(error)
                failing_since = failing_since or time.monotonic()
                self.board.step[self.rank] = SHRUNK
                if time.monotonic() - failing_since > RETURN_SECONDS:
                    raise

    def reset(self) -> None:
        self.board.words[self.board.ASKS_BACK + self.rank] = 1
        self.members = tuple(waybill.reset(self.name))
        self.board.words[self.board.ASKS_BACK + self.rank] = 0

    def say_who_is_there(self) -> None:
        self.board.step[self.rank] = WHOLE if self.members == self.everyone else SHRUNK

    def make_turns(self) -> bool:
        """Calls until all leave: for good (True), or to a reset that takes others in."""
        epoch = int(waybill.stats(self.name)["epoch"])
        leaving = False
        turn = 0
        while not self.board.leaves(epoch, turn):
            if self.rank == self.members[0] and not leaving and self.should_leave():
                leaving = True
                self.board.set_leave(epoch, turn + 2)
            draw = random.Random(f"{self.seed}-{epoch}-{turn}")
            turn += 1
            if self.make_turn(draw):
                # Everybody was in a reset, perhaps also a rank that counts from 0.
                epoch, turn, leaving = int(waybill.stats(self.name)["epoch"]), 0, False
        return self.board.over

    def should_leave(self) -> bool:
        if self.board.over:
            return True
        missing = set(self.everyone) - set(self.members)
        asking = {rank for rank in missing if self.board.of(self.board.ASKS_BACK, rank)}
        if missing:
            asking |= set(waybill.stats(self.name)["rejoining"])
        return bool(asking)

    def make_turn(self, draw: random.Random) -> bool:
        """A round of some operators, or a barrier; whether there was a reset in the end."""
        if draw.random() < 0.1:
            self.barrier()
        elif self.members == self.everyone:
            chosen = draw.choice(answers(self.num_ranks))
            self.run(chosen)
            if len(chosen.case.ranks) < self.num_ranks:  # some rank made no call
                self.members = tuple(waybill.reset(self.name))
                self.say_who_is_there()
                return True
        else:
            number = draw.randrange(SCALED_CASES)
            self.run(scaled(self.num_ranks, self.members, number))
        return False

    def barrier(self) -> None:
        whole = self.members == self.everyone
        scaled_info = None
        if not whole:
            case = scaled(self.num_ranks, self.members, 0).case
            scaled_info = case.dispatch_tensors[self.rank]["elastic_info"]
        waybill._npu_distribute_barrier(
            torch.zeros(1), self.name, self.num_ranks, elastic_info=scaled_info
        )
        self.board.calls[self.rank] += 1

    def run(self, answer: Answer) -> None:
        case, want = answer
        if self.rank not in case.ranks:
            return
        outputs = run_form(case, self.rank, {"group_ep": self.name, "ep_rank_id": self.rank})
        self.board.calls[self.rank] += len(outputs.calls)
        differences = compare_form(case, self.rank, outputs, want)
        if differences:
            self.board.words[self.board.WRONG + self.rank] += 1
            self.write(f"wrong: {case.describe()}: {differences[:5]}")

    def note(self, error: waybill.WaybillError) -> None:
        """An error has to name ranks that something happened to."""
        self.write(f"{type(error).__name__} {error.ranks}: {error}")
        kinds = (waybill.PeerLost, waybill.PeerTimeout, waybill.StateError)
        blameless = [rank for rank in error.ranks if not self.board.of(self.board.HIT_AT, rank)]
        if blameless and isinstance(error, waybill.PeerTimeout):
            self.board.words[self.board.BLAMED + self.rank] += 1  # too slow, if that can be
        elif blameless or not isinstance(error, kinds):
            self.board.words[self.board.WRONG + self.rank] += 1
            self.write(f"unexpected: {traceback.format_exc()}")

    def write(self, text: str) -> None:
        print(f"{time.monotonic():.3f} {text}", flush=True)
