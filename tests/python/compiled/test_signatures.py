"""One table holds each signature: what differs from it is an error before anything is called."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import waybill
from signatures import signature
from waybill import _calls, _library, fakes, reference
from waybill.operators import OPERATORS, Operator, named

DISPATCH = "npu_moe_distribute_dispatch"
SHORT_TYPES = {"Optional[Tensor]": "Tensor?", "Optional[int]": "int?"}
FORMS = [
    (operator, prefix)
    for operator in OPERATORS
    for prefix in ("", "_ordered_", "_plain_")
    if f"{prefix}{operator.name}" in operator.names
]


def declared(name: str, default: Any, kind: str, prefix: str) -> str:
    """A parameter as torch prints it."""
    if name == "performance_info" and prefix != "_plain_":
        kind = "Tensor(b!)?" if prefix == "_ordered_" else "Tensor(a!)?"
    if name == "global_bs" and prefix == "_ordered_":
        kind = "SymInt"
    kind = SHORT_TYPES.get(kind, kind)
    if default is inspect.Parameter.empty:
        return f"{kind} {name}"
    shown = f'"{default}"' if isinstance(default, str) else f"{default}"
    return f"{kind} {name}={f'{default:.17g}' if isinstance(default, float) else shown}"


def results_of(name: str) -> str:
    """Those of the oracle."""
    (item,) = typing.get_args(typing.get_type_hints(getattr(reference, name))["return"])
    kinds = typing.get_args(item) if isinstance(item, types.UnionType) else (item,)
    fields = getattr(kinds[0], "_fields", None)
    return f"({', '.join(f'Tensor {field}' for field in fields)})" if fields else "Tensor"


@pytest.mark.parametrize(
    ("operator", "prefix"), FORMS, ids=lambda value: getattr(value, "name", value)
)
def test_printed_schema(operator: Operator, prefix: str) -> None:
    """Each form to the letter, from the contract's own print of the signature."""
    ordered = prefix == "_ordered_"
    parts = ["Tensor(a!) token"] if ordered else []
    for name, by_keyword, default, kind in signature(operator.name):
        if by_keyword and not ordered and "*" not in parts:
            parts.append("*")
        parts.append(declared(name, default, kind, prefix))
    results = "()" if ordered and operator.gives_input_back else results_of(operator.name)
    schema = getattr(torch.ops.waybill, f"{prefix}{operator.name}").default._schema
    assert str(schema) == f"waybill::{prefix}{operator.name}({', '.join(parts)}) -> {results}"


def function_like(name: str, parameters: list[inspect.Parameter]) -> Callable[..., Any]:
    """A function of this name with other parameters than the operator's."""

    def function() -> None: ...

    original = inspect.signature(getattr(waybill, name))
    function.__name__ = function.__qualname__ = name
    function.__signature__ = original.replace(parameters=parameters)  # type: ignore[attr-defined]
    return function


def parameters_of(name: str) -> list[inspect.Parameter]:
    return list(inspect.signature(getattr(waybill, name)).parameters.values())


def changed(operator: str, parameter: str, **changes: Any) -> list[inspect.Parameter]:
    return [p.replace(**changes) if p.name == parameter else p for p in parameters_of(operator)]


def moved(name: str, parameter: str) -> list[inspect.Parameter]:
    """With the parameter behind its successor."""
    parameters = parameters_of(name)
    at = [p.name for p in parameters].index(parameter)
    return [*parameters[:at], parameters[at + 1], parameters[at], *parameters[at + 2 :]]


DIFFERENT = {
    "removed": ([p for p in parameters_of(DISPATCH) if p.name != "quant_mode"], "quant_mode"),
    "removed at the end": (parameters_of(DISPATCH)[:-1], "expert_token_nums_type"),
    "added": ([*parameters_of(DISPATCH), inspect.Parameter("more", 3, default=0)], "more"),
    "renamed": (changed(DISPATCH, "tp_rank_id", name="tp_rank"), "tp_rank"),
    "moved among its like": (moved(DISPATCH, "tp_world_size"), "tp_rank_id"),
    "another default": (changed(DISPATCH, "global_bs", default=1), "global_bs: int = 1"),
    "another type of default": (changed(DISPATCH, "global_bs", default=False), "= False"),
    "another type": (changed(DISPATCH, "scales", annotation="Tensor"), "scales: Tensor = None"),
    "no default": (changed(DISPATCH, "moe_expert_num", default=0), "moe_expert_num: int = 0"),
}


