"""Strict modes of the operators without a group: WAYBILL_STRICT decides, limits as in the second
table of docs/strict.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any, NamedTuple

import pytest

Sizes = dict[str, int]


class Line(NamedTuple):
    """One limit; `argument` is what the error names."""

    operator: str
    inside: Sizes
    outside: Sizes
    argument: str


# Prints for each call the argument that its error names, or nothing.
PROGRAM = """
import json, os, sys
import torch, waybill

def call(operator, sizes):
    own = {"bs": 2, "k": 2, "rows": 4, "columns": 2, "world": 2, "count": 1, **sizes}
    table = torch.zeros(own["rows"], own["columns"], dtype=torch.int32)
    table[:, 0] = own["count"]
    ids = torch.zeros(own["bs"], own["k"], dtype=torch.int32)
    options = {"local_rank_id": 0, "world_size": own["world"]}
    if own.get("mask"):
        options["active_mask"] = torch.ones(own["bs"], dtype=torch.bool)
    if own.get("scales"):
        options["expert_scales"] = torch.ones(own["bs"], own["k"])
        options["pruning_threshold"] = torch.zeros(own["k"])
    try:
        getattr(waybill, operator)(ids, table, **options)
    except waybill.ArgumentError as error:
        assert os.environ["WAYBILL_STRICT"] in str(error) and "strict" in str(error), str(error)
        return error.argument
    return ""

print(json.dumps([call(*given) for given in json.loads(sys.argv[1])]))
"""

UPDATE_EXPERT, EPLB = "npu_moe_update_expert", "npu_moe_eplb_update_expert"
UPDATE_LINES = {
    "rows": Line(UPDATE_EXPERT, {"rows": 1024}, {"rows": 1026, "columns": 2}, "eplb_table"),
    "rows-eplb": Line(EPLB, {"rows": 512}, {"rows": 514}, "eplb_table"),
    "F-least": Line(UPDATE_EXPERT, {"columns": 2}, {"columns": 4}, "eplb_table"),
    "F-most": Line(EPLB, {"columns": 3, "count": 2}, {"columns": 4, "count": 2}, "eplb_table"),
    "world": Line(UPDATE_EXPERT, {"world": 2}, {"world": 1}, "world_size"),
    "world-most": Line(UPDATE_EXPERT, {"world": 768, "rows": 768}, {"world": 769}, "world_size"),
    "world-eplb": Line(EPLB, {"world": 384, "rows": 384}, {"world": 385}, "world_size"),
    "sum": Line(
        UPDATE_EXPERT,
        {"rows": 512, "columns": 3, "count": 2},
        {"rows": 514, "columns": 3, "count": 2},
        "eplb_table",
    ),
    "sum-multiple": Line(UPDATE_EXPERT, {"rows": 4}, {"rows": 5}, "eplb_table"),
    "sum-multiple-eplb": Line(EPLB, {"rows": 6}, {"rows": 7}, "eplb_table"),
    "mask": Line(UPDATE_EXPERT, {"mask": 1, "scales": 1}, {"mask": 1}, "active_mask"),
    "BS": Line(UPDATE_EXPERT, {"bs": 512}, {"bs": 513}, "expert_ids"),
    "K": Line(UPDATE_EXPERT, {"k": 16, "rows": 16}, {"k": 17, "rows": 18}, "expert_ids"),
}


def in_process(mode: str, calls: list[tuple[str, Sizes]]) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(calls)],
        env={**os.environ, "WAYBILL_STRICT": mode},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    answers: Any = json.loads(result.stdout)
    return list(answers)


@pytest.fixture(scope="module")
def a3() -> dict[str, tuple[str, str]]:
    """For each line the answers inside and outside."""
    inside = in_process("a3", [(line.operator, line.inside) for line in UPDATE_LINES.values()])
    outside = in_process("a3", [(line.operator, line.outside) for line in UPDATE_LINES.values()])
    return dict(zip(UPDATE_LINES, zip(inside, outside, strict=True), strict=True))


@pytest.mark.parametrize("name", UPDATE_LINES)
def test_a3(a3: dict[str, tuple[str, str]], name: str) -> None:
    assert a3[name] == ("", UPDATE_LINES[name].argument)


def test_a2_has_neither() -> None:
    assert in_process("a2", [(UPDATE_EXPERT, {}), (EPLB, {})]) == ["strict", "strict"]
