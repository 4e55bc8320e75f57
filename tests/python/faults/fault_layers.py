"""The calls of the fault matrix and of the soak: one round of an operator with the oracle's answer.

Rounds differ in all their numbers, so a row of another round or another rank is a wrong row.
Every rank sends to every rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

import waybill
from case_draws import Draw
from cases import Case
from comparisons import compare_shapes
from fault_cases import BARRIER, COMBINE_SETUP, DISPATCH_SETUP, NORM
from forms import (
    BASE,
    Arguments,
    Outputs,
    compare_dispatches,
    compare_form,
    compare_teardown,
    expected_form,
    run_form,
)

K, LOCAL = 2, 2
VARIANTS = 3
Call = Callable[[str, Arguments], Any]
Report = Callable[[list[str]], None]


def form_of(operator: str) -> str:
    """Of cases.FORMS: which calls a round makes."""
    if operator in (DISPATCH_SETUP, COMBINE_SETUP):
        return "setup"
    return "v2+rms" if operator == NORM else "v2"


def elastic_info(members: Sequence[int], num_ranks: int) -> Tensor:
    """Calls among `members`; LOCAL experts on each."""
    new_of_old = [members.index(rank) if rank in members else -1 for rank in range(num_ranks)]
    old_of_new = [*members, *[-1] * (num_ranks - len(members))]
    head = [1, len(members), 0, LOCAL * len(members)]
    return torch.tensor([*head, *new_of_old, *old_of_new], dtype=torch.int32)


def make_case(
    form: str, num_ranks: int, members: Sequence[int], number: int, in_place: bool, hidden: int = 32
) -> Case:
    """A round among `members` of a group; `number` tells rounds apart."""
    draw = Draw(f"faults-{form}-{num_ranks}-{list(members)}-{number}-{hidden}")
    experts = LOCAL * len(members)
    bs = LOCAL * num_ranks + number % VARIANTS
    dispatch: list[dict[str, Tensor]] = [{} for _ in range(num_ranks)]
    combine: list[dict[str, Tensor]] = [{} for _ in range(num_ranks)]
    norm: list[dict[str, Tensor]] = [{} for _ in range(num_ranks)]
    for rank in members:
        first = torch.arange(bs, dtype=torch.int32)[:, None] + rank + number
        ids = (first + torch.arange(K, dtype=torch.int32)) % experts
        both = {"expert_ids": ids}
        if len(members) < num_ranks:
            both["elastic_info"] = elastic_info(members, num_ranks)
        dispatch[rank] = {"x": draw.bell(bs, hidden).bfloat16(), **both}
        combine[rank] = {"expert_scales": draw.bell(bs, K), **both}
        norm[rank] = {
            "residual_x": draw.bell(bs, 1, hidden).bfloat16(),
            "gamma": draw.bell(hidden).bfloat16(),
        }
    options = {"ep_world_size": num_ranks, "moe_expert_num": LOCAL * num_ranks}
    return Case(
        seed=number,
        features=f"faults-{num_ranks}-{len(members)}",
        form=form,
        dtype="bf16",
        tp=1,
        dispatch_options={
            **options,
            "shared_expert_rank_num": 0,
            "quant_mode": 0,
            "expert_token_nums_type": 1,
        },
        combine_options={**options, "shared_expert_rank_num": 0, "comm_quant_mode": 0},
        dispatch_tensors=dispatch,
        combine_tensors=combine,
        norm_tensors=norm,
        norm_options={"norm_eps": 1e-6},
        tags={"rows:buffer"} if in_place else set(),
    )


class Round(NamedTuple):
    """One turn of an operator: what all members call, and the number that picks its data."""

    operator: str
    num_ranks: int
    members: tuple[int, ...]
    number: int
    in_place: bool


@cache
def answer_of(
    form: str, num_ranks: int, members: tuple[int, ...], variant: int, in_place: bool
) -> tuple[Case, list[list[Any]]]:
    """A case and what the oracle says; asked for before processes are forked, so made once."""
    case = make_case(form, num_ranks, members, variant, in_place)
    return case, expected_form(case)


def prepare(operator: str, num_ranks: int, members: tuple[int, ...], in_place: bool) -> None:
    if operator != BARRIER:
        for variant in range(VARIANTS):
            answer_of(form_of(operator), num_ranks, members, variant, in_place)


def run_round(turn: Round, name: str, rank: int, call: Call, report: Report) -> None:
    """One round on one rank. `call` makes each call; `report` gets what differs, at once."""
    if turn.operator == BARRIER:
        return report(run_barrier(turn, name, call))
    case, want = answer_of(
        form_of(turn.operator),
        turn.num_ranks,
        turn.members,
        turn.number % VARIANTS,
        turn.in_place,
    )
    done: list[list[Tensor]] = []

    def make(operator: str, arguments: Arguments) -> Any:
        result = call(operator, arguments)
        done.append([result] if isinstance(result, Tensor) else list(result))
        if len(done) == 1 or operator.endswith("dispatch_teardown"):
            report(compare_so_far(case, rank, done, want))
        return result

    outputs = run_form(case, rank, {"group_ep": name, "ep_rank_id": rank}, make)
    return report(compare_form(case, rank, outputs, want))


def compare_so_far(
    case: Case, rank: int, done: list[list[Tensor]], want: list[list[Any]]
) -> list[str]:
    """Of a dispatch alone: the combine behind it may fail."""
    outputs = Outputs(done, [])
    if case.form != "setup":
        return compare_dispatches(case, rank, outputs, want)
    if len(done) == 1:
        return compare_shapes(done[0], want[0][rank], rank)
    return compare_shapes(done[1], want[1][rank], rank) or compare_teardown(
        case, rank, outputs, want
    )


def run_barrier(turn: Round, name: str, call: Call) -> list[str]:
    x = torch.full((3,), float(turn.number))
    arguments: Arguments = {"x_ref": x, "group": name, "world_size": turn.num_ranks}
    if len(turn.members) < turn.num_ranks:
        arguments["elastic_info"] = elastic_info(turn.members, turn.num_ranks)
    same = call(BARRIER, arguments) is x and bool((x == float(turn.number)).all())
    return [] if same else ["the barrier did not return its x_ref as it was"]


def make_call(operator: str, arguments: Arguments) -> Any:
    if operator == BARRIER:
        return waybill._npu_distribute_barrier(**arguments)
    return getattr(waybill, operator)(**arguments)


def short_name(operator: str) -> str:
    """As in fault_cases: without the family's prefix, a setup's name for its pair."""
    return operator.removeprefix(BASE).replace("_teardown", "_setup")
