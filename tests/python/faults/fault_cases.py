"""The fault matrix: which cases there are, and what docs/protocol.md says of each.

A case hits one rank, the victim, at one point of one operator. Everything here is a pure function
of the case; fault_ranks.py is what its processes do, fault_matrix.py runs them.
"""

from __future__ import annotations

import enum
import itertools
import random
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Fault(enum.Enum):
    """What happens to the victim."""

    KILL = "kill"  # SIGKILL
    STOP = "stop"  # SIGSTOP; goes on when the others have reset and made calls without it
    PAUSE = "pause"  # SIGSTOP; goes on when the others have failed, before they reset
    EXIT = "exit"  # in a call at once, between calls as a program ends: atexit releases the group
    RAISE = "raise"  # an exception, from a signal handler or from user code, ends the program
    SLOW = "slow"  # 100 ms
    RESTART = "restart"  # SIGKILL; a new process takes its rank

    @property
    def ends_process(self) -> bool:
        return self in (Fault.KILL, Fault.EXIT, Fault.RAISE, Fault.RESTART)

    @property
    def stops(self) -> bool:
        return self in (Fault.STOP, Fault.PAUSE)


class Return(enum.Enum):
    """When the new process of Fault.RESTART is started."""

    AT_ONCE = "at once"  # the others may still be in the call that is hit
    FAILED = "failed"  # the others' calls have failed
    SHRUNK = "shrunk"  # the others have reset and made calls without it


class Point(enum.Enum):
    """Where the victim is."""

    STORE = "rendezvous: store"  # has posted at the store, has not seen the others
    SOCKETS = "rendezvous: sockets"  # has met the others at the store, not yet their sockets
    BEFORE_PUBLISH = "before publish"
    MID_PUBLISH = "mid-publish"  # lists are written, rows are not
    AFTER_SIGNAL = "after signal"
    MID_PULL = "mid-pull"  # everybody's signal has come, no row is read
    WAIT_READERS = "waiting for readers"  # has read; its own rows are published in place
    BETWEEN_SETUP = "between setup and teardown"
    BETWEEN_CALLS = "between calls"

    @property
    def in_rendezvous(self) -> bool:
        return self in (Point.STORE, Point.SOCKETS)

    @property
    def in_call(self) -> bool:
        return self in PHASES


PHASES = {
    Point.BEFORE_PUBLISH: "check",
    Point.MID_PUBLISH: "publish-rows",
    Point.AFTER_SIGNAL: "signalled",
    Point.MID_PULL: "pull-rows",
    Point.WAIT_READERS: "wait-readers",
}
"""The phase at whose start the victim is hit."""

DISPATCH, COMBINE, NORM = "dispatch_v2", "combine_v2", "combine_add_rms_norm"
DISPATCH_SETUP, COMBINE_SETUP, BARRIER = "dispatch_setup", "combine_setup", "barrier"
OPERATORS = (DISPATCH, COMBINE, NORM, DISPATCH_SETUP, COMBINE_SETUP, BARRIER)
"""The set-up family counts as two: each name stands for the pair of setup and teardown."""
RETURNS_ROWS = (COMBINE, NORM, COMBINE_SETUP)
RANKS = (2, 4, 8)
HOSTS = (1, 2)
ROUNDS_AFTER = 3  # correct calls that are asked for after each recovery


class Outcome(NamedTuple):
    """How a call ends on a rank: any of `kinds`, an error with these ranks and perhaps others."""

    kinds: tuple[str, ...]
    ranks: tuple[int, ...] = ()
    also: tuple[int, ...] = ()  # may be named, too; where `ranks` is empty, one of them has to be

    @property
    def succeeds(self) -> bool:
        return self == OK

    def fits(self, kind: str, ranks: Sequence[int]) -> bool:
        allowed = set(self.ranks) | set(self.also)
        return (
            kind in self.kinds
            and set(self.ranks) <= set(ranks) <= allowed
            and bool(ranks) == bool(allowed)
        )

    def __str__(self) -> str:
        words = [" or ".join(self.kinds), *map(str, self.ranks)]
        return " ".join(words + [f"({rank})" for rank in self.also])


OK = Outcome(("ok",))


