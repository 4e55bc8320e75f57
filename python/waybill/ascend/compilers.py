"""What torch.compile sees of the device: nothing, calls are written down as for the CPU.

Fake tensors would take the device at its word and then refuse to mix it with the CPU's tensors.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from torch import fx

from .device import CPU, instead

MODULE = "torch._dynamo.output_graph"
_DEVICE = re.compile(r"npu(:\d+)?")
_TRANSFERS = ("npu", "cpu", "to")


def install() -> None:
    """Patches dynamo when it is imported, which takes seconds that most scripts do not need."""
    if MODULE in sys.modules:
        _patch(sys.modules[MODULE])
    else:
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds one module the usual way, and patches it once it is loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _patch(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _patch(output_graph: ModuleType) -> None:
    """Dynamo writes down every call through this method, before it computes shapes."""
    tracer = output_graph.SubgraphTracer
    original: Callable[..., fx.Proxy] = tracer.create_proxy

    def create_proxy(
        self: Any, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **options: Any
    ) -> fx.Proxy:
        if kind in ("call_method", "call_function"):
            target, args, kwargs = on_cpu(kind, target, args, kwargs)
        return original(self, kind, target, args, kwargs, *rest, **options)

    tracer.create_proxy = create_proxy


def on_cpu(
    kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The call that takes the CPU in place of an accelerator."""
    if kind == "call_method" and target in _TRANSFERS:
        return _transfer(target, args, kwargs)
    args = tuple(instead(value) for value in args)
    kwargs = {name: _device(value) if name == "device" else value for name, value in kwargs.items()}
    return target, args, {name: instead(value) for name, value in kwargs.items()}


def _transfer(
    method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """x.npu(...), x.cpu(...) and x.to(...): a copy where eager calls make one."""
    tensor, *rest = args
    if method in ("npu", "cpu"):
        options = {n: v for n, v in kwargs.items() if n == "memory_format"}
        return "to", (tensor, CPU), {**options, "copy": True}
    if "device" in kwargs:
        place: Any = _device(kwargs["device"], index=True)
        moved = place is not kwargs["device"]
        kwargs = {**kwargs, "device": place}
    elif rest:
        place = _device(rest[0], index=True)
        moved = place is not rest[0]
        rest[0] = place
    else:
        moved = False
    if moved and len(rest) < 4:  # the fourth is copy itself
        kwargs = {**kwargs, "copy": True}
    return "to", (tensor, *rest), kwargs


def _device(value: Any, *, index: bool = False) -> Any:
    """A device, its name or (for torch, too, the accelerator's) its index."""
    if isinstance(value, str) and _DEVICE.fullmatch(value):
        return CPU
    if index and isinstance(value, int) and not isinstance(value, bool):
        return CPU
    return instead(value)
