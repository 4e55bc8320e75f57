"""The oracle's arguments are the operators', by name."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from signatures import signature
from waybill import reference
from waybill.operators import OPERATORS, Operator

GROUPS_AND_RANKS = ("group_ep", "ep_rank_id", "group_tp", "tp_rank_id", "group")
"""What the oracle does not have, since it computes all ranks at once."""


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
def test_parameters(operator: Operator) -> None:
    """Tensors are positional, what all ranks share is a keyword; order and defaults are equal."""
    empty = inspect.Parameter.empty
    wanted: dict[str, Any] = {
        name: (default, by_keyword or "Tensor" not in kind)
        for name, by_keyword, default, kind in signature(operator.name)
        if name not in GROUPS_AND_RANKS
    }
    parameters = inspect.signature(getattr(reference, operator.name)).parameters
    own = {
        name: (parameter.default, parameter.kind is parameter.KEYWORD_ONLY)
        for name, parameter in parameters.items()
    }
    if operator.group is None:  # there local_rank_id is a list over ranks, with a default
        wanted.pop("local_rank_id")
        own.pop("local_rank_id")
    assert list(own) == list(wanted)
    assert {n: v for n, v in own.items() if wanted[n][0] is not empty} == {
        n: v for n, v in wanted.items() if v[0] is not empty
    }
