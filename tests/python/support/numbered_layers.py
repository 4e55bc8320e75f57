"""Layers whose values carry the layer's number: a row of another layer is seen wherever it arrives.

`Layer(form, num_ranks, number).run(where)` makes all calls of one rank and checks what each of them
returns. All ranks know what every rank sends, so nothing else has to be compared.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import waybill
from forms import BASE, names_of
from waybill import groups

FORMS = ("v2", "v1", "setup", "v2+rms", "v1+rms")
WIDTH = 8  # more than the ranks, so that numbers of layers and ranks do not meet
NUMBERS = 30  # that bfloat16 holds exactly, with a rank beside each
FACTOR = 2.0  # what experts multiply rows by

Arguments = dict[str, Any]
Before = Callable[[str], None]


class WrongValues(AssertionError):
    """A call returned what is not of its layer."""


def nothing(operator: str) -> None:
    pass


@dataclass(frozen=True)
class Layer:
    """One layer, the same on all ranks. `towards`: the rank whose experts get all rows."""

    form: str
    num_ranks: int
    number: int
    bs: int = 3
    hidden: int = 16
    global_bs: int = 0
    towards: int | None = None
    local: int = 2  # experts of a rank, and choices of a token; 1 with TP = 2

    def value(self, rank: int) -> float:
        return float((1 + self.number % NUMBERS) * WIDTH + rank)

    def x(self, rank: int) -> Tensor:
        return torch.full((self.bs, self.hidden), self.value(rank)).bfloat16()

    def ids(self, rank: int) -> Tensor:
        tokens = torch.arange(self.bs, dtype=torch.int32)[:, None]
        choices = torch.arange(self.local, dtype=torch.int32)
        if self.towards is not None:
            return self.towards * self.local + (tokens + choices) % self.local
        return (tokens + rank + self.number + self.local * choices) % (self.local * self.num_ranks)

    def rows(self, rank: int) -> Tensor:
        """(n,) what stands in the rows that a rank receives, by local expert and source."""
        found = []
        for expert in range(rank * self.local, (rank + 1) * self.local):
            for source in range(self.num_ranks):
                count = int((self.ids(source) == expert).sum())
                found.append(torch.full((count,), self.value(source)))
        return torch.cat(found)

    def common(self, where: Arguments) -> Arguments:
        return {
            **where,
            "expert_ids": self.ids(where["ep_rank_id"]),
            "moe_expert_num": self.local * self.num_ranks,
            "global_bs": self.global_bs,
        }

    def weights(self) -> Tensor:
        return torch.full((self.bs, self.local), 1 / self.local)

    def dispatch(self, where: Arguments, before: Before = nothing) -> list[Tensor]:
        """Outputs of dispatch; with set-ups those of its teardown, and expand_idx behind them."""
        rank = where["ep_rank_id"]
        given = {**self.common(where), "x": self.x(rank)}
        if self.form == "setup":
            setup = make(f"{BASE}dispatch_setup", given, before)
            given |= {"y": setup[0], "comm_cmd_info": setup[2]}
            outputs = [*make(f"{BASE}dispatch_teardown", given, before), setup[1]]
        else:
            outputs = list(make(names_of(self.form)[0], given, before))
        want = self.rows(rank).repeat(where.get("tp_world_size", 1))
        self.check("dispatch", rank, outputs[0][: len(want)], want)
        return outputs

    def experts(self, rank: int, outputs: list[Tensor], times: int = 1) -> Tensor:
        """By turns in place, where peers then read the rows, and in other memory."""
        rows = outputs[0][: len(self.rows(rank)) * times]
        return rows.mul_(FACTOR) if self.number % 2 else rows * FACTOR

    def combine(
        self, where: Arguments, rows: Tensor, outputs: list[Tensor], before: Before = nothing
    ) -> None:
        rank = where["ep_rank_id"]
        given = {**self.common(where), "expand_x": rows}
        weights = {"expert_scales": self.weights()}
        residual = torch.zeros(self.bs, self.hidden).bfloat16()
        if self.form == "setup":
            own = {**given, "assist_info_for_combine": outputs[2]}
            setup = make(f"{BASE}combine_setup", own, before)
            given |= {
                **weights,
                "quant_expand_x": setup[0],
                "comm_cmd_info": setup[1],
                "expand_idx": outputs[-1],
            }
            result = make(f"{BASE}combine_teardown", given, before)
        else:
            operator = names_of(self.form)[1]
            place = "assist_info_for_combine" if operator.endswith("_v2") else "expand_idx"
            given |= {**weights, place: outputs[2], "ep_send_counts": outputs[4]}
            if "group_tp" in where:
                given["tp_send_counts"] = outputs[5]
            if "rms" in self.form:
                given |= {"residual_x": residual, "gamma": torch.ones(self.hidden).bfloat16()}
            result = make(operator, given, before)
            if "rms" in self.form:
                result = result[2].view(self.bs, self.hidden)  # what is normalised
        times = where.get("tp_world_size", 1) * FACTOR
        self.check("combine", rank, result, torch.full((self.bs,), times * self.value(rank)))

    def run(self, where: Arguments, before: Before = nothing) -> list[Tensor]:
        """All calls of one rank. `before` is called with the name of each call before it, and with
        "experts" between dispatch and combine. Returns the outputs of dispatch.
        """
        outputs = self.dispatch(where, before)
        before("experts")
        rows = self.experts(where["ep_rank_id"], outputs, where.get("tp_world_size", 1))
        self.combine(where, rows, outputs, before)
        return outputs

    def check(self, what: str, rank: int, got: Tensor, want: Tensor) -> None:
        right = want[:, None].bfloat16()
        if got.shape[0] != len(want) or not bool((got == right).all()):
            raise WrongValues(
                f"{what} of layer {self.number} ({self.form}) on rank {rank}: got "
                f"{got[:8, 0].tolist()}, right is {want[:8].tolist()}"
            )


def make(operator: str, arguments: Arguments, before: Before) -> Any:
    before(operator.removeprefix(BASE))
    known = OPTIONS_OF[operator]
    return getattr(waybill, operator)(**{k: v for k, v in arguments.items() if k in known})


def options_of(operator: str) -> frozenset[str]:
    schema = getattr(torch.ops.waybill, operator).default._schema
    return frozenset(argument.name for argument in schema.arguments)


OPTIONS_OF = {
    f"{BASE}{name}": options_of(f"{BASE}{name}")
    for name in (
        "dispatch_v2",
        "combine_v2",
        "dispatch",
        "combine",
        "combine_add_rms_norm",
        "dispatch_setup",
        "dispatch_teardown",
        "combine_setup",
        "combine_teardown",
    )
}


def allow_memory(more: int | None) -> None:
    """How many bytes windows and pools of this process may reserve beside those that they have;
    None: as many as there are. WAYBILL_MAX_MEMORY is read whenever a group is made, so this makes
    one of a single rank, whether it gets its memory or not.
    """
    if more is None:
        os.environ.pop("WAYBILL_MAX_MEMORY", None)
        make_group()
        return
    os.environ["WAYBILL_MAX_MEMORY"] = "1"
    reserved = re.search(r"\((\d+) reserved by Waybill", make_group())
    assert reserved is not None
    os.environ["WAYBILL_MAX_MEMORY"] = str(int(reserved[1]) + more)
    make_group()


def make_group() -> str:
    """Why a group could not be made."""
    try:
        groups.connect_local(["reads-max-memory"], timeout=1.0, threads=1)
    except waybill.WaybillError as error:
        return str(error)
    waybill.release("reads-max-memory", timeout=1.0)
    return ""
