"""What stands in the place of gradients, which the operators of the vendor's family do not have.

With grad mode on and an input that requires grad, their floating-point results require grad, and a
backward pass through them raises. Anything less loses gradients in silence: a router behind a
combine without one never learns, and nothing says so.

torch offers a kernel in Python for the dispatch key Autograd, which costs every call several
microseconds, or no kernel at all, which only warns. Here the key stays a fallthrough, and what
torch calls for an operator (`_op`) looks at the inputs afterwards. Compilers come the same way
while they trace: their forward graph stays as it is, and their backward graph raises when it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.node import has_side_effect

from .errors import WaybillError

_INTEGERS = frozenset(
    {
        "token",
        "expert_ids",
        "x_active_mask",
        "active_mask",
        "elastic_info",
        "performance_info",
        "assist_info_for_combine",
        "expand_idx",
        "ep_send_counts",
        "tp_send_counts",
        "comm_cmd_info",
        "group_list",
        "time_out",
    }
)
"""Tensor arguments that are never floating-point, so that nobody has to look at them."""

_library = torch.library.Library("waybill", "FRAGMENT")
_library.define(
    "_no_gradient(Tensor[] gradients, SymInt[] size, ScalarType dtype, str operator) -> Tensor"
)


def _raise(gradients: Sequence[Tensor], size: Any, dtype: torch.dtype, operator: str) -> Tensor:
    raise WaybillError(
        f"{operator}: expected no backward pass through its results, got one: the operators of the "
        "vendor's family have no gradient. Where none is needed, call them under torch.no_grad(), "
        "or detach() their inputs. For training there is the differentiable pair waybill.dispatch "
        "and waybill.combine, in the versions of waybill that have it",
        operator=operator,
    )


_library.impl("_no_gradient", _raise, "CompositeExplicitAutograd")


def _shape(gradients: Sequence[Tensor], size: Any, dtype: torch.dtype, operator: str) -> Tensor:
    return gradients[0].new_empty(size, dtype=dtype)


torch.library.register_fake("waybill::_no_gradient")(_shape)
_NO_GRADIENT: OpOverload = torch.ops.waybill._no_gradient.default
has_side_effect(_NO_GRADIENT)


class _Refusal(torch.autograd.Function):
    """Makes `num` tensors, which come first, hang on the others, whose gradients it refuses."""

    @staticmethod
    def forward(operator: str, num: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tensors[:num]

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        operator, num, *tensors = inputs
        context.mark_dirty(
            *output
        )  # the same tensors, without an operation that a graph would hold
        context.set_materialize_grads(False)
        context.operator = operator
        context.num = num
        context.inputs = [(tensor.shape, tensor.dtype) for tensor in tensors[num:]]

    @staticmethod
    def backward(context: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        nothing = (None, None, *[None] * context.num)
        given = [gradient for gradient in gradients if gradient is not None]
        if not given:
            return (*nothing, *[None] * len(context.inputs))
        return (
            *nothing,
            *(
                _NO_GRADIENT(given, shape, dtype, context.operator)
                for shape, dtype in context.inputs
            ),
        )


class _PassOn(torch.autograd.Function):
    """Makes a copy that was made out of torch's sight hang on the original."""

    @staticmethod
    def forward(copy: Tensor, original: Tensor) -> Tensor:
        return copy

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        context.mark_dirty(output)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient


def watch(overload: OpOverload, operator: str, *, passes_on: bool = False) -> None:
    """Makes calls of an operator in torch.ops.waybill refuse gradients.

    passes_on: its only result is a copy of its first input, and has that one's gradient.
    """
    called = _watched(overload, operator, _pass_on if passes_on else _refuse)
    for entry in (overload, overload._overloadpacket):
        entry._op = called


Attach = Callable[[str, Any, list[Any]], None]


def _watched(overload: OpOverload, operator: str, attach: Attach) -> Callable[..., Any]:
    op = overload._op
    arguments = overload._schema.arguments
    floats = tuple(
        place
        for place, argument in enumerate(arguments)
        if str(argument.type) in ("Tensor", "Optional[Tensor]") and argument.name not in _INTEGERS
    )
    grad_enabled = torch.is_grad_enabled

    # Every call of the operator pays for this: it looks at as little as it can.
    def called(*arguments: Any, **options: Any) -> Any:
        results = op(*arguments, **options)
        if grad_enabled():
            num = len(arguments)
            for place in floats:
                if place >= num:
                    break
                tensor = arguments[place]
                if tensor is not None and tensor.requires_grad:
                    attach(operator, results, [*arguments, *options.values()])
                    return results
            for option in options.values():
                if isinstance(option, Tensor) and option.requires_grad:
                    attach(operator, results, [*arguments, *options.values()])
                    break
        return results

    return called


def _hang_on(given: list[Any]) -> list[Tensor]:
    """The inputs that require grad; none inside a compiler's tracing.

    There every call comes twice: first with tensors that have a history, which is what counts, and
    inside with fake ones.
    """
    tensors = [value for value in given if isinstance(value, Tensor)]
    if any(isinstance(tensor, FakeTensor) for tensor in tensors):
        return []
    return [tensor for tensor in tensors if tensor.requires_grad]


def _refuse(operator: str, results: Any, given: list[Any]) -> None:
    outputs = [results] if isinstance(results, Tensor) else results
    # A mode of torch may have come this way already, inside, with the same tensors.
    floating = [o for o in outputs if o.is_floating_point() and not o.requires_grad]
    inputs = _hang_on(given)
    if floating and inputs:
        _Refusal.apply(operator, len(floating), *floating, *inputs)


def _pass_on(operator: str, results: Any, given: list[Any]) -> None:
    if results is not None and not results.requires_grad and _hang_on(given[:1]):
        _PassOn.apply(results, given[0])
