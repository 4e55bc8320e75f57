"""The operators that the library has, and what torch has to know about each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx.node import has_side_effect

from . import _library, gradients


@dataclass(frozen=True)
class Operator:
    """One operator of the contract, by its name in torch.ops.waybill."""

    name: str
    group: str | None
    """The argument that names the group of the call; None for a local operator."""

    @property
    def arguments(self) -> list[torch.Argument]:
        """The parameters, as the library has them."""
        return list(self.overload._schema.arguments)

    @property
    def gives_input_back(self) -> bool:
        """Whether waybill.* returns its first argument itself."""
        return self.group is not None and not self.ordered._schema.returns

    @property
    def writes(self) -> bool:
        """Whether it has an argument that it writes to."""
        return any(argument.alias_info is not None for argument in self.arguments)

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


OPERATORS = tuple(
    Operator(record["name"], record["group"] or None) for record in _library.operators()
)
_BY_NAME = {operator.name: operator for operator in OPERATORS}


def named(name: str) -> Operator:
    """The operator of a name; ImportError where the library has none."""
    if name not in _BY_NAME:
        raise ImportError(f"waybill: expected an operator of the library, got {name}")
    return _BY_NAME[name]


# torch's own kernels for this key compute no gradient either: see gradients.py.
_autograd = torch.library.Library("waybill", "IMPL", "Autograd")


def register(operator: Operator) -> None:
    """Tells torch that the operator has no gradient, and must not be removed when unused."""
    for name in operator.names:
        overload = getattr(torch.ops.waybill, name).default
        _autograd.impl(name, torch.library.fallthrough_kernel)
        if operator.group is not None:  # the others have integers alone
            gradients.watch(overload, operator.name, passes_on=operator.gives_input_back)
            has_side_effect(overload)
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
