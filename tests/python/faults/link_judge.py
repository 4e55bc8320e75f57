"""What the records of a case of link_cases.py have to say for the case to pass."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from fault_cases import ROUNDS_AFTER
from fault_judge import (
    EARLY_SECONDS,
    LOST_SECONDS,
    SLACK_SECONDS,
    Record,
    calls_from_fault,
    judge_level,
    judge_rounds,
)
from link_cases import LinkCase, LinkFault, most_that_succeed
from link_ranks import KEEPALIVE_SECONDS, timeout_of_links

BEAT_SECONDS = 0.5  # a host may have been heard so long before its links were cut


def judge(
    case: LinkCase,
    records: dict[int, list[Record]],
    held_at: float,
    statuses: dict[int, int],
) -> list[str]:
    """What is wrong; empty when the case passed. `held_at`: when the fault held, monotonic."""
    hits = [record for own in records.values() for record in own if record["what"] == "hit"]
    found = [] if len(hits) == 1 else [f"the host was hit {len(hits)} times"]
    failed_at = {rank: failing_call(case, own) for rank, own in records.items()}
    for rank, own in records.items():
        complaints = [f"wrong row: {record['text']}" for record in own if record["what"] == "wrong"]
        complaints += [record["text"] for record in own if record["what"] == "crashed"]
        survives = rank in case.survivors
        if survives and case.fault.ends_calls:
            complaints += judge_calls(case, rank, own, held_at, failed_at)
            complaints += judge_recovery(case, rank, own) + judge_level(own)
        elif survives:
            # One round is before the fault.
            complaints += judge_rounds(own, {"": 2 + ROUNDS_AFTER}) + judge_level(own)
            complaints += [call["text"] for call in own if call.get("kind", "ok") != "ok"]
        wanted = 0 if survives else -signal.SIGKILL
        if statuses.get(rank) != wanted:
            complaints.append(f"its process ended with {statuses.get(rank)}")
        found += [f"rank {rank}: {text}" for text in complaints]
    return found


def failing_call(case: LinkCase, records: Sequence[Record]) -> int:
    """How many calls ended well from the fault on, before one that did not."""
    kinds = [call["kind"] for call in calls_from_fault(case, records)]
    return next((i for i, kind in enumerate(kinds) if kind != "ok"), len(kinds))


def judge_calls(
    case: LinkCase,
    rank: int,
    records: Sequence[Record],
    held_at: float,
    failed_at: dict[int, int],
) -> list[str]:
    calls = calls_from_fault(case, records)
    if not calls or calls[-1]["kind"] == "ok":
        return ["none of its calls failed"]
    most, last = most_that_succeed(case, rank), calls[-1]
    found = []
    if len(calls) - 1 > most:
        found.append(f"{len(calls) - 1} calls ended well behind the fault, expected at most {most}")
    kind = "PeerLost" if case.fault.is_lost else "PeerTimeout"
    got = " ".join([last["kind"], *map(str, last["ranks"])])
    if last["kind"] != kind:
        return [*found, f"{last['operator']}: {got}, expected {kind}: {last['text']}"]
    side = case.side_of(rank)
    away = [other for other in last["ranks"] if other not in side]
    # A rank of this side that failed in an earlier call did not come to this one.
    earlier = [other for other in side if failed_at[other] < failed_at[rank]]
    others = [other for other in last["ranks"] if other in side and other not in earlier]
    if not away or others:
        found.append(f"{last['operator']}: {got}, expected ranks across the cut: {last['text']}")
    if "is on host" not in last["text"]:
        found.append(f"its text says nothing of hosts: {last['text']}")
    if case.fault is LinkFault.KEEPALIVE and "nothing was heard" not in last["text"]:
        found.append(f"its text does not say why: {last['text']}")
    return found + judge_time(case, last, held_at)


def judge_time(case: LinkCase, call: Record, held_at: float) -> list[str]:
    waited, least, most = call["end"] - call["begin"], 0.0, timeout_of_links(case)
    if case.fault.is_lost:
        waited, most = call["end"] - held_at, LOST_SECONDS
        if case.fault is LinkFault.KEEPALIVE:
            least = KEEPALIVE_SECONDS - BEAT_SECONDS
            most = 2 * KEEPALIVE_SECONDS
    else:
        least = most
    if not least - EARLY_SECONDS <= waited <= most + SLACK_SECONDS:
        expected = f"expected {least} s to {most} s"
        return [f"{call['operator']}: {call['kind']} after {waited:.2f} s, {expected}"]
    return []


def judge_recovery(case: LinkCase, rank: int, records: Sequence[Record]) -> list[str]:
    stage, reset = ("whole", "return") if case.heals else ("shrunk", "shrink")
    members = range(case.num_ranks) if case.heals else case.side_of(rank)
    lists = [record["members"] for record in records if record["what"] == "reset"]
    found = judge_rounds(records, {stage: ROUNDS_AFTER})
    if not lists or lists[-1] != list(members):
        found.append(f"resets ({reset}) gave {lists}, expected {list(members)} in the end")
    return found
