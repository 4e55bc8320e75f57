"""From a public function to its operator: the group's token in front, errors made ours behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor
from torch._guards import detect_fake_mode
from torch._ops import OpOverload

from . import _forwarding, _library, operators
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

Function = TypeVar("Function", bound=Callable[..., Any])


def operator(function: Function) -> Function:
    """Makes a function without a body the call of the operator of its name.

    Raises:
        ImportError: there is no such operator, or the function's signature is not its schema.
    """
    bound: Any = _forwarding.bound(
        function,
        operators.named(function.__name__),
        {
            "tokens": tokens,
            "no_token": _NO_TOKEN,
            "is_compiling": torch.compiler.is_compiling,
            "failures": (AssertionError, RuntimeError, ValueError, TypeError),
            "failed": _failed,
        },
    )
    return bound


def _failed(operator: OpOverload, group: Any, arguments: dict[str, Any], caught: Exception) -> Any:
    """The result of a call that was made another way, or its error as one of ours."""
    name = operator._schema.name.removeprefix("waybill::").removeprefix("_ordered_")
    if isinstance(caught, AssertionError):
        # Fake tensors outside a compiler do not mix with the token, which is real.
        if group is None or detect_fake_mode(list(arguments.values())) is None:
            raise caught
        return operators.named(name).overload(**arguments)
    _raise_own(caught)
    # torch could not make the call. The other ranks wait for one all the same.
    for argument, expected, got in _wrong_types(operators.named(name).arguments, arguments):
        _refuse(group, name, argument, expected, got)
    raise caught


def _raise_own(caught: Exception) -> None:
    """Raises the library's error when `caught` is torch's word for it."""
    last = _library.last_error()
    if last is not None and str(last) in str(caught):
        _library.raise_last_error()


def _wrong_types(
    parameters: list[torch.Argument], arguments: dict[str, Any]
) -> Iterator[tuple[str, str, str]]:
    for parameter in parameters:
        value = arguments[parameter.name]
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
