"""What torch and Python see of the library: names, order and defaults, sizes, a quiet import."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import waybill
from ranks import Rank, RankPool
from signatures import SIGNATURES, signature
from waybill.operators import OPERATORS, Operator

PoolOf = Callable[..., RankPool]


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
def test_schema(operator: Operator) -> None:
    empty = inspect.Parameter.empty
    parameters = [
        (
            argument.name,
            argument.kwarg_only,
            argument.default_value if argument.has_default_value() else empty,
            str(argument.type),
        )
        for argument in operator.overload._schema.arguments
    ]
    assert parameters == signature(operator.name)
    mutable = [a.name for a in operator.overload._schema.arguments if a.alias_info is not None]
    assert mutable == [name for name, *_ in parameters if name == "performance_info"]


def test_every_operator_of_the_contract() -> None:
    assert {operator.name for operator in OPERATORS} == set(SIGNATURES)


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
def test_function(operator: Operator) -> None:
    function = getattr(waybill, operator.name)
    parameters = [
        (parameter.name, parameter.kind is inspect.Parameter.KEYWORD_ONLY, parameter.default)
        for parameter in inspect.signature(function).parameters.values()
    ]
    assert parameters == [parameter[:3] for parameter in signature(operator.name)]
    for name, *_ in parameters:
        assert name in function.__doc__
        assert name in function.__annotations__


COLLECTIVE = [operator for operator in OPERATORS if operator.group is not None]


@pytest.mark.parametrize("operator", COLLECTIVE, ids=lambda operator: operator.name)
def test_ordered_form(operator: Operator) -> None:
    token, *rest = operator.ordered._schema.arguments
    assert token.name == "token"
    assert token.alias_info is not None
    assert token.alias_info.is_write
    assert not any(argument.kwarg_only for argument in rest)
    assert [argument.name for argument in rest] == [name for name, *_ in signature(operator.name)]


def test_names() -> None:
    for name in waybill.__all__:
        assert getattr(waybill, name) is not None
    assert {operator.name for operator in OPERATORS} <= set(waybill.__all__)


QUIET = """
import os, sys
import torch
before = len(os.listdir("/proc/self/task"))
import waybill
sys.exit(len(os.listdir("/proc/self/task")) - before)
"""


def test_import_starts_no_thread() -> None:
    subprocess.run([sys.executable, "-c", QUIET], check=True, timeout=60)


def no_tokens(rank: Rank, dtype: torch.dtype, bs: int, tp: int) -> list[tuple[Any, ...]]:
    x = torch.ones(bs, 5, dtype=dtype)
    ids = torch.zeros(bs, 2, dtype=torch.int32)
    sizes = {**rank.layer, "moe_expert_num": rank.world_size, "tp_world_size": tp}
    got = waybill.npu_moe_distribute_dispatch_v2(x, ids, **sizes, global_bs=0)
    back = waybill.npu_moe_distribute_combine_v2(
        got[0], ids, got[2], got[4], torch.ones(bs, 2), **sizes
    )
    return [describe(tensor) for tensor in (*got, back)]


def describe(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.stride(), tensor.is_contiguous(), tensor.requires_grad


def test_no_tokens(pool_of: PoolOf) -> None:
    """Tensors without elements are laid out as torch lays them out."""
    for results in pool_of(2).run(no_tokens, torch.bfloat16, 0, 1):
        shapes = [(0, 5), (0,), (0,), (1,), (2,), (1,), (0,), (0, 5)]
        assert results == [describe(torch.empty(shape)) for shape in shapes]


WINDOW_CASES = [
    {"bs": 16, "hidden": 512, "topk": 4, "options": {}},
    {"bs": 7, "hidden": 100, "topk": 2, "options": {"quant_mode": 2, "smooth": True}},
    {"bs": 9, "hidden": 333, "topk": 3, "options": {"comm_quant_mode": 2, "expert_scales": True}},
    {"bs": 9, "hidden": 700, "topk": 3, "options": {"shared_expert_rank_num": 1}},
]
EXPERTS_PER_RANK = 2


def windows_after(rank: Rank, case: dict[str, Any]) -> int:
    """Bytes of this rank's windows after dispatch and two combines of the worst routing."""
    bs, hidden, topk, options = (case[key] for key in ("bs", "hidden", "topk", "options"))
    shared_ranks = options.get("shared_expert_rank_num", 0)
    experts = EXPERTS_PER_RANK * (rank.world_size - shared_ranks)
    sizes = {**rank.layer, "moe_expert_num": experts, "shared_expert_rank_num": shared_ranks}
    x = torch.randn(bs, hidden).bfloat16()
    ids = (torch.arange(topk) % EXPERTS_PER_RANK).int().expand(bs, topk)
    mask = torch.arange(topk).expand(bs, topk) < EXPERTS_PER_RANK
    weights = torch.ones(bs, topk)
    smooth = torch.ones(experts + shared_ranks, hidden) if options.get("smooth") else None
    for _ in range(2):
        got = waybill.npu_moe_distribute_dispatch_v2(
            x,
            ids,
            **sizes,
            x_active_mask=mask,
            scales=smooth,
            expert_scales=weights if options.get("expert_scales") else None,
            quant_mode=options.get("quant_mode", 0),
        )
        for _ in range(2):
            waybill.npu_moe_distribute_combine_v2(
                torch.ones(len(got[0]), hidden).bfloat16(),
                ids,
                got[2],
                got[4],
                weights,
                **sizes,
                x_active_mask=mask,
                comm_quant_mode=options.get("comm_quant_mode", 0),
            )
    return int(waybill.stats(rank.name)["window_bytes"])


@pytest.mark.parametrize("case", WINDOW_CASES, ids=lambda case: f"H{case['hidden']}")
def test_window_bytes(case: dict[str, Any]) -> None:
    """What window_bytes says holds, and the rank that receives most comes close to it."""
    num_ranks = 3
    with RankPool(num_ranks) as pool:
        used = max(pool.run(windows_after, case))
    options = case["options"]
    experts = EXPERTS_PER_RANK * (num_ranks - options.get("shared_expert_rank_num", 0))
    said = waybill.window_bytes(
        case["bs"], case["hidden"], case["topk"], experts, num_ranks, **options
    )
    assert used <= said
    assert said <= 1.2 * used + (1 << 20)


@pytest.mark.parametrize(
    ("arguments", "options", "argument"),
    [
        ((-1, 8, 1, 2, 2), {}, "bs"),
        ((1, 8, 1, 2, 2), {"shared_expert_rank_num": 2}, "shared_expert_rank_num"),
        (
            (1, 8, 1, 2, 2),
            {"shared_expert_num": 0, "shared_expert_rank_num": 1},
            "shared_expert_num",
        ),
    ],
)
def test_window_bytes_of_bad_sizes(
    arguments: tuple[int, ...], options: dict[str, int], argument: str
) -> None:
    with pytest.raises(waybill.ArgumentError) as caught:
        waybill.window_bytes(*arguments, **options)
    assert caught.value.argument == argument
