"""torch.library.opcheck of every operator, in every form that torch.ops.waybill has of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from local_groups import LocalGroups
from samples import ORDER, Arguments, arguments_of, walk
from waybill.operators import OPERATORS

CHECKS = ("test_schema", "test_faketensor", "test_autograd_registration")
TOKEN = torch.zeros(1, dtype=torch.uint8)
FORMS = [(operator.name, form) for operator in OPERATORS for form in operator.names]


@pytest.fixture
def alone() -> Iterator[LocalGroups]:
    """A group of one rank of its own: the check of a set-up leaves it open."""
    groups = LocalGroups(1)
    yield groups
    groups.close()


def call(operator: str, arguments: Arguments) -> Any:
    return getattr(torch.ops.waybill, operator)(**arguments)


def given_to(form: str, operator: str, arguments: Arguments) -> tuple[tuple[Any, ...], Arguments]:
    """Positional and keyword arguments of a form."""
    if form == operator or form.startswith("_plain_"):
        return (), arguments
    schema = getattr(torch.ops.waybill, form).default._schema
    public = getattr(torch.ops.waybill, operator).default._schema
    defaults = {a.name: a.default_value for a in public.arguments if a.has_default_value()}
    values = [{**defaults, **arguments}[argument.name] for argument in schema.arguments[1:]]
    return (TOKEN.clone(), *values), {}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(("operator", "form"), FORMS, ids=lambda name: name)
def test_opcheck(alone: LocalGroups, operator: str, form: str, check: str) -> None:
    layer = {**alone.where(0), "ep_world_size": 1}
    results: dict[str, Any] = {}
    before = ORDER[: ORDER.index(operator)]
    for earlier in before:
        results[earlier] = call(earlier, arguments_of(earlier, layer, results))
    arguments = arguments_of(operator, layer, results)
    positional, named = given_to(form, operator, arguments)
    overload = getattr(torch.ops.waybill, form).default
    found = torch.library.opcheck(
        overload, positional, named, test_utils=check, raise_exception=False
    )
    assert {name: str(result) for name, result in found.items()} == {check: "SUCCESS"}


def test_walk(alone: LocalGroups) -> None:
    layer = {**alone.where(0), "ep_world_size": 1}
    assert set(walk(layer, call)) == {operator.name for operator in OPERATORS}
