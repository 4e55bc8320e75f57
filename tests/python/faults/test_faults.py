"""A part of the fault matrix: each pair of a fault, a point, an operator and a number of ranks."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import fault_cases
import fault_judge
import fault_layers
from fault_cases import OK, Fault, FaultCase, Outcome, expected, find
from fault_ranks import SHORT_TIMEOUT

MATRIX = Path(__file__).parent / "fault_matrix.py"
PART_SECONDS = 600
Results = dict[str, list[str]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return results_of(tmp_path_factory.mktemp("faults"), "--hosts", "1", "--jobs", "2")


def results_of(folder: Path, *options: str) -> Results:
    """The problems of each case. Run by a process of its own: it forks, so it has no threads."""
    file = folder / "results.json"
    command = [sys.executable, str(MATRIX), "--part", *options, "--json", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=PART_SECONDS, env=environment
    )
    assert file.exists(), run.stdout + run.stderr
    return dict(json.loads(file.read_text()))


@pytest.mark.parametrize("case", fault_cases.stratified(), ids=lambda case: case.name)
def test_case(case: FaultCase, results: Results) -> None:
    command = f"python tests/python/faults/fault_matrix.py --case {case.name}"
    assert not results[case.name], "\n".join([*results[case.name], command])


def test_the_part_has_every_pair() -> None:
    cases = fault_cases.stratified()
    for fault, point in itertools.product(Fault, fault_cases.Point):
        assert any((case.fault, case.point) == (fault, point) for case in cases)
    for case in fault_cases.matrix([1]):
        for pair in fault_cases.pairs_of(case):
            assert any(pair in fault_cases.pairs_of(other) for other in cases)


def test_new_processes_come_at_each_time() -> None:
    """Both in the matrix and in the part, at points of calls."""
    for cases in (fault_cases.matrix([1]), fault_cases.stratified()):
        restarts = [case for case in cases if case.fault is Fault.RESTART and case.point.in_call]
        assert {case.returns for case in restarts} == set(fault_cases.Return)


def test_names() -> None:
    names = [case.name for case in fault_cases.matrix()]
    assert len(set(names)) == len(names)
    assert all(find(case.name) == case for case in fault_cases.matrix())


def outcomes(name: str) -> list[list[Outcome]]:
    case = find(name)
    return [expected(case, rank) for rank in case.survivors]


def test_what_is_expected() -> None:
    """Some sentences of docs/protocol.md."""
    lost = [Outcome(("PeerLost",), (find("kill/mid-publish/dispatch_v2/8").victim,))]
    assert outcomes("kill/mid-publish/dispatch_v2/8") == [lost] * 7
    for name in ("kill/after-signal/dispatch_v2/8", "exit/mid-pull/barrier/2"):
        assert all(first == OK and not then.succeeds for first, then in outcomes(name))
    for name in ("kill/mid-pull/combine_v2/4", "stop/after-signal/combine_setup/4"):
        assert all(len(calls) == 1 and not calls[0].succeeds for calls in outcomes(name))
    case = find("kill/rendezvous-sockets/barrier/8")
    assert outcomes(case.name) == [[Outcome(("PeerLost",), (case.victim,))]] * 7
    case = find("restart/rendezvous-store/barrier/4")  # as if it were of an earlier group
    assert outcomes(case.name) == [[Outcome(("PeerTimeout",), (case.victim,))]] * 3
    case = find("raise/waiting-for-readers/combine_v2/4")
    failing = [rank for rank in case.survivors if not expected(case, rank)[0].succeeds]
    assert failing == [case.late]


def record_of(kind: str, ranks: list[int], **changes: Any) -> dict[str, Any]:
    return {
        "what": "call",
        "stage": "hit",
        "operator": "dispatch_v2",
        "opens": False,
        "kind": kind,
        "ranks": ranks,
        "text": "",
        "begin": 10.0,
        "end": 10.1 + SHORT_TIMEOUT,
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({}, ""),
        ({"ranks": [0, 1]}, "expected PeerTimeout"),
        ({"kind": "PeerLost"}, "expected PeerTimeout"),
        ({"kind": "ok", "ranks": []}, "expected PeerTimeout"),
        ({"end": 15.0}, "after 5.00 s"),
        ({"end": 10.5}, "before the time was over"),
    ],
)
def test_judging_a_call(changes: dict[str, Any], complaint: str) -> None:
    case = find("stop/mid-publish/dispatch_v2/4")
    (outcome,) = expected(case, case.survivors[0])
    record = record_of("PeerTimeout", [case.victim]) | changes
    found = fault_judge.judge_call(case, record, outcome, None)
    assert (complaint in found[0]) if complaint else not found


def test_judging_the_rest() -> None:
    """Rows that are wrong, a rank that does not end, lists that differ, growth."""
    case = find("pause/mid-publish/dispatch_v2/2")
    survivor, everyone = case.survivors[0], [0, 1]
    good = [
        {"what": "hit", "stage": "hit"},
        record_of("PeerTimeout", [case.victim]),
        {"what": "reset", "stage": "return", "members": everyone},
        *[{"what": "round", "stage": "whole"}] * 3,
        {"what": "level", "stage": "whole", "growth": []},
    ]
    stopped = [record_of("StateError", []), *good[2:]]
    statuses = {0: 0, 1: 0}

    def found(own: list[dict[str, Any]]) -> list[str]:
        return fault_judge.judge(case, {survivor: own, case.victim: stopped}, None, statuses)

    assert found(good) == []
    for place, worse in (
        (0, {"what": "nothing", "stage": "hit"}),
        (2, {"what": "reset", "stage": "return", "members": [survivor]}),
        (3, {"what": "wrong", "stage": "whole", "text": "expand_x[0, 0]"}),
        (6, {"what": "level", "stage": "whole", "growth": ["descriptors grew from 7 to 8"]}),
    ):
        assert found([*good[:place], worse, *good[place + 1 :]])
    assert found(good[:-1]) == [f"rank {survivor}: it did not come to its end"]


def test_rounds_differ_in_all_rows() -> None:
    """A row of another round is a wrong row."""
    rows = []
    for variant in range(fault_layers.VARIANTS):
        _, want = fault_layers.answer_of("v2", 4, (0, 1, 2, 3), variant, False)
        for rank in range(4):
            received = int(want[0][rank].ep_recv_counts.max())
            for rows_of_rank in (want[0][rank].expand_x[:received], want[1][rank]):
                rows += [bytes(row) for row in rows_of_rank.view(torch.uint8).numpy()]
    # A token goes to K = 2 experts, all else occurs once.
    assert max(rows.count(row) for row in rows) == 2