@pytest.mark.parametrize(("parameters", "named_in_error"), DIFFERENT.values(), ids=DIFFERENT)
def test_function_that_is_not_its_schema(
    parameters: list[inspect.Parameter], named_in_error: str
) -> None:
    with pytest.raises(ImportError) as caught:
        _calls.operator(function_like(DISPATCH, parameters))
    assert named_in_error in str(caught.value)
    assert DISPATCH in str(caught.value)


def test_function_with_other_results() -> None:
    function: Any = function_like(DISPATCH, parameters_of(DISPATCH))
    function.__signature__ = function.__signature__.replace(return_annotation="Tensor")
    with pytest.raises(ImportError, match="-> Tensor"):
        _calls.operator(function)


def test_function_of_no_operator() -> None:
    function = function_like(DISPATCH, parameters_of(DISPATCH))
    function.__name__ = "npu_moe_distribute_dispatch_v9"
    with pytest.raises(ImportError, match="v9"):
        _calls.operator(function)


def test_function_that_is_its_schema() -> None:
    bound = _calls.operator(function_like(DISPATCH, parameters_of(DISPATCH)))
    assert inspect.signature(bound) == inspect.signature(waybill.npu_moe_distribute_dispatch)


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
def test_fake_with_a_misnamed_parameter(operator: Operator) -> None:
    first = operator.arguments[0].name

    def fake(number_of_tokens: int) -> None: ...

    with pytest.raises(ImportError, match="number_of_tokens") as caught:
        fakes.by_name(operator, fake)
    assert operator.name in str(caught.value)
    with pytest.raises(ImportError, match="other"):
        exec(f"def fake({first}, other): ...", {}, found := {})
        fakes.by_name(operator, found["fake"])


def test_fake_gets_arguments_by_name() -> None:
    def fake(global_bs: int, quant_mode: int, ep_rank_id: int) -> tuple[int, int, int]:
        return global_bs, quant_mode, ep_rank_id

    of_dispatch = fakes.by_name(named(DISPATCH), fake)
    given = (None, None, "a group", 8, 3, 16)
    assert of_dispatch(*given, quant_mode=2) == (0, 2, 3)
    assert of_dispatch(*given, global_bs=64) == (64, 0, 3)


SLIPS = [
    ("ops/dispatch.py", "    quant_mode: int = 0,\n", "", "quant_mode"),
    ("ops/barrier.py", "    world_size: int,\n", "    world_size: int,\n    more: int,\n", "more"),
    ("ops/experts.py", "balance_mode: int = 0", "balance_mode: int = 1", "balance_mode"),
    ("ops/combine.py", '"npu_moe_distribute_combine_v2",\n', "", "npu_moe_distribute_combine_v2"),
    ("fakes.py", "expand_x: Tensor, ep_world_size: int", "expand_x: Tensor, size: int", "'size'"),
]


@pytest.mark.parametrize(("file", "text", "by", "blamed"), SLIPS, ids=[slip[0] for slip in SLIPS])
def test_package_with_a_slip(tmp_path: Path, file: str, text: str, by: str, blamed: str) -> None:
    """It cannot be imported."""
    package = tmp_path / "waybill"
    shutil.copytree(Path(waybill.__file__).parent, package, ignore=lambda *_: {"__pycache__"})
    source = (package / file).read_text()
    assert text in source
    (package / file).write_text(source.replace(text, by))
    run = subprocess.run(
        [sys.executable, "-c", "import waybill"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode != 0
    assert "ImportError" in run.stderr
    assert blamed in run.stderr.splitlines()[-1]


def test_unknown_setting() -> None:
    """What makes a group goes to the library by name: a name that it does not know is an error."""
    with pytest.raises(waybill.WaybillError, match="'colour'"):
        _library.connect_local(["a-group"], colour="red")
    assert "a-group" not in _library.group_names()
    with pytest.raises(waybill.WaybillError, match="'depth'"):
        _library.window_bytes(bs=1, depth=3)


def test_names_with_signs_of_settings() -> None:
    names = ["a=b", "name=", "two\nlines"]
    waybill.groups.connect_local(names)
    try:
        assert set(names) <= set(_library.group_names())
    finally:
        for name in names:
            waybill.release(name, timeout=0.02)
