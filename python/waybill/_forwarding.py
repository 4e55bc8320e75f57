"""From a function's own signature to the call of its operator, without a second list of arguments.

A function of ops/ is a def with a docstring and no body. `bound` compares it with the schema of the
operator of its name, and compiles what it does, as `dataclass` compiles __init__: every call of an
operator passes here, and a loop over its arguments would cost more than the way to the library.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import update_wrapper
from itertools import zip_longest
from typing import Any

from .operators import Operator

_ANNOTATIONS = {
    "Tensor": "Tensor",
    "Optional[Tensor]": "Tensor | None",
    "int": "int",
    "Optional[int]": "int | None",
    "float": "float",
    "str": "str",
}
"""How functions write the types of schemas."""

_COLLECTIVE = """
def {name}({parameters}):
    token = tokens.get({group}, no_token)
    if is_compiling():
        result = operator(token, {arguments})
    else:
        try:
            # What calling the operator itself comes to (gradients.py), without the way there. torch
            # is faster in adding defaults than in reading them. They are compared by identity:
            # equal is also what torch refuses, and what a symbolic number may not be asked.
            if {no_option}:
                result = operator._op(token, {inputs})
            else:
                result = operator._op(token, {arguments})
        except failures as error:
            result = failed(operator, {group}, {named}, error)
    return {result}
"""
_LOCAL = """
def {name}({parameters}):
    if is_compiling():
        return operator({keywords})
    try:
        return operator({keywords})
    except failures as error:
        return failed(operator, None, {named}, error)
"""


def signature_of(operator: Operator) -> list[str]:
    """The parameters as a function writes them, and what it returns behind them."""
    lines = []
    for argument in operator.arguments:
        if argument.kwarg_only and "*" not in lines:
            lines.append("*")
        default = f" = {argument.default_value!r}" if argument.has_default_value() else ""
        lines.append(f"{argument.name}: {_ANNOTATIONS[str(argument.type)]}{default}")
    results = ", ".join(["Tensor"] * len(operator.overload._schema.returns))
    return [*lines, f"-> {f'tuple[{results}]' if ',' in results else results}"]


def _own_signature(function: Callable[..., Any]) -> list[str]:
    lines = []
    signature = inspect.signature(function)
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in lines:
            lines.append("*")
        empty = parameter.default is parameter.empty
        default = "" if empty else f" = {parameter.default!r}"
        lines.append(f"{name}: {parameter.annotation}{default}")
    return [*lines, f"-> {signature.return_annotation}"]


def check(function: Callable[..., Any], operator: Operator) -> None:
    """ImportError that names the first place where a function is not its operator's schema."""
    pairs = zip_longest(signature_of(operator), _own_signature(function), fillvalue="nothing")
    for expected, got in pairs:
        if expected != got:
            raise ImportError(
                f"waybill: {function.__qualname__}: expected the signature of the library's "
                f"{operator.name}, there {expected!r}, got {got!r}"
            )


def check_names(function: Callable[..., Any], known: Iterable[str], operator: Operator) -> None:
    """ImportError that names a parameter that the operator does not have."""
    names = set(known)
    for name in inspect.signature(function).parameters:
        if name not in names:
            raise ImportError(
                f"waybill: {function.__module__}.{function.__qualname__}: expected parameters of "
                f"the library's {operator.name}, got {name!r}"
            )


def bound(
    function: Callable[..., Any], operator: Operator, environment: Mapping[str, Any]
) -> Callable[..., Any]:
    """What `function` does. environment: the values of the names in the templates."""
    check(function, operator)
    values = {"operator": operator.ordered if operator.group else operator.overload, **environment}
    parameters, no_option = [], []
    for argument in operator.arguments:
        name = argument.name
        if not argument.has_default_value():
            parameters.append(name)
            continue
        if "*" not in parameters:
            parameters.append("*")
        values[f"default_{name}"] = inspect.signature(function).parameters[name].default
        parameters.append(f"{name}=default_{name}")
        no_option.append(f"{name} is default_{name}")
    names = [argument.name for argument in operator.arguments]
    code = (_COLLECTIVE if operator.group else _LOCAL).format(
        name=function.__name__,
        parameters=", ".join(parameters),
        group=operator.group,
        arguments=", ".join(names),
        inputs=", ".join(names[: len(names) - len(no_option)]),
        no_option=" and ".join(no_option),
        keywords=", ".join(f"{name}={name}" for name in names),
        named="{" + ", ".join(f"{name!r}: {name}" for name in names) + "}",
        result=names[0] if operator.gives_input_back else "result",
    )
    exec(compile(code, f"<waybill {function.__name__}>", "exec"), values)
    return update_wrapper(values[function.__name__], function)
