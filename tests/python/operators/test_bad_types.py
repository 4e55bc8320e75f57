"""A value of a wrong type for any parameter of any operator is an error that names it, not torch's
word for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import waybill
from local_groups import LocalGroups
from samples import ORDER, arguments_of

WRONG: dict[str, Any] = {"Tensor": "t", "int": "1", "str": 7, "float": "f"}


@pytest.fixture
def alone() -> Iterator[LocalGroups]:
    """A group of its own: a teardown is tried while its set-up is open."""
    made = LocalGroups(1)
    yield made
    made.close(timeout=0.02)


@pytest.mark.parametrize("operator", ORDER)
def test_every_parameter(alone: LocalGroups, operator: str) -> None:
    layer = {**alone.where(0), "ep_world_size": 1}
    results: dict[str, Any] = {}
    for earlier in ORDER[: ORDER.index(operator)]:
        own = arguments_of(earlier, layer, results)
        results[earlier] = getattr(waybill, earlier)(**own)
    good = arguments_of(operator, layer, results)
    for parameter in getattr(torch.ops.waybill, operator).default._schema.arguments:
        kind = str(parameter.type).removeprefix("Optional[").rstrip("]")
        with pytest.raises(waybill.ArgumentError) as caught:
            getattr(waybill, operator)(**{**good, parameter.name: WRONG[kind]})
        assert (caught.value.operator, caught.value.argument) == (operator, parameter.name)
        assert isinstance(caught.value, ValueError)
        assert repr(WRONG[kind]) in str(caught.value)
    getattr(waybill, operator)(**good)
