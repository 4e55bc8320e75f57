"""The golden vectors of tests/golden: what a file asks for, and what must come out of it.

The README there says how they are to be read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from waybill import reference

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
FILES = sorted(GOLDEN.glob("*.safetensors"))
NUM_FILES = 118

# The files know combine_setup's comm_cmd_info, and a combine's only result, by other names than
# the oracle.
FIELD_OF_RETURN = {"combine_cmd_info": "comm_cmd_info"}
INTEGER_OF_SIZE = {2: torch.int16, 4: torch.int32}


class GoldenCase:
    """One file: inputs, calls to make, and what must come out."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            self.tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in names}
            metadata = {key: json.loads(text) for key, text in file.metadata().items()}
        self.calls: list[dict[str, Any]] = metadata["case"]["calls"]
        self.ranks: list[dict[str, int]] = metadata["case"]["ranks"]
        self.shapes: dict[str, tuple[list[int], str]] = metadata["shapes"]
        self.unspecified: dict[str, list[int]] = metadata["unspecified"]
        self.tolerance: dict[str, dict[str, Any]] = metadata["tolerance"]

    @property
    def num_places(self) -> int:
        """Length of the oracle's lists: removed ranks have a place too."""
        parameters = self.calls[0]["parameters"]
        if "ep_world_size" not in parameters:
            return len(self.ranks)
        return int(parameters["ep_world_size"]) * max(1, int(parameters.get("tp_world_size", 0)))

    def run(self) -> dict[str, Tensor]:
        """Make the calls one after the other; the results by their names in the file."""
        results: dict[str, Tensor] = {}
        for call in self.calls:
            arguments: dict[str, Any] = dict(call["parameters"])
            for argument, source in call["tensors"].items():
                arguments[argument] = self.lookup(source, results)
            if "eplb_table" in arguments:
                arguments["local_rank_id"] = [rank["local_rank_id"] for rank in self.ranks]
            outputs = getattr(reference, call["operator"])(**arguments)
            assert len(outputs) == self.num_places
            callers = {rank["rank"] for rank in self.ranks}
            for place, output in enumerate(outputs):
                if place not in callers:
                    assert output is None, f"rank {place} was removed"
                    continue
                for name in call["returns"]:
                    value = output
                    if not isinstance(output, Tensor):
                        value = getattr(output, FIELD_OF_RETURN.get(name, name))
                    results[f"out.{place}.{name}"] = value
        return results

    def lookup(self, source: str, results: dict[str, Tensor]) -> list[Tensor | None]:
        """The list over ranks of `in.<argument>` or `out.<output of an earlier call>`."""
        kind, name = source.split(".")
        known = self.tensors if kind == "in" else results
        values = [known.get(f"{kind}.{place}.{name}") for place in range(self.num_places)]
        assert any(value is not None for value in values), f"nothing is called {source}"
        return values


def bits(values: Tensor) -> Tensor:
    values = values.contiguous()
    if values.is_floating_point():
        return values.view(INTEGER_OF_SIZE[values.element_size()])
    return values


def assert_same_bits(name: str, got: Tensor, want: Tensor, unspecified: list[int]) -> None:
    got = got[: len(want)]
    assert got.shape == want.shape and got.dtype == want.dtype, name
    keep = [row for row in range(len(want)) if row not in set(unspecified)]
    different = (bits(got[keep]) != bits(want[keep])).nonzero()
    assert not len(different), f"{name} differs first at {different[0].tolist()}"


def assert_within(name: str, got: Tensor, want: Tensor, case: GoldenCase) -> None:
    """An output that is not compared bit for bit."""
    rule = case.tolerance[name]
    assert got.shape == want.shape and got.dtype == want.dtype, name
    if "absolute" in rule:
        allowed = case.tensors[rule["absolute"]].double()
    else:
        allowed = want.double().abs() * rule["relative"]
        assert name.endswith(".rstd"), f"no way to compare {name}"
    exact = allowed == 0
    assert torch.equal(bits(got)[exact], bits(want)[exact]), name
    assert ((got.double() - want.double()).abs() <= allowed).all(), name


def assert_y_follows_from_rstd(name: str, case: GoldenCase, results: dict[str, Tensor]) -> None:
    rank = name.split(".")[1]
    f = case.tensors[f"aux.{rank}.f"]
    gamma = case.tensors[f"in.{rank}.gamma"]
    rstd = results[f"out.{rank}.rstd"]
    y = ((f * rstd).to(gamma.dtype).float() * gamma.float()).to(gamma.dtype)
    # Where rstd is 0 the token takes no part and the sign of f must not show.
    y = torch.where(rstd == 0, torch.zeros_like(y), y)
    assert_same_bits(name, results[name], y, [])


def assert_wild_rows(case: GoldenCase, results: dict[str, Tensor]) -> None:
    """What 7.1 still promises of quantised rows with NaN or infinity."""
    for name, rows in case.unspecified.items():
        if name.endswith(".expand_x") and results[name].dtype == torch.int8:
            assert (results[name][rows].int().abs() <= 127).all(), name
        elif name.endswith(".dynamic_scales"):
            assert not results[name][rows].isfinite().any(), name
        else:
            assert name.endswith(".expand_idx"), name


def check_golden(case: GoldenCase, results: dict[str, Tensor]) -> None:
    """All results against the file, each by the file's own rule."""
    for name, (shape, dtype) in case.shapes.items():
        got = results[name]
        assert [list(got.shape), got.dtype] == [shape, getattr(torch, dtype)], name

    expected = {name: want for name, want in case.tensors.items() if name.startswith("out.")}
    assert expected and expected.keys() <= case.shapes.keys() == results.keys()
    assert case.tolerance.keys() | case.unspecified.keys() <= expected.keys()
    for name, want in expected.items():
        if name not in case.tolerance:
            assert_same_bits(name, results[name], want, case.unspecified.get(name, []))
        elif "exact_from" in case.tolerance[name]:
            assert_y_follows_from_rstd(name, case, results)
        else:
            assert_within(name, results[name], want, case)
    assert_wild_rows(case, results)
