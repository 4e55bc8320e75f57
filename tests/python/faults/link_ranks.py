"""The life of one rank of a case of link_cases.py.

The rank that is hit asks the process that runs the case for the fault and goes on when it holds.
"""

from __future__ import annotations

import os
import time

import waybill
from fault_cases import ROUNDS_AFTER, Point
from fault_ranks import (
    CONNECTED,
    FAILED,
    PATIENT_TIMEOUT,
    SHORT_TIMEOUT,
    CallFailed,
    FaultRank,
)
from link_cases import LinkCase, LinkFault

KEEPALIVE_SECONDS = 2
HEAL_SECONDS = 25.0
ASKED, HOLDS, HEALED = 1, 2, 3
"""What the first word of the board says of the fault; the second one is the time it held, ns."""


def timeout_of_links(case: LinkCase) -> float:
    return PATIENT_TIMEOUT if case.fault.is_lost or not case.fault.ends_calls else SHORT_TIMEOUT


class LinkRank(FaultRank):
    case: LinkCase

    @property
    def timeout(self) -> float:
        return timeout_of_links(self.case)

    def act(self) -> None:
        self.record("hit", phase=self.phases[self.board.phase[self.rank]])
        self.board.words[0] = ASKED
        self.wait(lambda: self.board.words[0] >= HOLDS, "the fault holds")

    def live(self) -> None:
        if self.case.fault is LinkFault.KEEPALIVE:
            os.environ["WAYBILL_KEEPALIVE"] = str(KEEPALIVE_SECONDS)
        super().live()

    def work(self) -> None:
        case = self.case
        name = self.connect("first", self.rank, case.num_ranks)
        self.round(name, case.operator, case.num_ranks, self.everyone)
        self.reach(CONNECTED)
        self.wait(lambda: self.board.all_at(self.everyone, CONNECTED), "all are connected")
        self.stage = "hit"
        if case.point is Point.BETWEEN_CALLS:
            self.stage = "after"
            if self.is_victim:
                self.act()
            self.wait(lambda: self.board.words[0] >= HOLDS, "the fault holds")
        if case.fault.ends_calls:
            self.fail(name)
            self.wait(lambda: self.board.all_at(case.survivors, FAILED), "all have failed")
            self.go_on(name)
        else:
            for _ in range(1 + ROUNDS_AFTER):
                self.round(name, case.operator, case.num_ranks, self.everyone)
        waybill.release(name)

    def go_on(self, name: str) -> None:
        case = self.case
        if case.heals:
            self.wait(lambda: self.board.words[0] == HEALED, "the links are healed")
            self.reset_until_whole(name)
            self.rounds("whole", name, case.num_ranks)
        else:
            side = case.side_of(self.rank)
            self.reset(name, "shrink", side)
            self.rounds("shrunk", name, case.num_ranks, members=side)

    def reset_until_whole(self, name: str) -> None:
        """TCP tries again after as long as it has tried: the first resets may find one side."""
        self.stage = "return"
        end = time.monotonic() + HEAL_SECONDS
        while time.monotonic() < end:
            begin = time.monotonic()
            try:
                members = waybill.reset(name)
            except (waybill.StateError, waybill.PeerTimeout) as error:
                self.record("late reset", text=str(error))
                continue
            self.record("reset", members=members, seconds=time.monotonic() - begin)
            if tuple(members) == self.everyone:
                return
        raise CallFailed
