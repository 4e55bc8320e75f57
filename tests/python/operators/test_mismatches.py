"""Ranks whose calls do not fit together: every rank hears the same, and work goes on."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

import waybill
from ranks import Rank, RankPool
from round_trips import check_works

PoolOf = Callable[..., RankPool]
Arguments = dict[str, Any]

DISPATCH = "npu_moe_distribute_dispatch_v2"
COMBINE = "npu_moe_distribute_combine_v2"


class Sizes(NamedTuple):
    bs: int = 4
    hidden: int = 8
    topk: int = 2
    dtype: torch.dtype = torch.bfloat16


def make_call(rank: Rank, operator: str, sizes: Sizes, options: Arguments) -> Any:
    """A call that is right by itself. No token of combine takes part, so that it needs no rows."""
    ids = torch.arange(sizes.topk, dtype=torch.int32).repeat(sizes.bs, 1)
    common = {"expert_ids": ids, "moe_expert_num": 6, **rank.layer}
    if operator == DISPATCH:
        own = {"x": torch.ones(sizes.bs, sizes.hidden, dtype=sizes.dtype)}
    else:
        own = {
            "expand_x": torch.ones(1, sizes.hidden, dtype=sizes.dtype),
            "assist_info_for_combine": torch.zeros(0, dtype=torch.int32),
            "ep_send_counts": torch.zeros(99, dtype=torch.int32),
            "expert_scales": torch.ones(sizes.bs, sizes.topk),
            "x_active_mask": torch.zeros(sizes.bs, dtype=torch.bool),
        }
    return getattr(waybill, operator)(**{**common, **own, **options})


class Odd(NamedTuple):
    """Options of all ranks, and what one rank has instead."""

    argument: str | None
    values: tuple[str, str]  # of the others, and of the odd one
    sizes: Sizes = Sizes()
    options: Arguments = {}  # noqa: RUF012 - never changed
    others: Arguments = {}  # noqa: RUF012
    operators: tuple[str, ...] = (DISPATCH, COMBINE)


SMOOTH = {"quant_mode": 2, "scales": torch.ones(6, 8)}
ODD = {
    "hidden": Odd("x", ("8", "16"), sizes=Sizes(hidden=16)),
    "topk": Odd("expert_ids", ("2", "3"), sizes=Sizes(topk=3)),
    "dtype": Odd("x", ("bfloat16", "float16"), sizes=Sizes(dtype=torch.float16)),
    "moe_expert_num": Odd("moe_expert_num", ("6", "12"), options={"moe_expert_num": 12}),
    "shared_expert_num": Odd(
        "shared_expert_num",
        ("1", "2"),
        others={"shared_expert_rank_num": 2},
        options={"shared_expert_rank_num": 2, "shared_expert_num": 2},
    ),
    "shared_expert_rank_num": Odd(
        "shared_expert_rank_num",
        ("1", "2"),
        others={"shared_expert_rank_num": 1},
        options={"shared_expert_rank_num": 2},
    ),
    "global_bs": Odd(
        "global_bs", ("12", "24"), others={"global_bs": 12}, options={"global_bs": 24}
    ),
    "global_bs-0": Odd("global_bs", ("12", "24"), options={"global_bs": 24}),
    "unequal-bs": Odd("global_bs", ("12", "15"), sizes=Sizes(bs=5)),
    "no-tokens": Odd("global_bs", ("12", "0"), sizes=Sizes(bs=0)),
    "quant_mode": Odd("quant_mode", ("0", "2"), options={"quant_mode": 2}, operators=(DISPATCH,)),
    "scales": Odd(
        "scales",
        ("None", "given"),
        others={"quant_mode": 2},
        options=SMOOTH,
        operators=(DISPATCH,),
    ),
    "no-scales": Odd(
        "scales",
        ("given", "None"),
        others=SMOOTH,
        options={"quant_mode": 2},
        operators=(DISPATCH,),
    ),
    "comm_quant_mode": Odd(
        "comm_quant_mode", ("0", "2"), options={"comm_quant_mode": 2}, operators=(COMBINE,)
    ),
}
TABLE = [
    pytest.param(operator, odd, id=f"{operator.split('_')[3]}-{name}")
    for name, odd in ODD.items()
    for operator in odd.operators
]


def reset(rank: Rank) -> list[int]:
    return waybill.reset(rank.name)


def run_odd(pool: RankPool, operator: str, odd: Odd) -> list[Any]:
    per_rank = [(operator, Sizes(), odd.others) for _ in range(pool.num_ranks)]
    per_rank[1] = (operator, odd.sizes, odd.options)
    return pool.outcomes(make_call, per_rank=per_rank)


def check_errors(errors: list[Any], operator: str, odd: Odd, ranks: list[int]) -> None:
    common, different = odd.values
    for error in errors:
        assert isinstance(error, waybill.MismatchError), error
        assert not isinstance(error, ValueError)
        assert (error.operator, error.argument, error.ranks) == (operator, odd.argument, ranks)
        text = str(error)
        assert operator in text and "expected" in text and "got" in text
        assert f"argument {odd.argument}" in text
        others = "rank 0" if len(errors) == 2 else r"ranks 0(,| and) 2"
        assert re.search(rf"\b{common} on {others}", text), text
        assert re.search(rf"\b{different} on rank 1\b", text), text
    assert len({str(error) for error in errors}) == 1


@pytest.mark.parametrize(("operator", "odd"), TABLE)
def test_one_of_three_ranks_differs(pool_of: PoolOf, operator: str, odd: Odd) -> None:
    pool = pool_of(3)
    check_errors(run_odd(pool, operator, odd), operator, odd, [1])
    check_works(pool)


@pytest.mark.parametrize("name", ["hidden", "dtype", "moe_expert_num", "unequal-bs"])
def test_two_ranks_differ(pool_of: PoolOf, name: str) -> None:
    """Neither is the odd one."""
    odd = ODD[name]
    if name == "unequal-bs":
        odd = odd._replace(values=("8", "10"))
    pool = pool_of(2)
    check_errors(run_odd(pool, DISPATCH, odd), DISPATCH, odd, [0, 1])
    check_works(pool)


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("odd", [DISPATCH, COMBINE])
def test_operators_differ(pool_of: PoolOf, num_ranks: int, odd: str) -> None:
    usual = COMBINE if odd == DISPATCH else DISPATCH
    pool = pool_of(num_ranks)
    operators = [usual, odd, usual][:num_ranks]
    errors = pool.outcomes(make_call, per_rank=[(operator, Sizes(), {}) for operator in operators])
    for operator, error in zip(operators, errors, strict=True):
        assert isinstance(error, waybill.MismatchError)
        assert (error.operator, error.argument) == (operator, None)
        assert error.ranks == ([0, 1] if num_ranks == 2 else [1])
        assert f"{odd} on rank 1" in str(error)
        assert usual in str(error)
        assert "out of step" in str(error) and "completed calls: " in str(error)
    assert pool.run(reset) == [list(range(num_ranks))] * num_ranks
    check_works(pool)


def test_all_ranks_differ(pool_of: PoolOf) -> None:
    pool = pool_of(3)
    per_rank = [(DISPATCH, Sizes(hidden=8 + rank), {}) for rank in range(3)]
    for error in pool.outcomes(make_call, per_rank=per_rank):
        assert isinstance(error, waybill.MismatchError)
        assert (error.argument, error.ranks) == ("x", [0, 1, 2])
        for rank in range(3):
            assert f"{8 + rank} on rank {rank}" in str(error)
    check_works(pool)


def test_two_ranks_give_bad_arguments(pool_of: PoolOf) -> None:
    """The third names both."""
    pool = pool_of(3)
    per_rank = [(DISPATCH, Sizes(), options) for options in ({"comm_alg": "a"}, {}, {"x": None})]
    first, second, third = pool.outcomes(make_call, per_rank=per_rank)
    assert isinstance(first, waybill.ArgumentError) and first.argument == "comm_alg"
    assert isinstance(third, waybill.ArgumentError) and third.argument == "x"
    assert isinstance(second, waybill.MismatchError)
    assert (second.argument, second.ranks) == ("comm_alg", [0, 2])
    assert str(first) in str(second)
    check_works(pool)


WEIGHTED = {"expert_scales": torch.ones(4, 2)}
MASKED = {"x_active_mask": torch.ones(4, dtype=torch.bool)}


@pytest.mark.parametrize(
    ("others", "options"),
    [
        ({}, {"shared_expert_num": 0}),
        ({}, {"global_bs": 12}),
        ({"global_bs": 12}, {}),
        ({}, {"comm_alg": "hierarchy"}),
        ({}, {"expert_token_nums_type": 0}),
        ({}, {"tp_world_size": 1, "tp_rank_id": 1, "group_tp": "ignored"}),
        ({}, WEIGHTED),
        ({}, MASKED),
    ],
    ids=["shared", "gbs", "no-gbs", "alg", "nums", "tp", "weights", "mask"],
)
def test_what_may_differ(pool_of: PoolOf, others: Arguments, options: Arguments) -> None:
    pool = pool_of(3)
    odd = Odd(None, ("", ""), options=options, others=others)
    for result in run_odd(pool, DISPATCH, odd):
        assert not isinstance(result, BaseException), result
    check_works(pool)
