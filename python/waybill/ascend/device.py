"""The device "npu": torch's PrivateUse1 under another name, whose tensors live on the CPU.

Whatever torch is asked to make on it arrives at one kernel for PrivateUse1, which asks the CPU: in
every thread, from every factory function, and from `.to`.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration

NAME = "npu"
CPU = torch.device("cpu")

_fallback = torch.library.Library("_", "IMPL")
_aten = torch.library.Library("aten", "IMPL")


def is_npu(value: object) -> bool:
    return isinstance(value, torch.device) and value.type == NAME


def instead(value: Any) -> Any:
    """The value, or the CPU in place of an accelerator."""
    return CPU if is_npu(value) else value


def install(module: ModuleType) -> None:
    _register(module)
    _fallback.fallback(_on_cpu, "PrivateUse1")
    # With an accelerator present torch would ask it for pinned memory, which it has not.
    _aten.impl("_pin_memory", _pin_memory, "CPU")
    _aten.impl("is_pinned", _is_pinned, "CPU")
    torch.serialization.register_package(5, lambda storage: None, _restore)
    tensor: Any = torch.Tensor
    tensor.is_npu = property(_true)
    tensor.cpu = _cpu
    torch.Generator = _Generator  # type: ignore[misc]
    for name in ("device_count", "synchronize"):
        setattr(torch.accelerator, name, getattr(module, name))
    torch.accelerator.current_device_index = module.current_device
    torch.accelerator.set_device_index = module.set_device


def _register(module: ModuleType) -> None:
    """Names PrivateUse1, with the hooks that make it an accelerator where torch has them."""
    setup = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
    if setup is not None:
        setup(NAME, backend_module=module)
        return
    torch.utils.rename_privateuse1_backend(NAME)
    torch.utils.generate_methods_for_privateuse1_backend()
    torch._register_device_module(NAME, module)
    # Without hooks, whoever finds an accelerator fails when he asks it for anything.
    torch.accelerator.is_available = _false
    torch.accelerator.current_accelerator = _none
    torch._C._get_accelerator = _cpu_device


def _on_cpu(operator: Any, *arguments: Any, **options: Any) -> Any:
    return operator(*map(instead, arguments), **{n: instead(v) for n, v in options.items()})


def _pin_memory(tensor: Tensor, device: torch.device | None = None) -> Tensor:
    return tensor.clone()


def _is_pinned(tensor: Tensor, device: torch.device | None = None) -> bool:
    return False


def _restore(storage: Any, location: str) -> Any:
    """torch.load of what was saved from, or is mapped to, an accelerator."""
    return storage if location.split(":")[0] == NAME else None


def _true(self: object) -> bool:
    return True


def _false() -> bool:
    return False


def _none(check_available: bool = False) -> None:
    return None


def _cpu_device(check: bool | None = None) -> torch.device:
    return CPU


def _cpu(self: Tensor, memory_format: torch.memory_format = torch.preserve_format) -> Tensor:
    # As from an accelerator: what happens to the original later does not show in the copy.
    return self.to(CPU, copy=True, memory_format=memory_format)


_Meta: Any = type(torch._C.Generator)


class _AnyGenerator(_Meta):  # type: ignore[misc]
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, torch._C.Generator)


class _Generator(torch._C.Generator, metaclass=_AnyGenerator):
    """torch.Generator, which PrivateUse1 cannot make without C++."""

    def __new__(cls, device: Any = CPU) -> _Generator:
        make: Any = torch._C.Generator.__new__
        return make(cls, device=instead(torch.device(device)))
