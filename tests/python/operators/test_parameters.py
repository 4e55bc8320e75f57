"""Every parameter of every dispatch and combine has the effect that the contract says: a changed
result, that of the oracle, or an error that names it. tests/parameters.md is made from the marks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

import waybill
from local_groups import LocalGroups
from parameter_cases import (
    BASE,
    COMBINES,
    DISPATCH_SETUP,
    DISPATCHES,
    HALF,
    Arguments,
    E,
    H,
    K,
    M,
    build,
    constants,
    content,
    inputs,
    oracle,
    random,
    run,
    same,
    special_ids,
    with_special_experts,
)
from parameter_cases import BS as TOKENS

GroupsOf = Callable[..., LocalGroups]
Own = Callable[[int], Arguments]


class Change(NamedTuple):
    """What is different for the parameter. `both`: also in the dispatch before a combine; `base`:
    what the unchanged call has as well.
    """

    own: Own
    both: bool = False
    base: Own = lambda place: {}
    error: bool = False
    tp: int = 1


def fixed(**values: Any) -> Own:
    return lambda place: values


def wrong(**values: Any) -> Change:
    return Change(fixed(**values), error=True)


def other_ids(place: int) -> Arguments:
    return {"expert_ids": (inputs(place)["expert_ids"] + 1).remainder(M).int()}


def id_past_range(place: int) -> Arguments:
    ids = inputs(place)["expert_ids"].clone()
    ids[1, 1] = M + 7
    return {"expert_ids": ids}


SWAPPED = torch.tensor([1, E, 0, M, 1, 0, 2, 1, 0, 2], dtype=torch.int32)
TP_2 = {"moe_expert_num": 2, "ep_world_size": 2}
ANYTHING = torch.ones(1)

LAYER: dict[str, Change] = {
    "ep_world_size": wrong(ep_world_size=E + 1),
    "ep_rank_id": Change(lambda place: {"ep_rank_id": (place + 1) % E}, error=True),
    "moe_expert_num": Change(fixed(moe_expert_num=2 * M), both=True),
    "x_active_mask": Change(fixed(x_active_mask=HALF), both=True),
    "expert_shard_type": wrong(expert_shard_type=1),
    "shared_expert_num": Change(
        fixed(shared_expert_num=2), both=True, base=fixed(shared_expert_rank_num=2)
    ),
    "shared_expert_rank_num": Change(fixed(shared_expert_rank_num=1), both=True),
    "elastic_info": Change(fixed(elastic_info=SWAPPED), both=True),
    "comm_alg": wrong(comm_alg="ring"),
    "tp_rank_id": Change(lambda place: {"tp_rank_id": 1 - place % 2}, error=True, tp=2),
    "group_tp": Change(fixed(group_tp="nobody"), error=True, tp=2),
}
DISPATCH: dict[str, Change] = {
    **LAYER,
    "x": Change(lambda place: {"x": inputs(place)["x"] * 2}),
    "expert_ids": Change(other_ids),
    "scales": Change(lambda place: {"scales": random("scales", 0, M, H)}, base=fixed(quant_mode=2)),
    "expert_scales": Change(lambda place: {"expert_scales": random("w", place, TOKENS, K)}),
    "tp_world_size": Change(fixed(tp_world_size=3), error=True),
    "quant_mode": Change(fixed(quant_mode=2)),
    "global_bs": Change(fixed(global_bs=E * (TOKENS + 1))),
    "expert_token_nums_type": Change(fixed(expert_token_nums_type=0)),
    "zero_expert_num": Change(
        lambda place: {"zero_expert_num": 3, "expert_ids": special_ids(place)}
    ),
    "copy_expert_num": Change(
        lambda place: {"copy_expert_num": 3, "expert_ids": special_ids(place)}
    ),
    "const_expert_num": Change(
        lambda place: {"const_expert_num": 3, "expert_ids": special_ids(place)}
    ),
    "y_dtype": wrong(y_dtype=99, quant_mode=2),
    "x_dtype": wrong(x_dtype=1),
    "scales_dtype": wrong(scales_dtype=1),
    "comm_type": wrong(comm_type=1),
}


def with_constants(place: int) -> Arguments:
    return {**with_special_experts(place), **constants(place)}


def constant(name: str) -> Change:
    """Another tensor for the special experts."""
    return Change(lambda place: {name: constants(place)[name] * 2}, base=with_constants)


def counted(**values: int) -> Change:
    """Another number of special experts: what an id means shifts."""
    return Change(fixed(**values), base=with_constants)


COMBINE: dict[str, Change] = {
    **LAYER,
    "expand_x": Change(lambda place: {"expand_x": random("other", place, 18, H).bfloat16()}),
    "expert_ids": Change(id_past_range, error=True),
    "assist_info_for_combine": wrong(assist_info_for_combine=torch.full((9000,), 77).int()),
    "ep_send_counts": wrong(ep_send_counts=torch.full((99,), 88).int()),
    "expert_scales": Change(lambda place: {"expert_scales": random("w", place, TOKENS, K)}),
    "tp_send_counts": Change(fixed(tp_send_counts=None), error=True, tp=2),
    "tp_world_size": wrong(tp_world_size=3),
    "activation_scale": wrong(activation_scale=ANYTHING),
    "weight_scale": wrong(weight_scale=ANYTHING),
    "group_list": wrong(group_list=ANYTHING),
    "out_dtype": wrong(out_dtype=1),
    "group_list_type": wrong(group_list_type=1),
    "shared_expert_x": Change(
        lambda place: {"shared_expert_x": random("shared", place, TOKENS, H).bfloat16()}
    ),
    "global_bs": wrong(global_bs=E * TOKENS + 1),
    "comm_quant_mode": Change(fixed(comm_quant_mode=2)),
    "ori_x": constant("ori_x"),
    "const_expert_alpha_1": constant("const_expert_alpha_1"),
    "const_expert_alpha_2": constant("const_expert_alpha_2"),
    "const_expert_v": constant("const_expert_v"),
    "zero_expert_num": counted(zero_expert_num=2, const_expert_num=0),
    "copy_expert_num": counted(copy_expert_num=2, const_expert_num=0),
    "const_expert_num": wrong(const_expert_num=-1),
    "residual_x": Change(lambda place: {"residual_x": random("r", place, TOKENS, H).bfloat16()}),
    "gamma": Change(lambda place: {"gamma": random("g", 0, H).bfloat16()}),
    "norm_eps": Change(fixed(norm_eps=0.5)),
}
# Found by the tests below, or without an effect of this kind.
ELSEWHERE = {"group_ep", "performance_info", "expand_scales", "expand_idx"}


def table() -> list[Any]:
    rows = []
    for operator in (*DISPATCHES, DISPATCH_SETUP, *COMBINES):
        changes = COMBINE if operator in COMBINES else DISPATCH
        names = [a.name for a in getattr(torch.ops.waybill, operator).default._schema.arguments]
        for name in names:
            if name not in ELSEWHERE:
                mark = pytest.mark.covers(operator, name)
                short = operator.removeprefix(BASE)
                rows.append(
                    pytest.param(operator, name, changes[name], marks=mark, id=f"{short}-{name}")
                )
    return rows


@pytest.mark.parametrize(("operator", "name", "change"), table())
def test_parameter(local_groups_of: GroupsOf, operator: str, name: str, change: Change) -> None:
    tp = change.tp if name != "tp_world_size" else 1
    groups = local_groups_of(E) if tp == 1 else local_groups_of(2, 2)

    def changed(place: int) -> Arguments:
        return {**change.base(place), **change.own(place)}

    if change.error:
        both = change.base
        arguments = build(operator, both, change.own, tp)
        for error in run(groups, operator, arguments):
            assert isinstance(error, waybill.ArgumentError | waybill.StateError), error
            assert error.operator == operator
            assert error.argument == name or name in str(error)
        return
    usual = build(operator, change.base, fixed(), tp)
    arguments = build(operator, changed if change.both else change.base, change.own, tp)
    if operator not in COMBINES:
        arguments = [{**mine, **change.own(place)} for place, mine in enumerate(arguments)]
    before, want = oracle(operator, usual), oracle(operator, arguments)
    got = run(groups, operator, arguments)
    differs = []
    for place, result in enumerate(got):
        assert not isinstance(result, BaseException), result
        right = content(operator, arguments[place], want[place])
        assert same(content(operator, arguments[place], result), right)
        differs.append(not same(right, content(operator, usual[place], before[place])))
    assert any(differs), f"{name} has no effect in this test"


@pytest.mark.parametrize(
    "operator",
    [
        pytest.param(o, marks=pytest.mark.covers(o, "tp_world_size"))
        for o in (*DISPATCHES, *COMBINES)
    ],
)
def test_tp_world_size(local_groups_of: GroupsOf, operator: str) -> None:
    """2: rows of both TP ranks."""
    arguments = build(operator, fixed(), fixed(), 2)
    want = oracle(operator, arguments)
    for place, result in enumerate(run(local_groups_of(2, 2), operator, arguments)):
        assert not isinstance(result, BaseException), result
        right = content(operator, arguments[place], want[place])
        assert same(content(operator, arguments[place], result), right)


NUMBERED = (*DISPATCHES, DISPATCH_SETUP, *COMBINES)


@pytest.mark.parametrize(
    "operator", [pytest.param(o, marks=pytest.mark.covers(o, "group_ep")) for o in NUMBERED]
)
def test_group_ep(local_groups_of: GroupsOf, operator: str) -> None:
    arguments = build(operator, fixed(), fixed(group_ep="nobody"))
    for error in run(local_groups_of(E), operator, arguments):
        assert isinstance(error, waybill.StateError)
        assert error.operator == operator and "nobody" in str(error)


@pytest.mark.parametrize(
    "operator",
    [
        pytest.param(o, marks=pytest.mark.covers(o, "performance_info"))
        for o in (DISPATCHES[1], COMBINES[1])
    ],
)
def test_performance_info(local_groups_of: GroupsOf, operator: str) -> None:
    """Raised in place to what the call waited; a maximum with what is there."""
    large = 2**40
    infos = [torch.tensor([-5, large, -5]) for _ in range(E)]
    arguments = build(operator, fixed(), lambda place: {"performance_info": infos[place]})
    for result in run(local_groups_of(E), operator, arguments):
        assert not isinstance(result, BaseException), result
    for info in infos:
        assert info.dtype == torch.int64
        assert info[1] == large
        assert (info[[0, 2]] >= 0).all() and (info[[0, 2]] < 60_000_000).all()


@pytest.mark.parametrize(
    "operator", [pytest.param(o, marks=pytest.mark.covers(o, "expand_scales")) for o in COMBINES]
)
def test_expand_scales_is_not_read(local_groups_of: GroupsOf, operator: str) -> None:
    """It has a type all the same."""
    usual = build(operator, fixed(), fixed())
    given = build(operator, fixed(), fixed(expand_scales=torch.full((5,), torch.nan)))
    groups = local_groups_of(E)
    for place, result in enumerate(run(groups, operator, given)):
        assert not isinstance(result, BaseException), result
        want = content(operator, usual[place], oracle(operator, usual)[place])
        assert same(content(operator, given[place], result), want)
    for error in run(groups, operator, build(operator, fixed(), fixed(expand_scales="x"))):
        assert isinstance(error, waybill.ArgumentError) and error.argument == "expand_scales"


@pytest.mark.parametrize(
    "operator",
    [
        pytest.param(o, marks=pytest.mark.covers(o, "expand_idx"))
        for o in (COMBINES[0], COMBINES[2])
    ],
)
def test_expand_idx(local_groups_of: GroupsOf, operator: str) -> None:
    """An index that no row has is an error that names it. Each rank finds it for itself."""
    bad = fixed(expand_idx=torch.full((TOKENS * K,), 1000).int())
    groups = local_groups_of(E)
    for error in run(groups, operator, build(operator, fixed(), bad)):
        assert isinstance(error, waybill.ArgumentError) and error.argument == "expand_idx"
    groups.reset()
