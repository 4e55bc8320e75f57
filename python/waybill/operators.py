"""The table of operators, and what torch has to know about each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    def plain_name(self) -> str:
        """The form that writes to no argument, which compilers get in place of the public one."""
        return f"_plain_{self.name}"

    @property
    def plain(self) -> OpOverload:
        return getattr(torch.ops.waybill, self.plain_name).default

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
    for name in (operator.name, operator.ordered_name, operator.plain_name):
        _autograd.impl(name, torch.library.fallthrough_kernel)
    for overload in (operator.overload, operator.ordered, operator.plain):
        has_side_effect(overload)
    _compile_as_plain(operator)


def _compile_as_plain(operator: Operator) -> None:
    """Inductor (2.13) cannot compile a single result beside an absent Tensor(a!)? argument."""

    @operator.overload.py_functionalize_impl
    def functionalize(context: Any, *arguments: Any, **options: Any) -> Any:
        absent = options.get("performance_info") is None
        arguments = context.unwrap_tensors(arguments)
        options = context.unwrap_tensors(options)
        with context.redispatch_to_next():
            overload = operator.plain if absent else operator.overload
            return context.wrap_tensors(overload(*arguments, **options))
