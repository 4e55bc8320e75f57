"""What docs/protocol.md says of faults of one rank in groups over hosts, where it is more than one.

What a rank publishes leaves its host some time after it was published, and what ranks of another
host send it, it receives for others, too. So a rank that is hit behind its signal may have been hit
before its rows left, or before it had received what others of its host wait for.
"""

from __future__ import annotations

from fault_cases import BARRIER, OK, Fault, FaultCase, Outcome, Point, expected


def alternatives(case: FaultCase, rank: int) -> list[list[Outcome]]:
    """Each a list of outcomes as fault_cases.expected() gives it."""
    base = expected(case, rank)
    if case.hosts == 1 or case.fault is Fault.SLOW:
        return [base]
    if case.point.in_rendezvous:
        return [[of_connect(case, rank)]]
    if case.raises_in_wait:
        return of_exception(case, rank, base)
    behind_signal = (Point.AFTER_SIGNAL, Point.MID_PULL, Point.WAIT_READERS, Point.BETWEEN_SETUP)
    if case.point not in behind_signal or case.ends_normally:
        return [base]  # its signal is missing, or it ends when all has left and has been read
    first = base[-1]
    # Of those that did not get its rows in the call that is hit: the next one may miss them, too.
    others = tuple(other for other in case.survivors if other != rank)
    last = first if case.fault.ends_process else first._replace(also=others)
    passes = [OK, last]
    if not case.is_near(rank):
        return [passes, [first]]
    return near(case, passes if len(base) == 2 else [first], first)


def near(case: FaultCase, usual: list[Outcome], lost: Outcome) -> list[list[Outcome]]:
    """Of ranks on the victim's host: they have its rows, but not all of what others sent."""
    if case.fault.ends_process:
        # Who waits for what the victim received, or reads when another host gives the call up.
        return [usual, [lost]]
    missed = received_by(case) if case.point in (Point.AFTER_SIGNAL, Point.BETWEEN_SETUP) else ()
    # It lives: whether a sender or a receiver is late cannot be told.
    return [usual, [Outcome(lost.kinds, (), missed)]] if missed else [usual]


def received_by(case: FaultCase) -> tuple[int, ...]:
    """The ranks of other hosts whose rows the victim receives for its host, by turns."""
    if case.operator == BARRIER:
        return ()
    own = [rank for rank in range(case.num_ranks) if case.is_near(rank)]
    away = [rank for rank in range(case.num_ranks) if not case.is_near(rank)]
    # With two hosts the ranks away are all of one.
    place = own.index(case.victim)
    return tuple(rank for i, rank in enumerate(away) if i % len(own) == place)


def of_exception(case: FaultCase, rank: int, base: list[Outcome]) -> list[list[Outcome]]:
    """The victim gave the call up with an exception; its rows have left, since it waited."""
    if case.is_near(rank):
        return [base]
    # That it gave up may be heard too late to matter, or before its end.
    return [[OK, base[-1]], [base[-1]], [Outcome(("StateError",))]]


def of_connect(case: FaultCase, rank: int) -> Outcome:
    """Rank 0 leads at the store; only processes of the own host can be seen to end."""
    (base,) = expected(case, rank)
    late = Outcome(("PeerTimeout",), (case.victim,))
    leader_is_near = case.is_near(0)
    if case.point is Point.STORE:
        sees = case.is_near(rank) if case.victim == 0 else leader_is_near
        return base if sees else late
    if case.is_near(rank):
        return base
    # The ranks of the victim's host do not come to exchange addresses.
    missing = tuple(other for other in range(case.num_ranks) if case.is_near(other))
    return late._replace(ranks=(0,) if leader_is_near else missing)
