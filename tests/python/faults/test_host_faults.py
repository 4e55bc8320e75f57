"""Faults of ranks, hosts and links in groups over hosts: a part of the matrix, and its judges."""

from __future__ import annotations

from typing import Any

import pytest

import fault_cases
import link_cases
import link_judge
from fault_cases import OK, Fault, Outcome, Point, find
from fault_hosts import alternatives
from link_cases import LinkCase, LinkFault, most_that_succeed
from links import SwitchedNetwork
from test_faults import Results, results_of
from waybill import _library

reason = SwitchedNetwork.available() or _library.machine()["ucx_problem"] or None
no_hosts = pytest.mark.skipif(reason is not None, reason=str(reason))
PART = [*fault_cases.stratified_hosts(), *link_cases.stratified()]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("faults")
    return results_of(folder, "--hosts", "2", "--hosts", "links", "--jobs", "4")


@no_hosts
@pytest.mark.parametrize("case", PART, ids=lambda case: case.name)
def test_case(case: Any, results: Results) -> None:
    command = f"python tests/python/faults/fault_matrix.py --case {case.name}"
    assert not results[case.name], "\n".join([*results[case.name], command])


def test_the_part_has_every_fault_and_point() -> None:
    hosts = fault_cases.stratified_hosts()
    assert {case.fault for case in hosts} == set(Fault) - {Fault.RESTART}
    assert {case.point for case in hosts} == set(Point)
    links = link_cases.stratified()
    assert {case.fault for case in links} == set(LinkFault)
    assert {case.layout for case in links} == set(link_cases.LAYOUTS)


def test_names() -> None:
    cases = link_cases.matrix()
    names = {case.name for case in cases} | {case.name for case in fault_cases.matrix()}
    assert len(names) == len(cases) + len(fault_cases.matrix())
    assert all(link_cases.find(case.name) == case for case in cases)


def test_what_is_expected_of_faults_over_hosts() -> None:
    """Some sentences of docs/protocol.md."""
    case = find("kill/mid-publish/dispatch_v2/8/2-hosts")
    lost = Outcome(("PeerLost",), (case.victim,))
    assert all(alternatives(case, rank) == [[lost]] for rank in case.survivors)
    case = find("kill/after-signal/dispatch_v2/8/2-hosts")
    lost = Outcome(("PeerLost",), (case.victim,))
    assert all(alternatives(case, rank) == [[OK, lost], [lost]] for rank in case.survivors)
    case = find("stop/after-signal/dispatch_v2/4/2-hosts")
    (near,) = (rank for rank in case.survivors if case.is_near(rank))
    (away,) = alternatives(case, near)[1]
    assert away.ranks == () and len(away.also) == 1 and not case.is_near(away.also[0])
    case = find("stop/after-signal/barrier/4/2-hosts")  # it sends no rows
    assert [len(calls) for calls in alternatives(case, near)] == [2]
    case = find("raise/between-calls/dispatch_v2/4/2-hosts")
    assert alternatives(case, near) == [[Outcome(("PeerLost",), (case.victim,))]]


@pytest.mark.parametrize(
    ("kind", "ranks", "fits"),
    [
        ("PeerTimeout", [1], True),
        ("PeerTimeout", [1, 2], True),
        ("PeerTimeout", [2], False),
        ("PeerTimeout", [1, 3], False),
        ("PeerTimeout", [], False),
        ("PeerLost", [1], False),
    ],
)
def test_outcomes(kind: str, ranks: list[int], fits: bool) -> None:
    assert Outcome(("PeerTimeout",), (1,), (2,)).fits(kind, ranks) is fits


def test_an_outcome_that_may_name_any_of_some_names_one() -> None:
    outcome = Outcome(("PeerTimeout",), (), (2, 3))
    assert outcome.fits("PeerTimeout", [3])
    assert not outcome.fits("PeerTimeout", [])
    assert OK.fits("ok", []) and not OK.fits("ok", [1])


def test_how_far_calls_get() -> None:
    """The side whose signals are missing fails first; the other one may be a call ahead."""
    point = Point.BEFORE_PUBLISH
    for fault, wanted in ((LinkFault.ISOLATE, (1, 0)), (LinkFault.CUT_IN, (1, 2))):
        case = LinkCase(fault, point, "barrier", (1, 1))
        sides = (case.inside[0], case.outside[0])
        assert tuple(most_that_succeed(case, rank) for rank in sides) == wanted


HELD_AT = 9.9


def record_of(kind: str, ranks: list[int], **changes: Any) -> dict[str, Any]:
    return {
        "what": "call",
        "stage": "hit",
        "operator": "dispatch_v2",
        "opens": False,
        "kind": kind,
        "ranks": ranks,
        "text": "rank 9 is on host a, heard 2.1 s ago",
        "begin": 10.0,
        "end": 12.1,
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({}, ""),
        ({"kind": "PeerLost"}, "expected PeerTimeout"),
        ({"kind": "StateError", "ranks": []}, "expected PeerTimeout"),
        ({"kind": "ok", "ranks": []}, "none of its calls failed"),
        ({"ranks": "own side"}, "expected ranks across the cut"),
        ({"ranks": "both sides"}, "expected ranks across the cut"),
        ({"text": "did not come"}, "says nothing of hosts"),
        ({"end": 14.0}, "after 4.00 s"),
        ({"end": 10.5}, "after 0.50 s"),
    ],
)
def test_judging_a_call_behind_a_cut(changes: dict[str, Any], complaint: str) -> None:
    case = LinkCase(LinkFault.ISOLATE, Point.MID_PUBLISH, "dispatch_v2", (2, 2))
    rank, other = case.outside
    named = {"own side": [other], "both sides": sorted([other, case.victim])}
    record = record_of("PeerTimeout", [case.victim]) | changes
    record["ranks"] = named.get(str(record["ranks"]), record["ranks"])
    failed_at = dict.fromkeys(range(4), 0)
    found = link_judge.judge_calls(case, rank, [record], HELD_AT, failed_at)
    assert (complaint in found[0]) if complaint else not found


def test_too_many_calls_behind_a_cut() -> None:
    case = LinkCase(LinkFault.ISOLATE, Point.MID_PUBLISH, "dispatch_v2", (2, 2))
    records = [record_of("ok", []), record_of("PeerTimeout", [case.victim])]
    failed_at = dict.fromkeys(range(4), 1)
    found = link_judge.judge_calls(case, case.outside[0], records, HELD_AT, failed_at)
    assert found == ["1 calls ended well behind the fault, expected at most 0"]


def test_who_failed_before_may_be_named_by_its_own_side() -> None:
    case = LinkCase(LinkFault.ISOLATE, Point.MID_PULL, "dispatch_v2", (2, 2))
    rank, other = case.outside
    named = sorted([other, *case.inside])
    records = [record_of("ok", []), record_of("PeerTimeout", named)]
    failed_at = {**dict.fromkeys(case.inside, 1), rank: 1, other: 0}
    assert link_judge.judge_calls(case, rank, records, HELD_AT, failed_at) == []


def test_keepalive_is_neither_early_nor_late() -> None:
    case = LinkCase(LinkFault.KEEPALIVE, Point.MID_PUBLISH, "dispatch_v2", (2, 2, 2))
    text = "rank 0 is on host a, lost: nothing was heard of it for 2.0 s"
    for end, good in ((HELD_AT + 1.0, False), (HELD_AT + 2.1, True), (HELD_AT + 5.5, False)):
        record = record_of("PeerLost", [case.victim], text=text, end=end)
        assert bool(link_judge.judge_time(case, record, HELD_AT)) is not good
