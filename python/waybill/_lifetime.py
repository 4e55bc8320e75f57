"""Groups end with the process groups that they were made for.

`destroy_process_group` shuts a process group down, whatever name it was imported under; and a
process group that nobody refers to any more is finalized. Both end the groups that comm_name made.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, finalize

import torch.distributed as dist

from . import _interrupts, _library

PATIENCE_SECONDS = 2.0
"""How long destroy_process_group waits for peers that still read. Then a thread does."""

names: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
"""The name that comm_name gave each process group last."""

_finalizers: dict[str, Any] = {}
_is_watching = False


def watch(process_group: dist.ProcessGroup, name: str, forget: Callable[[str], None]) -> None:
    """`name` ends with `process_group`; then `forget` gets it."""
    global _is_watching
    if not _is_watching:
        _is_watching = True
        for end in ("shutdown", "abort"):
            _wrap(dist.ProcessGroup, end, forget)
    names[process_group] = name
    finalizer = finalize(process_group, _end_at_once, name, forget)
    finalizer.atexit = False  # type: ignore[misc]  # _release_all does it for all together
    _finalizers[name] = finalizer


def unwatch(name: str) -> None:
    """The name was released: it may be another group's soon."""
    finalizer = _finalizers.pop(name, None)
    if finalizer is not None:
        finalizer.detach()


def forget_all() -> None:
    """In a forked child, whose process groups have none of the parent's groups."""
    for name in list(_finalizers):
        unwatch(name)
    names.clear()


def _wrap(owner: Any, method: str, forget: Callable[[str], None]) -> None:
    original = getattr(owner, method)

    @functools.wraps(original)
    def ending(self: Any, *arguments: Any, **options: Any) -> Any:
        name = names.get(self)
        try:
            if name in _finalizers:
                unwatch(name)
                _end(name, PATIENCE_SECONDS, forget)
                _interrupts.raise_pending()
        finally:
            # Also after Ctrl-C: what torch does next is not this module's to leave out.
            result = original(self, *arguments, **options)
        return result

    setattr(owner, method, ending)


def _end_at_once(name: str, forget: Callable[[str], None]) -> None:
    # Runs wherever Python collects garbage, also amid a call of this group: it must not wait.
    _finalizers.pop(name, None)
    _end(name, 0.0, forget)


def _end(name: str, patience: float, forget: Callable[[str], None]) -> None:
    _library.end(name, patience)
    forget(name)
