"""The shared library: torch's operators in it, and its C functions through ctypes.

ctypes lets other Python threads run while a function works or waits.
"""

from __future__ import annotations

import ctypes
import json
import sysconfig
from collections.abc import Callable, Mapping
from ctypes import c_char_p, c_double, c_int, c_int64, c_uint64
from pathlib import Path
from typing import Any, NoReturn

import torch

from . import _interrupts, errors

STRICT_MODES = (None, "a2", "a3")

FILE_NAME = "libwaybill_torch.so"

PhaseHook = ctypes.CFUNCTYPE(None, c_int)
"""Called with the number of a phase on the thread of the call; PHASES has its name."""

_Gather = ctypes.CFUNCTYPE(c_int, c_char_p)


_Settings = ctypes.POINTER(c_char_p)
"""Named arguments: texts like "key=value", ended by a null pointer (bindings/torch/settings.h)."""


_PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "waybill_version": (c_char_p, []),
    "waybill_machine": (c_char_p, []),
    "waybill_last_error": (c_char_p, []),
    "waybill_new_id": (c_char_p, []),
    "waybill_operators": (c_char_p, []),
    "waybill_phases": (c_char_p, []),
    "waybill_groups": (c_char_p, []),
    "waybill_process_start": (c_uint64, [c_int]),
    "waybill_describe_lack": (c_char_p, []),
    "waybill_cores": (c_char_p, [c_char_p, c_char_p, c_char_p]),
    "waybill_inspect": (c_char_p, []),
    "waybill_connect": (c_int, [_Settings, PhaseHook, _Gather]),
    "waybill_gathered": (None, [c_char_p]),
    "waybill_this_host": (c_char_p, []),
    "waybill_routes": (c_char_p, [c_char_p]),
    "waybill_rejoin": (c_int, [_Settings, PhaseHook]),
    "waybill_set_timeout": (c_int, [c_char_p, c_double]),
    "waybill_connect_local": (c_int, [_Settings, PhaseHook]),
    "waybill_release": (c_int, [c_char_p, c_double]),
    "waybill_end": (None, [c_char_p, c_double]),
    "waybill_finish_ended": (None, [c_double]),
    "waybill_reset": (c_char_p, [c_char_p]),
    "waybill_stats": (c_char_p, [c_char_p]),
    "waybill_placement": (c_char_p, [c_char_p]),
    "waybill_refuse": (None, [c_char_p] * 5),
    "waybill_set_interrupt_check": (None, [_interrupts.Check]),
    "waybill_window_bytes": (c_int64, [_Settings]),
}


def find() -> Path:
    """The library, next to the modules of the package wherever an installation put them."""
    # An editable installation has two folders; a source tree on PYTHONPATH has none of its own.
    folders = [*__import__(__package__).__path__, Path(sysconfig.get_path("platlib"), "waybill")]
    for folder in folders:
        path = Path(str(folder), FILE_NAME)
        if path.exists():
            return path
    searched = ", ".join(str(folder) for folder in folders)
    raise ImportError(
        f"waybill: expected {FILE_NAME} in one of {searched}, found none: install the package "
        "(pip install .)"
    )


def _load() -> ctypes.CDLL:
    path = str(find())
    torch.ops.load_library(path)
    library = ctypes.CDLL(path)
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    library.waybill_set_interrupt_check(_interrupts.check)
    return library


_c = _load()
version: str = _c.waybill_version().decode()
PHASES: tuple[str, ...] = tuple(json.loads(_c.waybill_phases()))
"""Where in a call a rank is: "publish", "wait-signals", ... (include/waybill/group.h)."""


def last_error() -> errors.WaybillError | None:
    """The last error of an operator or function in this thread."""
    record = json.loads(_c.waybill_last_error())
    return errors.from_record(record) if record else None


def raise_last_error() -> NoReturn:
    """Raises what a function that failed left behind: a signal handler's exception first."""
    record = json.loads(_c.waybill_last_error())
    if record["code"] == "Interrupted":
        _interrupts.raise_pending()
    raise errors.from_record(record)


def machine() -> dict[str, Any]:
    """SIMD level of this machine and what the environment asks for."""
    return _checked_json(_c.waybill_machine())


def new_id() -> str:
    return str(_c.waybill_new_id().decode())


def operators() -> list[dict[str, str]]:
    """The operators in their order: name, and the argument that names the group, or ""."""
    return list(json.loads(_c.waybill_operators()))


def group_names() -> list[str]:
    return list(json.loads(_c.waybill_groups()))


def _settings(settings: Mapping[str, Any]) -> Any:
    """Settings as the library takes them. None is left out, a list is a setting for each entry."""
    texts = []
    for key, value in settings.items():
        for entry in value if isinstance(value, list) else [value]:
            text = int(entry) if isinstance(entry, bool) else entry
            texts += [f"{key}={text}".encode()] if text is not None else []
    return (c_char_p * (len(texts) + 1))(*texts, None)


