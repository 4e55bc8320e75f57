"""Ranks of the newer operators and options whose calls do not fit together."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import waybill
from local_groups import LocalGroups
from parameter_cases import DISPATCHES, build, oracle, run, same
from parameter_cases import content as content_of

GroupsOf = Callable[..., LocalGroups]
Arguments = dict[str, Any]

BASE = "npu_moe_distribute_"
DISPATCH, COMBINE, NORM = f"{BASE}dispatch_v2", f"{BASE}combine_v2", f"{BASE}combine_add_rms_norm"
SETUP, TEARDOWN = f"{BASE}dispatch_setup", f"{BASE}dispatch_teardown"
COMBINE_SETUP, COMBINE_TEARDOWN = f"{BASE}combine_setup", f"{BASE}combine_teardown"
E, BS, K, H, M = 3, 4, 2, 8, 6


def int32(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def idle_arguments(operator: str) -> Arguments:
    """A call that is right by itself. No token of a combine takes part, so it needs no rows."""
    ids = torch.arange(K, dtype=torch.int32).repeat(BS, 1)
    common: Arguments = {"expert_ids": ids, "moe_expert_num": M, "ep_world_size": E}
    x = torch.ones(BS, H).bfloat16()
    if "dispatch" in operator:
        return {**common, "x": x}
    combine = {
        **common,
        "expand_x": torch.ones(1, H).bfloat16(),
        "ep_send_counts": torch.zeros(99, dtype=torch.int32),
        "expert_scales": torch.ones(BS, K),
        "x_active_mask": torch.zeros(BS, dtype=torch.bool),
    }
    if operator == COMBINE:
        return {**combine, "assist_info_for_combine": torch.zeros(0, dtype=torch.int32)}
    combine["expand_idx"] = torch.zeros(BS * K, dtype=torch.int32)
    if operator == NORM:
        combine |= {"residual_x": x, "gamma": x[0]}
    return combine


class Odd(NamedTuple):
    """What rank 1 has, and what the error says."""

    operator: str
    argument: str | None
    options: Arguments
    values: tuple[str, str]  # of the others, and of the odd one
    others: Arguments = {}  # noqa: RUF012 - never changed
    odd_operator: str | None = None


ORI = {"ori_x": torch.ones(BS, H).bfloat16()}
CONST = {
    **ORI,
    "const_expert_alpha_1": torch.ones(1).bfloat16(),
    "const_expert_alpha_2": torch.ones(1).bfloat16(),
    "const_expert_v": torch.ones(1, H).bfloat16(),
}
SAME = (1, E, 0, M, 0, 1, 2, 0, 1, 2)
SWAPPED = (1, E, 0, M, 0, 2, 1, 0, 2, 1)
TRIPLES = {"expand_idx": torch.zeros(BS * K + 1, dtype=torch.int32)}

TABLE = {
    **{
        f"{operator.removeprefix(BASE)}-{name}": Odd(
            operator, f"{name}_expert_num", {f"{name}_expert_num": 1, **extra}, ("0", "1")
        )
        for operator in (DISPATCH, COMBINE, NORM)
        for name, extra in (
            ("zero", {}),
            ("copy", ORI if operator != DISPATCH else {}),
            ("const", CONST if operator != DISPATCH else {}),
        )
    },
    **{
        f"{operator.removeprefix(BASE)}-elastic-none": Odd(
            operator, "elastic_info", {"elastic_info": int32(*SAME)}, ("", "")
        )
        for operator in (DISPATCH, COMBINE, NORM)
    },
    "elastic-flag": Odd(
        DISPATCH,
        "elastic_info",
        {"elastic_info": int32(*SAME)},
        ("", ""),
        {"elastic_info": int32(0, *SAME[1:])},
    ),
    "elastic-tables": Odd(
        DISPATCH,
        "elastic_info",
        {"elastic_info": int32(*SWAPPED)},
        ("", ""),
        {"elastic_info": int32(*SAME)},
    ),
    "norm-form": Odd(NORM, "expand_idx", TRIPLES, ("", "")),
    "norm-comm-quant": Odd(NORM, "comm_quant_mode", {"comm_quant_mode": 2}, ("0", "2")),
    "v1-hidden": Odd(f"{BASE}dispatch", "x", {"x": torch.ones(BS, 16).bfloat16()}, ("8", "16")),
    "v1-quant": Odd(f"{BASE}dispatch", "quant_mode", {"quant_mode": 2}, ("0", "2")),
    "v1-v2": Odd(DISPATCH, None, {}, (DISPATCH, f"{BASE}dispatch"), odd_operator=f"{BASE}dispatch"),
    "combine-v1-v2": Odd(
        COMBINE, None, {}, (COMBINE, f"{BASE}combine"), odd_operator=f"{BASE}combine"
    ),
    "combine-norm": Odd(COMBINE, None, {}, (COMBINE, NORM), odd_operator=NORM),
}


def check_works(groups: LocalGroups) -> None:
    arguments = build(DISPATCHES[1], lambda place: {}, lambda place: {})
    want = oracle(DISPATCHES[1], arguments)
    for place, result in enumerate(run(groups, DISPATCHES[1], arguments)):
        assert not isinstance(result, BaseException), result
        right = content_of(DISPATCHES[1], arguments[place], want[place])
        assert same(content_of(DISPATCHES[1], arguments[place], result), right)


@pytest.mark.parametrize("name", TABLE)
def test_one_of_three_differs(local_groups_of: GroupsOf, name: str) -> None:
    odd = TABLE[name]
    groups = local_groups_of(E)

    def call(place: int) -> Any:
        operator = (odd.odd_operator if place == 1 else None) or odd.operator
        options = odd.options if place == 1 else odd.others
        arguments = {**idle_arguments(operator), **groups.where(place), **options}
        return getattr(waybill, operator)(**arguments)

    for error in groups.outcomes(call):
        assert isinstance(error, waybill.MismatchError), error
        assert (error.argument, error.ranks) == (odd.argument, [1])
        text = str(error)
        assert "expected" in text and "got" in text and "on rank 1" in text
        assert all(value in text for value in odd.values)
        assert odd.argument is None or f"argument {odd.argument}" in text
        out_of_step = odd.argument in (None, "expand_idx")
        assert ("out of step" in text) == out_of_step
    if out_of_step:
        groups.reset()
    check_works(groups)


TEARDOWN_OF = {SETUP: TEARDOWN, COMBINE_SETUP: COMBINE_TEARDOWN}
IN_SETUP = {
    "hidden": ("x", {"x": torch.ones(BS, 16).bfloat16()}),
    "topk": ("expert_ids", {"expert_ids": torch.zeros(BS, 3, dtype=torch.int32)}),
    "experts": ("moe_expert_num", {"moe_expert_num": 2 * M}),
    "quant": ("quant_mode", {"quant_mode": 2}),
    "bs": ("global_bs", {"global_bs": E * (BS + 1)}),
}


@pytest.mark.parametrize("name", IN_SETUP)
def test_setups_differ(local_groups_of: GroupsOf, name: str) -> None:
    """The set-ups pass, the teardowns raise on all ranks; then the pair is closed."""
    argument, change = IN_SETUP[name]
    groups = local_groups_of(E)

    def call(place: int) -> Any:
        own = {**idle_arguments(SETUP), **groups.where(place), **(change if place == 1 else {})}
        if name == "topk" and place == 1:
            own["expert_ids"] = torch.arange(3, dtype=torch.int32).repeat(BS, 1)
        y, _, commands = waybill.npu_moe_distribute_dispatch_setup(**own)
        with pytest.raises(waybill.MismatchError) as caught:
            waybill.npu_moe_distribute_dispatch_teardown(y=y, comm_cmd_info=commands, **own)
        assert (caught.value.argument, caught.value.ranks) == (argument, [1])
        return None

    groups.run(call)
    check_works(groups)


@pytest.mark.parametrize("other", [DISPATCH, f"{BASE}dispatch", "_npu_distribute_barrier"])
def test_setup_beside_another_operator(local_groups_of: GroupsOf, other: str) -> None:
    groups = local_groups_of(E)

    def call(place: int) -> Any:
        if place != 1:
            own = {**idle_arguments(SETUP), **groups.where(place)}
            y, _, commands = waybill.npu_moe_distribute_dispatch_setup(**own)
            return waybill.npu_moe_distribute_dispatch_teardown(y=y, comm_cmd_info=commands, **own)
        if other.startswith("_"):
            return waybill._npu_distribute_barrier(torch.ones(1), groups.name(place), E)
        return getattr(waybill, other)(**{**idle_arguments(other), **groups.where(place)})

    for error in groups.outcomes(call):
        assert isinstance(error, waybill.MismatchError), error
        assert (error.argument, error.ranks) == (None, [1])
        assert other in str(error) and SETUP in str(error)
    groups.reset()
    check_works(groups)


TP_ODD: dict[str, tuple[str, Arguments]] = {
    "hidden": ("x", {"x": torch.ones(BS, 16).bfloat16()}),
    "dtype": ("x", {"x": torch.ones(BS, H).half()}),
    "quant": ("quant_mode", {"quant_mode": 2}),
    "global_bs": ("global_bs", {"global_bs": 2 * BS + 2}),
    "none": ("tp_world_size", {"tp_world_size": 1}),
}


@pytest.mark.parametrize("name", TP_ODD)
@pytest.mark.parametrize("whole_group", [True, False])
def test_tp_peers_differ(name: str, whole_group: bool) -> None:
    """One EP group of the two has something else; or one rank of one of them has. Nobody hangs,
    nobody gets rows, and after a reset where one is asked for work goes on.
    """
    argument, change = TP_ODD[name]
    groups = LocalGroups(2, 2, timeout=5)
    odd = (1, 3) if whole_group else (1,)

    def call(place: int, options: Arguments) -> Any:
        ids = torch.arange(K, dtype=torch.int32).repeat(BS, 1)
        common: Arguments = {"moe_expert_num": 2, "ep_world_size": 2, "tp_world_size": 2}
        x = torch.ones(BS, H).bfloat16()
        return waybill.npu_moe_distribute_dispatch_v2(
            **{"x": x, "expert_ids": ids, **common, **groups.where(place), **options}
        )

    outcomes = groups.outcomes(lambda place: call(place, change if place in odd else {}))
    alone = whole_group and name in ("none",)
    named = []
    for place, error in enumerate(outcomes):
        if alone and place in odd and not isinstance(error, BaseException):
            continue  # without TP its call is complete
        assert isinstance(error, waybill.WaybillError), (place, error)
        named.append(error.argument)
    assert argument in named or name == "none"
    for own in groups.ep_names:
        reset_all(own)
    for own in groups.tp_names:
        reset_all(own)
    for result in groups.outcomes(lambda place: call(place, {})):
        assert not isinstance(result, BaseException), result
    groups.close()


def reset_all(names: list[str]) -> None:
    with ThreadPoolExecutor(len(names)) as executor:
        list(executor.map(waybill.reset, names))
