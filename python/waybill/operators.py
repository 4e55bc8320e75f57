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
    group: str | None = "group_ep"
    """The argument that names the group of the call; None for a local operator."""

    @property
    def writes(self) -> bool:
        """Whether it has an argument that it writes to."""
        return any(argument.alias_info is not None for argument in self.overload._schema.arguments)

    @property
    def names(self) -> tuple[str, ...]:
        """All its forms in torch.ops.waybill."""
        ordered = (self.ordered_name,) if self.group is not None else ()
        return (self.name, *ordered, *((self.plain_name,) if self.writes else ()))

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


DISPATCH = Operator("npu_moe_distribute_dispatch")
DISPATCH_V2 = Operator("npu_moe_distribute_dispatch_v2")
COMBINE = Operator("npu_moe_distribute_combine")
COMBINE_V2 = Operator("npu_moe_distribute_combine_v2")
COMBINE_ADD_RMS_NORM = Operator("npu_moe_distribute_combine_add_rms_norm")
DISPATCH_SETUP = Operator("npu_moe_distribute_dispatch_setup")
DISPATCH_TEARDOWN = Operator("npu_moe_distribute_dispatch_teardown")
COMBINE_SETUP = Operator("npu_moe_distribute_combine_setup")
COMBINE_TEARDOWN = Operator("npu_moe_distribute_combine_teardown")
BARRIER = Operator("_npu_distribute_barrier", group="group")
UPDATE_EXPERT = Operator("npu_moe_update_expert", group=None)
EPLB_UPDATE_EXPERT = Operator("npu_moe_eplb_update_expert", group=None)

OPERATORS = (
    DISPATCH,
    DISPATCH_V2,
    COMBINE,
    COMBINE_V2,
    COMBINE_ADD_RMS_NORM,
    DISPATCH_SETUP,
    DISPATCH_TEARDOWN,
    COMBINE_SETUP,
    COMBINE_TEARDOWN,
    BARRIER,
    UPDATE_EXPERT,
    EPLB_UPDATE_EXPERT,
)

# Gradients are not computed: without this, outputs would claim to need one.
_autograd = torch.library.Library("waybill", "IMPL", "Autograd")


def register(operator: Operator) -> None:
    """Tells torch that the operator has no gradient, and must not be removed when unused."""
    for name in operator.names:
        _autograd.impl(name, torch.library.fallthrough_kernel)
        if operator.group is not None:
            has_side_effect(getattr(torch.ops.waybill, name).default)
    if operator.writes:
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