def connect(
    *,
    on_phase: Any = None,
    all_gather: Callable[[str], list[str]] | None = None,
    **settings: Any,
) -> None:
    """Makes a group; `settings` are those of waybill_connect (bindings/torch/c_connect.cc).

    Where hosts differ `all_gather` brings a text of each rank to all, by rank, and is collective.
    """
    gather = _Gathering(all_gather)
    succeeded = _c.waybill_connect(_settings(settings), on_phase or PhaseHook(0), gather.callback)
    if gather.failure is not None:
        raise gather.failure
    _check(succeeded)


class _Gathering:
    """An all_gather that C++ can call: what it raises is kept for the caller of C++."""

    def __init__(self, all_gather: Callable[[str], list[str]] | None) -> None:
        self.failure: BaseException | None = None
        self.callback = _Gather(self._run) if all_gather else _Gather(0)
        self._all_gather = all_gather

    def _run(self, own: bytes) -> int:
        assert self._all_gather is not None
        try:
            texts = self._all_gather(own.decode())
        except BaseException as failure:  # also KeyboardInterrupt: it must not pass through C++
            self.failure = failure
            return 0
        _c.waybill_gathered("\n".join(texts).encode())
        return 1


def this_host() -> str:
    """The host that this process counts as on (include/waybill/group.h)."""
    host = _c.waybill_this_host()
    if host is None:
        raise_last_error()
    return str(host.decode())


def routes(name: str) -> list[dict[str, str]]:
    return list(_checked_json(_c.waybill_routes(name.encode()))["ranks"])


def rejoin(*, on_phase: Any = None, **settings: Any) -> None:
    """Comes back under the rank of a process that has ended; blocks until a reset."""
    _check(_c.waybill_rejoin(_settings(settings), on_phase or PhaseHook(0)))


def process_start(pid: int) -> int:
    """When the process was started, in clock ticks since the machine was; 0: not known."""
    return int(_c.waybill_process_start(pid))


def parse_cores(operator: str, argument: str, cores: str) -> list[int]:
    """The cores of a list like "0-15,32", as its author ordered them. Raises ArgumentError where it
    is none, or has cores that this process may not use.
    """
    texts = (text.encode() for text in (operator, argument, cores))
    return list(_checked_json(_c.waybill_cores(*texts))["cores"])


def describe_lack() -> str:
    """What is short where a file could not be opened, and what to do about it."""
    return str(_c.waybill_describe_lack().decode())


def inspect() -> list[dict[str, Any]]:
    """Groups of this host's processes, seen from outside (include/waybill/inspect.h)."""
    return list(json.loads(_c.waybill_inspect()))


def set_timeout(name: str, seconds: float) -> None:
    _check(_c.waybill_set_timeout(name.encode(), seconds))


def connect_local(names: list[str], *, on_phase: Any = None, **settings: Any) -> None:
    """Ranks as threads of this process: names[r] becomes rank r."""
    given = _settings({"name": names, **settings})
    _check(_c.waybill_connect_local(given, on_phase or PhaseHook(0)))


def release(name: str, timeout: float | None) -> None:
    _check(_c.waybill_release(name.encode(), -1.0 if timeout is None else timeout))


def end(name: str, patience: float) -> None:
    """Takes the name away and closes its group as soon as that can be, in the background if it
    takes longer than `patience` seconds. Does nothing where there is none."""
    _c.waybill_end(name.encode(), patience)


def finish_ended(timeout: float) -> None:
    """Closes what end() left, at most `timeout` seconds later."""
    _c.waybill_finish_ended(timeout)


def reset(name: str) -> list[int]:
    return list(_checked_json(_c.waybill_reset(name.encode()))["ranks"])


def stats(name: str) -> dict[str, Any]:
    return _checked_json(_c.waybill_stats(name.encode()))


def placement(name: str) -> dict[str, Any]:
    return _checked_json(_c.waybill_placement(name.encode()))


def refuse(name: str, operator: str, argument: str, expected: str, got: str) -> None:
    """Makes a call that has no chance; last_error() has the sentence."""
    _c.waybill_refuse(*(text.encode() for text in (name, operator, argument, expected, got)))


def window_bytes(**sizes: int) -> int:
    """Bytes of both halves; `sizes` are those of CallSizes (bindings/torch/window_size.h)."""
    size = int(_c.waybill_window_bytes(_settings(sizes)))
    _check(size >= 0)
    return size


def _check(succeeded: bool | int) -> None:
    if not succeeded:
        raise_last_error()


def _checked_json(text: bytes | None) -> dict[str, Any]:
    if text is None:
        raise_last_error()
    return dict(json.loads(text))
