"""The module torchair: a compiler back end that runs a graph's operators one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .stubs import missing

__all__ = ["CompilerConfig", "get_npu_backend"]
__path__: list[str] = []


class _Settings:
    """Takes any setting, at any depth. None of them means anything on a CPU."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self.__dict__[name] = _Settings()
        return self.__dict__[name]


class CompilerConfig(_Settings):
    """torchair.CompilerConfig."""


def get_npu_backend(
    *, compiler_config: CompilerConfig | None = None, custom_decompositions: Any = None
) -> Callable[..., Any]:
    """A backend for torch.compile that traces but generates no code: each rank would do it again.

    Args:
        compiler_config, custom_decompositions: accepted, without effect.
    """
    if compiler_config is not None and not isinstance(compiler_config, CompilerConfig):
        raise TypeError(
            "get_npu_backend: argument compiler_config: expected a CompilerConfig or None, got "
            f"{compiler_config!r}"
        )
    return _backend


def _backend(graph: torch.fx.GraphModule, inputs: list[Any], **options: Any) -> Callable[..., Any]:
    from torch._dynamo import lookup_backend

    return lookup_backend("aot_eager")(graph, inputs)


def __getattr__(name: str) -> Any:
    raise missing("torchair", name)
