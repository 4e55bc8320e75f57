"""The module torch_npu: the operators, torch_npu.npu, and little else."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from . import npu, torchair
from .stubs import missing

__version__ = torch.__version__.split("+")[0] + "+waybill"
__path__: list[str] = []
__all__ = ["npu"]


def _operators() -> dict[str, Any]:
    """By name, what waybill has of the operators' table."""
    import waybill
    from waybill.operators import OPERATORS

    names = [operator.name for operator in OPERATORS]
    return {name: getattr(waybill, name) for name in names if hasattr(waybill, name)}


class _Operator:
    """An operator in torch.ops.npu. Ordered in compiled programs like waybill's functions."""

    def __init__(self, name: str, function: Any) -> None:
        self.__name__ = name
        self._function = function
        self._schema = getattr(torch.ops.waybill, name).default._schema

    @property
    def default(self) -> _Operator:
        return self

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._function(*arguments, **options)


class _Namespace(ModuleType):
    """torch.ops.npu."""

    def __getattr__(self, name: str) -> Any:
        function = None if name.startswith("__") else _operators().get(name)
        if function is None:
            raise missing("torch.ops.npu", name)
        setattr(self, name, _Operator(name, function))
        return self.__dict__[name]

    def __dir__(self) -> list[str]:
        return sorted(_operators())


class _Options:
    """ProcessGroupHCCL.Options: takes any setting, hccl_config among them."""

    def __init__(self) -> None:
        self.hccl_config: dict[str, Any] = {}


_C = SimpleNamespace(
    _distributed_c10d=SimpleNamespace(ProcessGroupHCCL=SimpleNamespace(Options=_Options))
)
dynamo = ModuleType("torch_npu.dynamo")


def link() -> None:
    """Puts modules where else the vendor has them."""
    dynamo.__dict__.update(torchair=torchair, __path__=[])
    sys.modules["torch_npu.dynamo"] = dynamo
    sys.modules["torch_npu.dynamo.torchair"] = torchair
    operators: Any = torch.ops
    operators.npu = _Namespace("torch.ops.npu")


def __getattr__(name: str) -> Any:
    function = None if name.startswith("__") else _operators().get(name)
    if function is None:
        raise missing("torch_npu", name)
    globals()[name] = function
    return function


def __dir__() -> list[str]:
    return sorted({*globals(), *_operators()})
