"""Strict modes: each limit of the vendor's products (docs/strict.md, "Limits"), a call inside
it and one outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch

import waybill
from local_groups import LocalGroups

BASE = "npu_moe_distribute_"
DISPATCH, COMBINE, NORM = f"{BASE}dispatch_v2", f"{BASE}combine_v2", f"{BASE}combine_add_rms_norm"
SETUP = f"{BASE}dispatch_setup"
LEAST_H = 1024  # of a3

GroupsOf = Callable[..., LocalGroups]
Arguments = dict[str, Any]


class Line(NamedTuple):
    """One limit. Sizes are keywords of `arguments`; `argument` is what the error names."""

    operator: str
    inside: Arguments
    outside: Arguments
    argument: str
    ranks: int = 2


def shapes_of(place: int, sizes: Arguments) -> tuple[Arguments, Arguments]:
    """Arguments that all operators have, and the sizes that remain, with defaults."""
    own = {"bs": 2, "k": 2, "h": LEAST_H, "m": 8, "ids": "distinct", "mask": None, **sizes}
    bs, k, m = (own.pop(name) for name in ("bs", "k", "m"))
    ids = torch.arange(k).repeat(bs, 1).remainder(max(m, 1)).int()
    if own.pop("ids") == "equal":
        ids.fill_(0)
    common = {"expert_ids": ids, "moe_expert_num": m}
    mask = own.pop("mask")
    if mask is not None:
        common["x_active_mask"] = torch.tensor(mask)
    return common, own


def arguments(operator: str, place: int, num_ranks: int, sizes: Arguments) -> Arguments:
    """A call that is right but for strict modes. Where `idle`, combine has no rows to bring."""
    common, own = shapes_of(place, sizes)
    bs, k = common["expert_ids"].shape
    hidden = own.pop("h")
    common["ep_world_size"] = num_ranks
    if operator in (DISPATCH, f"{BASE}dispatch"):
        if own.pop("weighted", False):
            common["expert_scales"] = torch.ones(bs, k)
        return {**common, "x": torch.ones(bs, hidden).bfloat16(), **own}
    if operator == SETUP:
        return {**common, "x": torch.ones(bs, hidden).bfloat16(), **own}
    common.setdefault("x_active_mask", torch.zeros(bs, dtype=torch.bool))
    combine = {
        **common,
        "expand_x": torch.ones(1, hidden).bfloat16(),
        "ep_send_counts": torch.zeros(num_ranks * 1024, dtype=torch.int32),
        "expert_scales": torch.ones(bs, k),
    }
    if operator == COMBINE:
        return {**combine, "assist_info_for_combine": torch.zeros(0, dtype=torch.int32), **own}
    rows = torch.ones(bs, hidden).bfloat16()
    return {
        **combine,
        "expand_idx": torch.zeros(bs * k, dtype=torch.int32),
        "residual_x": rows,
        "gamma": torch.ones(hidden).bfloat16(),
        **own,
    }


def int32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


NO_CHANGE = int32(1, 2, 0, 8, 0, 1, 0, 1)
TRUES_FIRST, FALSE_FIRST = [True, False], [False, True]

A3 = {
    "E": Line(DISPATCH, {}, {}, "ep_world_size", ranks=1),
    "BS": Line(DISPATCH, {"bs": 512}, {"bs": 513}, "expert_ids"),
    "BS-0": Line(DISPATCH, {"bs": 1}, {"bs": 0}, "expert_ids"),
    "H-least": Line(DISPATCH, {"h": 1024}, {"h": 1023}, "x"),
    "H-most": Line(DISPATCH, {"h": 8192}, {"h": 8193}, "x"),
    "H-combine": Line(COMBINE, {"h": 8192}, {"h": 8224}, "expand_x"),
    "H-norm": Line(NORM, {"h": 7168}, {"h": 7200}, "expand_x"),
    "H-norm-multiple": Line(NORM, {"h": 1056}, {"h": 1040}, "expand_x"),
    "K": Line(DISPATCH, {"k": 16, "m": 20}, {"k": 17, "m": 20}, "expert_ids"),
    "K-norm": Line(NORM, {"k": 8, "m": 20}, {"k": 9, "m": 20}, "expert_ids"),
    "K-M": Line(COMBINE, {"k": 4, "m": 4}, {"k": 5, "m": 4}, "expert_ids"),
    "distinct": Line(DISPATCH, {}, {"ids": "equal"}, "expert_ids"),
    "distinct-combine": Line(
        COMBINE, {"ids": "equal"}, {"ids": "equal", "mask": TRUES_FIRST}, "expert_ids"
    ),
    "M": Line(DISPATCH, {"m": 1024}, {"m": 1026}, "moe_expert_num"),
    "M-norm": Line(NORM, {"m": 512}, {"m": 514}, "moe_expert_num"),
    "M-setup": Line(SETUP, {"m": 512}, {"m": 514}, "moe_expert_num"),
    "S": Line(
        DISPATCH,
        {"shared_expert_num": 4, "shared_expert_rank_num": 4},
        {"shared_expert_num": 5, "shared_expert_rank_num": 5},
        "shared_expert_num",
        ranks=6,
    ),
    "mask": Line(DISPATCH, {"mask": TRUES_FIRST}, {"mask": FALSE_FIRST}, "x_active_mask"),
    "mask-setup": Line(SETUP, {"mask": TRUES_FIRST}, {"mask": FALSE_FIRST}, "x_active_mask"),
    "mask-unequal": Line(
        DISPATCH, {"global_bs": 8}, {"global_bs": 8, "mask": TRUES_FIRST}, "x_active_mask"
    ),
    "weights": Line(DISPATCH, {}, {"weighted": True}, "expert_scales"),
    "weights-v1": Line(f"{BASE}dispatch", {}, {"weighted": True}, "expert_scales"),
    "comm_alg": Line(DISPATCH, {}, {"comm_alg": "fullmesh"}, "comm_alg"),
    "comm_alg-combine": Line(COMBINE, {}, {"comm_alg": "hierarchy"}, "comm_alg"),
    "comm_type": Line(SETUP, {}, {"comm_type": 2}, "comm_type"),
    "SR-setup": Line(
        SETUP,
        {"shared_expert_rank_num": 1},
        {"shared_expert_rank_num": 2},
        "shared_expert_rank_num",
        ranks=3,
    ),
    "window": Line(
        DISPATCH,
        {"m": 64, "global_bs": 1024},
        {"m": 128, "global_bs": 1024},
        "HCCL_BUFFSIZE",
    ),
    "window-combine": Line(COMBINE, {"m": 64, "bs": 512}, {"m": 128, "bs": 512}, "HCCL_BUFFSIZE"),
}
WEIGHTED = {"weighted": True, "h": 32, "m": 16}
A2 = {
    "E": Line(DISPATCH, WEIGHTED, WEIGHTED, "ep_world_size", ranks=2),
    "BS": Line(DISPATCH, {"bs": 256}, {"bs": 257}, "expert_ids"),
    "BS-0": Line(DISPATCH, {"bs": 1}, {"bs": 0}, "expert_ids"),
    "H": Line(DISPATCH, {"h": 7168}, {"h": 7200}, "x"),
    "H-multiple": Line(DISPATCH, {"h": 64}, {"h": 48}, "x"),
    "K": Line(DISPATCH, {"k": 16, "m": 32}, {"k": 17, "m": 32}, "expert_ids"),
    "distinct": Line(DISPATCH, {}, {"ids": "equal"}, "expert_ids"),
    "L": Line(DISPATCH, {"m": 384}, {"m": 400}, "moe_expert_num"),
    "L-hierarchy": Line(
        DISPATCH,
        {"m": 400, "comm_alg": "hierarchy"},
        {"m": 400, "comm_alg": "fullmesh"},
        "moe_expert_num",
    ),
    "M": Line(
        DISPATCH,
        {"m": 1024, "comm_alg": "hierarchy"},
        {"m": 1040, "comm_alg": "hierarchy"},
        "moe_expert_num",
    ),
    "shared": Line(DISPATCH, {}, {"shared_expert_rank_num": 1, "m": 15}, "shared_expert_rank_num"),
    "mask": Line(DISPATCH, {}, {"mask": [True, True]}, "x_active_mask"),
    "mask-combine": Line(COMBINE, {}, {"mask": [True, True]}, "x_active_mask"),
    "zero": Line(DISPATCH, {}, {"zero_expert_num": 1}, "zero_expert_num"),
    "copy": Line(DISPATCH, {}, {"copy_expert_num": 1}, "copy_expert_num"),
    "const": Line(DISPATCH, {}, {"const_expert_num": 1}, "const_expert_num"),
    "elastic": Line(
        DISPATCH, {}, {"elastic_info": torch.zeros(36, dtype=torch.int32)}, "elastic_info"
    ),
    "weights": Line(DISPATCH, {}, {"weighted": False}, "expert_scales"),
    "weights-v1": Line(f"{BASE}dispatch", {}, {"weighted": False}, "expert_scales"),
    "comm_alg": Line(DISPATCH, {"comm_alg": "hierarchy"}, {"comm_alg": "fullmesh_v1"}, "comm_alg"),
    "setup": Line(SETUP, {}, {}, "strict"),
    "window": Line(
        DISPATCH,
        {"k": 1, "bs": 128, "h": 7168, "m": 32},
        {"k": 2, "bs": 256, "h": 7168, "m": 32},
        "HCCL_BUFFSIZE",
    ),
    "window-hierarchy": Line(
        DISPATCH,
        {"bs": 16, "h": 512, "m": 1024, "comm_alg": "hierarchy"},
        {"bs": 128, "h": 1024, "m": 1024, "comm_alg": "hierarchy"},
        "HCCL_BUFFSIZE",
    ),
}


@pytest.fixture(scope="module")
def strict_groups() -> Iterator[GroupsOf]:
    kept: dict[tuple[int, str], LocalGroups] = {}

    def get(num_ranks: int, mode: str) -> LocalGroups:
        if (num_ranks, mode) not in kept:
            kept[num_ranks, mode] = LocalGroups(num_ranks, strict=mode)
        return kept[num_ranks, mode]

    yield get
    for groups in kept.values():
        groups.close()


def make(groups: LocalGroups, operator: str, sizes: Arguments) -> list[Any]:
    def run(place: int) -> None:
        own = {**arguments(operator, place, groups.num_ranks, sizes), **groups.where(place)}
        results = getattr(waybill, operator)(**own)
        if operator == SETUP:
            y, _, commands = results
            for name in ("scales", "x_active_mask"):
                own.pop(name, None)
            waybill.npu_moe_distribute_dispatch_teardown(y=y, comm_cmd_info=commands, **own)

    return groups.outcomes(run)


def check_outside(outcomes: list[Any], line: Line, mode: str) -> None:
    for error in outcomes:
        assert isinstance(error, waybill.ArgumentError), error
        assert (error.operator, error.argument) == (line.operator, line.argument)
        assert "strict" in str(error), str(error)
        assert mode in str(error) or error.argument == "comm_type"


@pytest.mark.parametrize("name", A3)
def test_a3(strict_groups: GroupsOf, name: str) -> None:
    line = A3[name]
    groups = strict_groups(line.ranks, "a3")
    if name == "E":
        inside = make(strict_groups(2, "a3"), line.operator, line.inside)
        assert inside == [None, None]
    else:
        assert make(groups, line.operator, line.inside) == [None] * line.ranks
    check_outside(make(groups, line.operator, line.outside), line, "a3")


def test_a3_has_special_experts_and_elastic_info(strict_groups: GroupsOf) -> None:
    groups = strict_groups(2, "a3")
    for options in (
        {"zero_expert_num": 1, "copy_expert_num": 1, "const_expert_num": 1},
        {"elastic_info": NO_CHANGE},
        {"tp_world_size": 1},
        {"mask": [[True, False], [False, True]]},
        {"quant_mode": 2},
    ):
        assert make(groups, DISPATCH, options) == [None, None]


@pytest.mark.parametrize("name", A2)
def test_a2(strict_groups: GroupsOf, name: str) -> None:
    line = A2[name]
    if name == "E":
        assert make(strict_groups(16, "a2"), DISPATCH, line.inside) == [None] * 16
        groups = strict_groups(2, "a2")
        check_outside(make(groups, DISPATCH, line.outside), line, "a2")
        return
    groups = strict_groups(16, "a2")
    is_dispatch = line.operator in (DISPATCH, f"{BASE}dispatch")
    sizes = WEIGHTED if is_dispatch else {"h": 32, "m": 16}
    if is_dispatch:
        assert make(groups, line.operator, {**sizes, **line.inside}) == [None] * 16
    check_outside(make(groups, line.operator, {**sizes, **line.outside}), line, "a2")


def test_a2_round_trip(strict_groups: GroupsOf) -> None:
    """Combine's own lines: no shared_expert_x, and no mask either."""
    groups = strict_groups(16, "a2")

    def run(place: int) -> tuple[torch.Tensor, BaseException | None]:
        own = {**arguments(DISPATCH, place, 16, WEIGHTED), **groups.where(place)}
        rows, _, triples, _, counts, _, _ = waybill.npu_moe_distribute_dispatch_v2(**own)
        weights, x = own["expert_scales"], own.pop("x")
        combine = waybill.npu_moe_distribute_combine_v2
        combined = combine(rows, assist_info_for_combine=triples, ep_send_counts=counts, **own)
        error = None
        try:
            combine(
                rows,
                assist_info_for_combine=triples,
                ep_send_counts=counts,
                shared_expert_x=x,
                **own,
            )
        except waybill.ArgumentError as raised:
            error = raised
        assert torch.equal(combined, x * weights.sum(1, keepdim=True).bfloat16())
        return combined, error

    for _, error in groups.run(run):
        assert isinstance(error, waybill.ArgumentError)
        assert error.argument == "shared_expert_x"


def test_without_strict_there_are_no_limits(local_groups_of: GroupsOf) -> None:
    groups = local_groups_of(2)
    for line in A3.values():
        if line.ranks == 2 and line.operator in (DISPATCH, NORM, COMBINE):
            sizes = {**line.outside}
            if line.argument == "HCCL_BUFFSIZE":
                continue
            if sizes.get("ids") == "equal" and line.operator == COMBINE:
                continue  # its rows would have to come from somewhere
            assert make(groups, line.operator, sizes) == [None, None], line


def test_environment_of_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAYBILL_STRICT", "a3")
    groups = LocalGroups(2)
    outcomes = make(groups, DISPATCH, {"h": 64})
    check_outside(outcomes, Line(DISPATCH, {}, {}, "x"), "a3")
    groups.close()


def test_unknown_modes() -> None:
    with pytest.raises(waybill.ArgumentError) as caught:
        LocalGroups(1, strict="a4")
    assert caught.value.argument == "strict"
