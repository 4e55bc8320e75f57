"""The operators reproduce the golden vectors of tests/golden, on threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import waybill
from golden import FILES, GoldenCase, check_golden
from local_groups import LocalGroups

GroupsOf = Callable[..., LocalGroups]


def run_calls(case: GoldenCase, place: int, where: dict[str, Any]) -> dict[str, Tensor]:
    """The calls of one rank; the results by their names in the file."""
    results: dict[str, Tensor] = {}
    for call in case.calls:
        arguments: dict[str, Any] = {**call["parameters"], **where}
        for argument, source in call["tensors"].items():
            kind, name = source.split(".")
            known = case.tensors if kind == "in" else results
            arguments[argument] = known.get(f"{kind}.{place}.{name}")
        if "tp_world_size" not in call["parameters"]:
            arguments.pop("group_tp", None)
            arguments.pop("tp_rank_id", None)
        outputs = getattr(waybill, call["operator"])(**arguments)
        outputs = [outputs] if isinstance(outputs, Tensor) else outputs
        for name, output in zip(call["returns"], outputs, strict=True):
            results[f"out.{place}.{name}"] = output
    return results


def places_of(case: GoldenCase) -> list[dict[str, int]]:
    return sorted(case.ranks, key=lambda rank: rank["rank"])


def run_on_groups(case: GoldenCase, groups_of: GroupsOf) -> dict[str, Tensor]:
    parameters = case.calls[0]["parameters"]
    groups = groups_of(
        int(parameters["ep_world_size"]), 2 if parameters.get("tp_world_size") == 2 else 1
    )
    callers = [rank["rank"] for rank in places_of(case)]
    results = groups.run(lambda place: run_calls(case, place, groups.where(place)), callers)
    if len(callers) < groups.num_places:
        groups.reset()
    return {name: value for own in results if own for name, value in own.items()}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden(local_groups_of: GroupsOf, path: Path) -> None:
    case = GoldenCase(path)
    if "ep_world_size" in case.calls[0]["parameters"]:
        results = run_on_groups(case, local_groups_of)
    else:
        results = {}
        for rank in places_of(case):
            where = {"local_rank_id": rank["local_rank_id"]}
            results |= run_calls(case, rank["rank"], where)
    check_golden(case, results)
