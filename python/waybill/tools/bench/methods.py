"""The ways to move the rows of a layer that are measured beside each other."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from ... import groups, ops
from ..workload.settings import PHASES
from .gloo import GlooExchange
from .layer import Layer, check_sums
from .ranks import RankContext


class Method:
    """One way. `dispatch` and `combine` are timed; nothing else is."""

    phases: tuple[str, ...] = PHASES
    exact = True
    quantised = False
    sums: Tensor | None = None
    rows: Tensor | None = None
    scales: Tensor | None = None

    def __init__(self, name: str, layer: Layer) -> None:
        self.name = name
        self.layer = layer
        self.expected = layer.expected_sums() if "combine" in self.phases else None

    def dispatch(self) -> None:
        raise NotImplementedError

    def combine(self) -> None:
        raise NotImplementedError

    def check(self, rows_too: bool) -> None:
        """Raises WrongResult when the last results are wrong."""
        layer = self.layer
        if rows_too and "dispatch" in self.phases:
            assert self.rows is not None
            layer.check_rows(self.name, self.rows, self.scales, self.quantised)
        if "combine" in self.phases:
            assert self.sums is not None and self.expected is not None
            check_sums(self.name, layer.rank, self.sums, self.expected, self.exact)

    def forget(self) -> None:
        """Drops results, as a model does between two layers."""
        self.rows = self.scales = self.sums = None


class Operators(Method):
    """Rows stay where dispatch put them; with quant 2 they come from an expert_buffer."""

    def __init__(self, name: str, layer: Layer, group: str) -> None:
        super().__init__(name, layer)
        case = layer.case
        self.quantised = case.quant == 2
        self.group = group
        self.common = (group, case.ranks, layer.rank, case.experts)
        self.returned: Tensor | None = None
        if self.quantised:
            rows = layer.num_rows
            self.returned = groups.expert_buffer(group, rows, case.hidden, case.torch_dtype)
            self.returned.copy_(layer.expert_rows(layer.tokens))

    def dispatch(self) -> None:
        self.rows, self.scales, self.assist, _, self.counts, _, _ = (
            ops.npu_moe_distribute_dispatch_v2(
                self.layer.x,
                self.layer.ids,
                *self.common,
                quant_mode=2 if self.quantised else 0,
            )
        )

    def combine(self) -> None:
        rows = self.rows if self.returned is None else self.returned
        assert rows is not None
        self.sums = ops.npu_moe_distribute_combine_v2(
            rows, self.layer.ids, self.assist, self.counts, self.layer.weights, *self.common
        )


class PrivateRows(Operators):
    """combine of rows that lie in memory of this rank alone."""

    phases = ("combine",)

    def __init__(self, name: str, layer: Layer, group: str) -> None:
        super().__init__(name, layer, group)
        self.dispatch()
        self.returned = layer.expert_rows(layer.tokens)


class Int8(Operators):
    """dispatch of rows as int8, quant_mode 2."""

    phases = ("dispatch",)

    def __init__(self, name: str, layer: Layer, group: str) -> None:
        super().__init__(name, layer, group)
        self.quantised = True


class Gloo(Method):
    """By hand over torch.distributed; rows are not quantised."""

    exact = False

    def __init__(self, name: str, layer: Layer) -> None:
        super().__init__(name, layer)
        self.exchange = GlooExchange(layer.case)
        self.quantised_return = layer.expert_rows(layer.tokens) if layer.case.quant else None

    def dispatch(self) -> None:
        self.rows = self.exchange.dispatch(self.layer.x, self.layer.ids)

    def combine(self) -> None:
        rows = self.rows if self.quantised_return is None else self.quantised_return
        assert rows is not None
        self.sums = self.exchange.combine(rows, self.layer.weights)


class Copy(Method):
    """As many bytes as a rank gets, copied once from memory that the ranks share."""

    def __init__(self, name: str, layer: Layer) -> None:
        super().__init__(name, layer)
        case = layer.case
        most = max(layer.num_rows, case.bs * case.topk)
        self.target = torch.zeros((most, case.hidden), dtype=case.torch_dtype)

    def dispatch(self) -> None:
        self._copy(self.layer.num_rows)

    def combine(self) -> None:
        self._copy(self.layer.case.bs * self.layer.case.topk)

    def _copy(self, rows: int) -> None:
        source = self.layer.all_x
        for begin in range(0, rows, len(source)):
            count = min(len(source), rows - begin)
            self.target[begin : begin + count].copy_(source[:count])

    def check(self, rows_too: bool) -> None:
        del rows_too  # a copy has no result


NAMES = ("operators", "gloo", "checked", "private", "int8", "copy")


def make_methods(own: RankContext, layer: Layer, names: tuple[str, ...]) -> dict[str, Method]:
    """Collective. Those of `names` that differ from one another in this case."""
    group = own.connect("operators")
    made: dict[str, Method] = {}
    for name in names:
        if name == "operators":
            made[name] = Operators(name, layer, group)
        elif name == "gloo":
            made[name] = Gloo(name, layer)
        elif name == "checked":
            made[name] = Operators(name, layer, checked_group(own))
        elif name == "private":
            made[name] = PrivateRows(name, layer, group)
        elif name == "int8" and layer.case.quant == 0:
            made[name] = Int8(name, layer, group)
        elif name == "copy":
            made[name] = Copy(name, layer)
    return made


def checked_group(own: RankContext) -> str:
    """A second group of the same ranks, in checked mode."""
    os.environ["WAYBILL_CHECK"] = "1"
    try:
        return own.connect("checked")
    finally:
        del os.environ["WAYBILL_CHECK"]
