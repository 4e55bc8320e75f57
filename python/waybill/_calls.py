"""From a public function to its operator: the group's token in front, errors made ours behind."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from operator import is_
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
    "float": ("a float", (float, int, torch.SymFloat, torch.SymInt)),
    "str": ("a str", (str,)),
}


def call(operator: OpOverload, group: str, *arguments: Any) -> Any:
    """Calls an operator that takes a token and then `arguments`, the group's name among them."""
    token = tokens.get(group, _NO_TOKEN)
    if torch.compiler.is_compiling():
        return operator(token, *arguments)
    try:
        return operator(token, *_without_defaults(operator, arguments))
    except AssertionError:
        # Fake tensors outside a compiler do not mix with the token, which is real.
        if detect_fake_mode(arguments) is None:
            raise
    except (RuntimeError, ValueError, TypeError) as error:
        _raise(operator, group, arguments, error)
    return _public(operator, arguments)


def call_local(operator: OpOverload, *arguments: Any, **options: Any) -> Any:
    """Calls an operator without a group."""
    if torch.compiler.is_compiling():
        return operator(*arguments, **options)
    try:
        return operator(*arguments, **options)
    except (RuntimeError, ValueError, TypeError) as error:
        _raise_own(error)
        name = operator._schema.name.removeprefix("waybill::")
        for argument, expected, got in _wrong_types(
            operator._schema.arguments, (*arguments, *options.values())
        ):
            _refuse(None, name, argument, expected, got)
        raise


def _without_defaults(operator: OpOverload, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Leaves the options out when no one was given: torch is faster in adding than in reading."""
    defaults = _defaults(operator)
    given = len(arguments) - len(defaults)
    # By identity: equal is also what torch refuses, and what a symbolic number may not be asked.
    return arguments[:given] if all(map(is_, arguments[given:], defaults)) else arguments


@cache
def _defaults(operator: OpOverload) -> tuple[Any, ...]:
    options = operator._schema.arguments
    return tuple(option.default_value for option in options if option.has_default_value())


def _public(operator: OpOverload, arguments: tuple[Any, ...]) -> Any:
    """The same call of the operator without a token."""
    names = [argument.name for argument in operator._schema.arguments[1:]]
    public = getattr(torch.ops.waybill, operator._schema.name.removeprefix("waybill::_ordered_"))
    return public.default(**dict(zip(names, arguments, strict=True)))


def _raise(
    operator: OpOverload, group: str, arguments: tuple[Any, ...], caught: Exception
) -> NoReturn:
    _raise_own(caught)
    # torch could not make the call. The other ranks wait for one all the same.
    name = operator._schema.name.removeprefix("waybill::_ordered_")
    for argument, expected, got in _wrong_types(operator._schema.arguments[1:], arguments):
        _refuse(group, name, argument, expected, got)
    raise caught


def _raise_own(caught: Exception) -> None:
    """Raises the library's error when `caught` is torch's word for it."""
    last = _library.last_error()
    if last is not None and str(last) in str(caught):
        _library.raise_last_error()


def _wrong_types(parameters: Any, arguments: tuple[Any, ...]) -> Iterator[tuple[str, str, str]]:
    for parameter, value in zip(parameters, arguments, strict=True):
        expected, types = _EXPECTED[str(parameter.type)]
        if not isinstance(value, types):
            yield parameter.name, expected, f"{value!r}"[:80] + f" ({type(value).__name__})"


def _refuse(group: Any, operator: str, argument: str, expected: str, got: str) -> NoReturn:
    if group in _library.group_names():
        _library.refuse(group, operator, argument, expected, got)
        _library.raise_last_error()
    raise ArgumentError(
        f"{operator}: argument {argument}: expected {expected}, got {got}",
        operator=operator,
        argument=argument,
    )
