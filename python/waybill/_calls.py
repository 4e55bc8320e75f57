"""From a public function to its operator: the group's token in front, errors made ours behind."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor
from torch._guards import detect_fake_mode
from torch._ops import OpOverload

from . import _library
from .errors import ArgumentError
from .groups import tokens

_NO_TOKEN = torch.zeros(1, dtype=torch.uint8)
_EXPECTED: dict[str, tuple[str, tuple[type, ...]]] = {
    "Tensor": ("a Tensor", (Tensor,)),
    "Optional[Tensor]": ("a Tensor or None", (Tensor, type(None))),
    "int": ("an int", (int, torch.SymInt)),
    "Optional[int]": ("an int or None", (int, torch.SymInt, type(None))),
    "str": ("a str", (str,)),
}


def call(operator: OpOverload, group: str, *arguments: Any) -> Any:
    """Calls an operator that takes a token and then `arguments`, the group's name among them."""
    token = tokens.get(group, _NO_TOKEN)
    if torch.compiler.is_compiling():
        return operator(token, *arguments)
    try:
        return operator(token, *arguments)
    except AssertionError:
        # Fake tensors outside a compiler do not mix with the token, which is real.
        if detect_fake_mode(arguments) is None:
            raise
    except (RuntimeError, ValueError, TypeError) as error:
        _raise(operator, group, arguments, error)
    return _public(operator, arguments)


def _public(operator: OpOverload, arguments: tuple[Any, ...]) -> Any:
    """The same call of the operator without a token."""
    names = [argument.name for argument in operator._schema.arguments[1:]]
    public = getattr(torch.ops.waybill, operator._schema.name.removeprefix("waybill::_ordered_"))
    return public.default(**dict(zip(names, arguments, strict=True)))


def _raise(
    operator: OpOverload, group: str, arguments: tuple[Any, ...], caught: Exception
) -> NoReturn:
    last = _library.last_error()
    if last is not None and str(last) in str(caught):
        _library.raise_last_error()
    # torch could not make the call. The other ranks wait for one all the same.
    name = operator._schema.name.removeprefix("waybill::_ordered_")
    for parameter, value in zip(operator._schema.arguments[1:], arguments, strict=True):
        expected, types = _EXPECTED[str(parameter.type)]
        if not isinstance(value, types):
            got = f"{value!r}"[:80] + f" ({type(value).__name__})"
            _refuse(group, name, parameter.name, expected, got)
    raise caught


def _refuse(group: Any, operator: str, argument: str, expected: str, got: str) -> NoReturn:
    if group in _library.group_names():
        _library.refuse(group, operator, argument, expected, got)
        _library.raise_last_error()
    raise ArgumentError(
        f"{operator}: argument {argument}: expected {expected}, got {got}",
        operator=operator,
        argument=argument,
    )
