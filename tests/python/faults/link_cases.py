"""Faults of a host or its links: which cases there are, and how the calls of each rank end.

As fault_cases.py, but it is a host that is hit, when one of its ranks is at a point of a call.
"""

from __future__ import annotations

import enum
import itertools
import zlib
from typing import NamedTuple

from fault_cases import BARRIER, COMBINE, COMBINE_SETUP, DISPATCH, NORM, Point, covering
from fault_cases import why_not as why_not_point


class LinkFault(enum.Enum):
    """What happens to the links of the host that is hit, or to all its ranks."""

    ISOLATE = "isolate"  # nothing passes, in no direction
    CUT_OUT = "cut-out"  # what the host sends is lost
    CUT_IN = "cut-in"  # what is sent to the host is lost
    LINK_DOWN = "link-down"  # its device is down
    KEEPALIVE = "keepalive"  # ISOLATE, and silence ends a connection before the timeout
    LOST_HOST = "lost-host"  # SIGKILL for all its ranks at once
    DELAY = "delay"  # 100 ms
    LOSS = "loss"  # 5 % of the packets
    SLOW_LINK = "slow-link"  # 20 Mbit/s
    SHORT_CUT = "short-cut"  # ISOLATE for half a second, much less than the timeout

    @property
    def parts(self) -> bool:
        """Whether both sides live and do not reach each other."""
        return self in PARTING or self is LinkFault.KEEPALIVE

    @property
    def ends_calls(self) -> bool:
        return self.parts or self is LinkFault.LOST_HOST

    @property
    def lasts(self) -> bool:
        return self in (LinkFault.DELAY, LinkFault.LOSS, LinkFault.SLOW_LINK)

    @property
    def is_lost(self) -> bool:
        """Whether the error is PeerLost: nobody of the host comes back."""
        return self in (LinkFault.KEEPALIVE, LinkFault.LOST_HOST)


PARTING = (LinkFault.ISOLATE, LinkFault.CUT_OUT, LinkFault.CUT_IN, LinkFault.LINK_DOWN)
LINK_OPERATORS = (DISPATCH, COMBINE, NORM, COMBINE_SETUP, BARRIER)
LAYOUTS = ((1, 1), (2, 2), (2, 2, 2))
"""Ranks of each host."""
LINK_POINTS = tuple(point for point in Point if not point.in_rendezvous)


class LinkCase(NamedTuple):
    fault: LinkFault
    point: Point
    operator: str
    layout: tuple[int, ...]
    heals: bool = False  # when all have failed, before they reset

    @property
    def name(self) -> str:
        point = self.point.value.replace(" ", "-")
        healed = "-healed" if self.heals else ""
        hosts = "x".join(map(str, self.layout))
        return f"{self.fault.value}{healed}/{point}/{self.operator}/{hosts}"

    @property
    def hosts(self) -> int:
        return len(self.layout)

    @property
    def num_ranks(self) -> int:
        return sum(self.layout)

    @property
    def host_hit(self) -> int:
        return zlib.crc32(self.name.encode()) % self.hosts

    @property
    def victim(self) -> int:
        """The rank at whose point of a call its host is hit."""
        ranks = self.inside
        return ranks[zlib.crc32(f"rank of {self.name}".encode()) % len(ranks)]

    def host_of(self, rank: int) -> int:
        return list(itertools.accumulate(self.layout, initial=0)).index(
            rank - rank % self.layout[0]
        )

    def side_of(self, rank: int) -> tuple[int, ...]:
        """The ranks that this one still reaches."""
        is_inside = self.host_of(rank) == self.host_hit
        return tuple(
            other
            for other in range(self.num_ranks)
            if (self.host_of(other) == self.host_hit) == is_inside
        )

    @property
    def inside(self) -> tuple[int, ...]:
        return tuple(rank for rank in range(self.num_ranks) if self.host_of(rank) == self.host_hit)

    @property
    def outside(self) -> tuple[int, ...]:
        return tuple(rank for rank in range(self.num_ranks) if self.host_of(rank) != self.host_hit)

    @property
    def survivors(self) -> tuple[int, ...]:
        return self.outside if self.fault is LinkFault.LOST_HOST else tuple(range(self.num_ranks))

    @property
    def is_pair(self) -> bool:
        return self.operator == COMBINE_SETUP

    @property
    def in_place(self) -> bool:
        rows = self.operator in (COMBINE, NORM, COMBINE_SETUP)
        return rows and (self.point is Point.WAIT_READERS or self.num_ranks == 4)

    # What ranks.FaultRank asks of a case

    raises_in_wait = False
    late = -1


def why_not(case: LinkCase) -> str:
    if case.heals and case.fault not in PARTING:
        return "nothing that is healed when all have failed"
    if case.fault.lasts and case.point is not Point.BETWEEN_CALLS:
        return "lasts for all calls"
    return why_not_point(case)


def most_that_succeed(case: LinkCase, rank: int) -> int:
    """How many calls may end well on a rank, from the one in which the victim was hit.

    A call needs the signal of every rank. Before the victim's signal nobody is further than this
    call, and no other rank's signal of the next one is out. Behind it the other side may have sent
    the signal of the next call, too, before the links were cut. In CUT_IN what the host sends goes
    on for as long as its ranks get so far.
    """
    behind = case.point not in (Point.BETWEEN_CALLS, Point.BEFORE_PUBLISH, Point.MID_PUBLISH)
    inside = 1 + behind
    if rank in case.inside:
        return inside
    return inside + 1 if case.fault is LinkFault.CUT_IN else int(behind)


def combinations() -> list[LinkCase]:
    """Layouts by turns: all of them occur with each fault, point and operator."""
    choices = itertools.product(LinkFault, LINK_POINTS, LINK_OPERATORS, (False, True))
    cases = []
    for fault, point, operator, heals in choices:
        turn = list(LinkFault).index(fault) + LINK_POINTS.index(point)
        turn += LINK_OPERATORS.index(operator) + heals
        cases.append(LinkCase(fault, point, operator, LAYOUTS[turn % len(LAYOUTS)], heals))
    return cases


def matrix() -> list[LinkCase]:
    return [case for case in combinations() if not why_not(case)]


def pairs_of(case: LinkCase) -> set[tuple[object, object]]:
    kind = "parts" if case.fault.parts else "lost" if case.fault.ends_calls else "passes"
    return {(case.fault, case.heals), (kind, case.point), (kind, case.layout), (case.operator, 0)}


def stratified() -> list[LinkCase]:
    return covering(matrix(), pairs_of)


def find(name: str) -> LinkCase | None:
    return next((case for case in matrix() if case.name == name), None)
