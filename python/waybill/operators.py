"""The table of operators, and what torch has to know about each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch._ops import OpOverload
from torch.fx.node import has_side_effect

from . import _library  # noqa: F401 - registers the operators


@dataclass(frozen=True)
class Operator:
    """One operator of the contract, by its name in torch.ops.waybill."""

    name: str

    @property
    def ordered_name(self) -> str:
        """The form with a token, which waybill.* calls (bindings/torch/operators.h)."""
        return f"_ordered_{self.name}"

    @property
    def overload(self) -> OpOverload:
        return getattr(torch.ops.waybill, self.name).default

    @property
    def ordered(self) -> OpOverload:
        return getattr(torch.ops.waybill, self.ordered_name).default


DISPATCH_V2 = Operator("npu_moe_distribute_dispatch_v2")
COMBINE_V2 = Operator("npu_moe_distribute_combine_v2")

OPERATORS = (DISPATCH_V2, COMBINE_V2)

# Gradients are not computed: without this, outputs would claim to need one.
_autograd = torch.library.Library("waybill", "IMPL", "Autograd")


def register(operator: Operator) -> None:
    """Tells torch that the operator has no gradient, and must not be removed when unused."""
    for name in (operator.name, operator.ordered_name):
        _autograd.impl(name, torch.library.fallthrough_kernel)
    has_side_effect(operator.overload)
    has_side_effect(operator.ordered)
