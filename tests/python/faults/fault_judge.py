"""What the records of a fault case have to say for the case to pass."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any

from fault_cases import ROUNDS_AFTER, Fault, FaultCase, Outcome, Point
from fault_hosts import alternatives
from fault_ranks import timeout_of

Record = dict[str, Any]

LOST_SECONDS = 2.0  # in which the end of a process is noticed
SLACK_SECONDS = 1.0
REPLACEMENT = -1  # the place of the process that came for a victim (Fault.RESTART)
EARLY_SECONDS = 0.05


def judge(
    case: FaultCase,
    records: dict[int, list[Record]],
    ended_at: float | None,
    statuses: dict[int, int],
) -> list[str]:
    """What is wrong; empty when the case passed.

    `ended_at`: when the victim's process had ended, seconds of the monotonic clock. `statuses`: of
    the processes, as os.waitstatus_to_exitcode gives them.
    """
    hits = [record for own in records.values() for record in own if record["what"] == "hit"]
    found = [] if len(hits) == 1 else [f"the victim was hit {len(hits)} times"]
    for rank, own in records.items():
        complaints = [f"wrong row: {record['text']}" for record in own if record["what"] == "wrong"]
        complaints += [record["text"] for record in own if record["what"] == "crashed"]
        if rank == REPLACEMENT:
            complaints += judge_rounds(own, {"whole": ROUNDS_AFTER}) + judge_level(own)
        elif rank != case.victim or case.fault is Fault.SLOW:
            complaints += judge_survivor(case, rank, own, ended_at)
        elif case.fault.stops:
            complaints += judge_stopped(case, own)
        if statuses.get(rank) != expected_status(case, rank):
            complaints.append(f"its process ended with {statuses.get(rank)}")
        found += [f"rank {rank}: {text}" for text in complaints]
    return found


def expected_status(case: FaultCase, rank: int) -> int:
    if rank != case.victim or case.fault in (Fault.STOP, Fault.PAUSE, Fault.SLOW, Fault.EXIT):
        return 0
    return 1 if case.fault is Fault.RAISE else -signal.SIGKILL


def calls_from_fault(case: FaultCase, records: Sequence[Record]) -> list[Record]:
    """The calls from the one that was hit on; of a pair only its end, unless the setup fails."""
    calls = [
        record
        for record in records
        if record["what"] == "call"
        and record["stage"] in ("hit", "after")
        and not (record["opens"] and record["kind"] == "ok")
    ]
    if case.point is Point.BETWEEN_CALLS or case.point.in_rendezvous:
        return calls
    while calls and calls[0]["operator"] != case.operator:
        calls.pop(0)
    return calls


def judge_survivor(
    case: FaultCase, rank: int, records: Sequence[Record], ended_at: float | None
) -> list[str]:
    calls = calls_from_fault(case, records)
    found = []
    if case.fault is Fault.SLOW:
        found += [f"{call['text']}" for call in calls if call["kind"] != "ok"]
        rounds = 0 if case.point.in_rendezvous else 2 + ROUNDS_AFTER
        found += judge_rounds(records, {"whole" if rounds == 0 else "": max(rounds, ROUNDS_AFTER)})
        return found + judge_level(records)
    found += min(
        (judge_calls(case, calls, wanted, ended_at) for wanted in alternatives(case, rank)), key=len
    )
    return found + judge_recovery(case, records) + judge_level(records)


def judge_calls(
    case: FaultCase, calls: Sequence[Record], wanted: Sequence[Outcome], ended_at: float | None
) -> list[str]:
    found = []
    for call, outcome in zip(calls, wanted, strict=False):
        found += judge_call(case, call, outcome, ended_at)
    if len(calls) != len(wanted):
        found.append(f"{len(calls)} calls from the fault on, expected {len(wanted)}")
    return found


def judge_call(
    case: FaultCase, call: Record, outcome: Outcome, ended_at: float | None
) -> list[str]:
    got = call["kind"] + "".join(f" {rank}" for rank in call["ranks"])
    if not outcome.fits(call["kind"], call["ranks"]):
        return [f"{call['operator']}: {got}, expected {outcome}: {call['text']}"]
    if outcome.succeeds:
        return []
    # A setup waits for nobody, so the time of a pair is that of its teardown.
    waited = call["end"] - call["begin"]
    limit = timeout_of(case)
    if call["kind"] == "PeerLost":
        assert ended_at is not None
        waited, limit = call["end"] - max(ended_at, call["begin"]), LOST_SECONDS
    if waited > limit + SLACK_SECONDS:
        return [f"{call['operator']}: {got} after {waited:.2f} s, expected {limit} s"]
    if call["kind"] == "PeerTimeout" and waited < limit - EARLY_SECONDS:
        return [f"{call['operator']}: {got} after {waited:.2f} s, before the time was over"]
    return []


def judge_stopped(case: FaultCase, records: Sequence[Record]) -> list[str]:
    """The victim itself: rows that are right, if any, then an error; then it is in again."""
    failed = [record for record in records if record["what"] == "call" and record["kind"] != "ok"]
    found = []
    if len(failed) != 1:
        found.append(f"{len(failed)} of its calls failed, expected 1")
    for call in failed:
        # Whoever comes too late to a rendezvous does not find the others.
        kinds = ("PeerLost", "PeerTimeout") if case.point.in_rendezvous else ("StateError",)
        if case.hosts > 1 and case.fault is Fault.PAUSE:
            # The call may end well with rows that are there, before it is heard that the others
            # gave it up; to the next one they do not come.
            kinds += ("PeerTimeout",)
        if call["kind"] not in kinds:
            found.append(f"{call['operator']}: {call['text']}, expected {' or '.join(kinds)}")
    if not case.point.in_rendezvous:
        found += judge_resets(records, {"return": list(range(case.num_ranks))})
    return found + judge_rounds(records, {"whole": ROUNDS_AFTER}) + judge_level(records)


def judge_recovery(case: FaultCase, records: Sequence[Record]) -> list[str]:
    """Lists of resets, and the correct rounds behind them."""
    resets: dict[str, list[int]] = {}
    rounds = {}
    comes_back = case.fault.stops or case.fault is Fault.RESTART
    if comes_back:
        rounds["whole"] = ROUNDS_AFTER
    if case.point.in_rendezvous:
        if case.fault not in (Fault.PAUSE, Fault.RESTART):
            rounds["regroup"] = ROUNDS_AFTER
        return judge_rounds(records, rounds)
    if comes_back:
        resets["return"] = list(range(case.num_ranks))
    if case.shrinks:
        resets["shrink"] = list(case.survivors)
        rounds["shrunk"] = ROUNDS_AFTER
    if case.is_pair and not comes_back:
        rounds["regroup"] = ROUNDS_AFTER
    return judge_resets(records, resets) + judge_rounds(records, rounds)


def judge_resets(records: Sequence[Record], wanted: dict[str, list[int]]) -> list[str]:
    got = {record["stage"]: record["members"] for record in records if record["what"] == "reset"}
    return [] if got == wanted else [f"resets gave {got}, expected {wanted}"]


def judge_rounds(records: Sequence[Record], wanted: dict[str, int]) -> list[str]:
    """How many correct rounds each stage has; the stage "" stands for all."""
    found = []
    for stage, count in wanted.items():
        got = sum(
            record["what"] == "round" and (not stage or record["stage"] == stage)
            for record in records
        )
        if got != count:
            found.append(f"{got} rounds ended in stage {stage!r}, expected {count}")
    failed = [
        record
        for record in records
        if record["what"] == "call"
        and record["kind"] != "ok"
        and record["stage"] not in ("hit", "after")
    ]
    return found + [f"{call['operator']}, {call['stage']}: {call['text']}" for call in failed]


def judge_level(records: Sequence[Record]) -> list[str]:
    if not any(record["what"] == "level" for record in records):
        return ["it did not come to its end"]
    return [
        f"{text}, {record['stage']}"
        for record in records
        if record["what"] in ("held", "level")
        for text in record["growth"]
    ]