class FaultCase(NamedTuple):
    fault: Fault
    point: Point
    operator: str
    num_ranks: int
    hosts: int = 1  # with as many ranks on each

    @property
    def name(self) -> str:
        """What --case takes."""
        point = self.point.value.replace(": ", "-").replace(" ", "-")
        where = f"/{self.hosts}-hosts" if self.hosts > 1 else ""
        return f"{self.fault.value}/{point}/{self.operator}/{self.num_ranks}{where}"

    def host_of(self, rank: int) -> int:
        return rank * self.hosts // self.num_ranks

    def is_near(self, rank: int) -> bool:
        """Whether a survivor is on the victim's host."""
        return self.host_of(rank) == self.host_of(self.victim)

    @property
    def is_pair(self) -> bool:
        return self.operator in (DISPATCH_SETUP, COMBINE_SETUP)

    @property
    def victim(self) -> int:
        """The first, the middle or the last rank: the first one leads meetings and resets."""
        choices = sorted({0, self.num_ranks // 2, self.num_ranks - 1})
        return choices[zlib.crc32(self.name.encode()) % len(choices)]

    @property
    def survivors(self) -> tuple[int, ...]:
        return tuple(rank for rank in range(self.num_ranks) if rank != self.victim)

    @property
    def late(self) -> int:
        """A survivor that an exception in a wait needs: without it the wait would be over.

        On the victim's host if there is one: nobody waits for readers of other hosts.
        """
        behind = [(self.victim + i) % self.num_ranks for i in range(1, self.num_ranks)]
        return min(behind, key=lambda rank: not self.is_near(rank))

    @property
    def returns(self) -> Return:
        if self.point is Point.STORE:
            return Return.FAILED  # at once it would meet the others as if nothing had happened
        choices = list(Return)[: 2 if self.point is Point.SOCKETS else 3]
        return choices[zlib.crc32(f"return of {self.name}".encode()) % len(choices)]

    @property
    def shrinks(self) -> bool:
        """Whether the survivors reset and make calls among themselves."""
        if self.fault is Fault.RESTART:
            return self.returns is Return.SHRUNK
        return self.fault is not Fault.PAUSE

    @property
    def ends_unseen(self) -> bool:
        """Whether the victim posts at the store and ends before another rank looks there: what it
        posted may then be of an earlier group.
        """
        return self.point is Point.STORE and self.fault.ends_process and self.num_ranks == 4

    @property
    def in_place(self) -> bool:
        """Whether the rows of combine are published in place; both kinds occur at each point."""
        return self.operator in RETURNS_ROWS and (
            self.point is Point.WAIT_READERS or self.num_ranks == 4
        )

    @property
    def raises_in_wait(self) -> bool:
        """The handler's exception comes up while the victim waits; else when the call has ended.

        A setup does not wait, and no rank waits between its signal's arrival and its last read.
        """
        if self.fault is not Fault.RAISE or not self.point.in_call:
            return False
        if self.point is Point.WAIT_READERS:
            return True
        return self.point is not Point.MID_PULL and not self.is_pair

    @property
    def ends_normally(self) -> bool:
        """Whether atexit releases the victim's group."""
        return self.fault is Fault.RAISE or (self.fault is Fault.EXIT and not self.point.in_call)


def why_not(case: FaultCase) -> str:
    """Why a combination cannot be; empty when it can."""
    point, operator = case.point, case.operator
    if point is Point.MID_PUBLISH and operator == BARRIER:
        return "a barrier publishes no rows"
    if point is Point.WAIT_READERS and operator not in RETURNS_ROWS:
        return "publishes no rows in place"
    if point is Point.BETWEEN_SETUP and not case.is_pair:
        return "has no setup"
    if case.hosts > 1 and case.fault is Fault.RESTART:
        return "processes come back to groups on one host only"
    if case.hosts == case.num_ranks and point is Point.WAIT_READERS and case.fault is Fault.RAISE:
        return "alone on its host a rank waits for no reader"
    return ""


def expected(case: FaultCase, rank: int) -> list[Outcome]:
    """What a survivor's calls come to, from the call that is hit on: the last one fails.

    The call that is hit: of the victim's operator; at "between calls" the next one. Of groups on
    one host; fault_hosts.py says what else may be on several.
    """
    if case.fault is Fault.SLOW:
        return [OK]
    lost = Outcome(("PeerLost" if case.fault.ends_process else "PeerTimeout",), (case.victim,))
    point = case.point
    if case.ends_unseen:
        return [Outcome(("PeerTimeout",), lost.ranks)]
    if point is Point.BETWEEN_CALLS or point.in_rendezvous:
        return [lost]
    if case.fault is Fault.RAISE:
        return expected_of_exception(case, rank, lost)
    if point in (Point.BEFORE_PUBLISH, Point.MID_PUBLISH):
        return [lost]  # its signal is missing
    if point is Point.WAIT_READERS:
        return [OK, lost]  # its `done` is there and its rows stay readable
    # Its signal is there and its rows stay readable. Whoever published rows in place for it waits
    # for its `done`, which only a normal end posts.
    if case.in_place and not case.ends_normally:
        return [lost]
    return [OK, lost]


def expected_of_exception(case: FaultCase, rank: int, lost: Outcome) -> list[Outcome]:
    if not case.raises_in_wait:
        return [OK, lost]  # the call, or the setup, had ended; release posts `done`
    # The victim gives the call up: `left` is posted before the late rank has read. The others
    # wait for the late rank's signal, or have read already.
    if case.point is Point.WAIT_READERS and rank != case.late:
        return [OK, lost]
    return [lost]


def combinations(hosts: Sequence[int] = HOSTS) -> list[FaultCase]:
    choices = itertools.product(hosts, Fault, Point, OPERATORS, RANKS)
    return [FaultCase(*others, number) for number, *others in choices]


def matrix(hosts: Sequence[int] = HOSTS) -> list[FaultCase]:
    return [case for case in combinations(hosts) if not why_not(case)]


def pairs_of(case: FaultCase) -> set[tuple[object, object]]:
    return set(itertools.combinations(case[:4], 2))


def coarse_pairs_of(case: FaultCase) -> set[tuple[object, object]]:
    """Faults that end a process do much the same to other hosts, and so do those that stop it."""
    kind = "ends" if case.fault.ends_process else "stops" if case.fault.stops else "slow"
    return {(kind, case.point), (kind, case.operator), (case.fault, case.num_ranks)}


def covering(cases: list[Any], pairs: Callable[[Any], set[tuple[object, object]]]) -> list[Any]:
    """A fixed part of the cases that has each pair that occurs in one of them."""
    random.Random(11).shuffle(cases)
    missing = set().union(*map(pairs, cases))
    chosen = []
    while missing:
        best = max(cases, key=lambda case: len(pairs(case) & missing))
        missing -= pairs(best)
        chosen.append(best)
    return chosen


def stratified() -> list[FaultCase]:
    """Of groups on one host: each pair of values of two axes occurs."""
    return covering(matrix([1]), pairs_of)


def stratified_hosts() -> list[FaultCase]:
    """Of groups over hosts."""
    return covering(matrix([2]), coarse_pairs_of)


def find(name: str) -> FaultCase:
    for case in matrix():
        if case.name == name:
            return case
    raise SystemExit(f"no case {name!r}; --list has all")
