"""The shared library: torch's operators in it, and its C functions through ctypes.

ctypes lets other Python threads run while a function works or waits.
"""

from __future__ import annotations

import ctypes
import json
import sysconfig
from collections.abc import Callable, Sequence
from ctypes import c_char_p, c_double, c_int, c_int64, c_uint64
from pathlib import Path
from typing import Any, NoReturn

import torch

from . import _interrupts, errors

STRICT_MODES = (None, "a2", "a3")
"""By the numbers of waybill::Strict."""

FILE_NAME = "libwaybill_torch.so"

PhaseHook = ctypes.CFUNCTYPE(None, c_int)
"""Called with the number of a phase on the thread of the call; phase_name() has its name."""


_Gather = ctypes.CFUNCTYPE(c_int, c_char_p)


class CallSizes(ctypes.Structure):
    """Mirrors bindings/torch/window_size.h."""

    _fields_ = [
        (name, c_int64)
        for name in (
            "bs",
            "hidden",
            "topk",
            "moe_expert_num",
            "ep_world_size",
            "row_element_bytes",
            "shared_expert_num",
            "shared_expert_rank_num",
            "quant_mode",
            "comm_quant_mode",
            "smooth",
            "expert_scales",
        )
    ]


_PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "waybill_version": (c_char_p, []),
    "waybill_machine": (c_char_p, []),
    "waybill_last_error": (c_char_p, []),
    "waybill_new_id": (c_char_p, []),
    "waybill_phase_name": (c_char_p, [c_int]),
    "waybill_groups": (c_char_p, []),
    "waybill_process_start": (c_uint64, [c_int]),
    "waybill_inspect": (c_char_p, []),
    "waybill_connect": (
        c_int,
        [
            c_char_p,
            c_char_p,
            c_int,
            c_int,
            ctypes.POINTER(c_int),
            ctypes.POINTER(c_uint64),
            c_double,
            c_int,
            c_int,
            PhaseHook,
            ctypes.POINTER(c_char_p),
            _Gather,
        ],
    ),
    "waybill_gathered": (None, [c_char_p]),
    "waybill_this_host": (c_char_p, []),
    "waybill_routes": (c_char_p, [c_char_p]),
    "waybill_rejoin": (
        c_int,
        [c_char_p, c_char_p, c_int, c_int, c_double, c_int, c_int, PhaseHook],
    ),
    "waybill_set_timeout": (c_int, [c_char_p, c_double]),
    "waybill_connect_local": (
        c_int,
        [ctypes.POINTER(c_char_p), c_int, c_double, c_int, c_int, PhaseHook],
    ),
    "waybill_release": (c_int, [c_char_p, c_double]),
    "waybill_reset": (c_char_p, [c_char_p]),
    "waybill_stats": (c_char_p, [c_char_p]),
    "waybill_placement": (c_char_p, [c_char_p]),
    "waybill_refuse": (None, [c_char_p] * 5),
    "waybill_set_interrupt_check": (None, [_interrupts.Check]),
    "waybill_window_bytes": (c_int64, [ctypes.POINTER(CallSizes)]),
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


def phase_name(phase: int) -> str:
    """Where in a call a rank is: "publish", "wait-signals", ... (include/waybill/group.h)."""
    return str(_c.waybill_phase_name(phase).decode())


def group_names() -> list[str]:
    return list(json.loads(_c.waybill_groups()))


def connect(
    name: str,
    unique_id: str,
    rank: int,
    world_size: int,
    timeout: float | None,
    threads: int | None,
    strict: str | None = None,
    on_phase: Any = None,
    processes: Sequence[tuple[int, int]] | None = None,
    hosts: Sequence[str] | None = None,
    all_gather: Callable[[str], list[str]] | None = None,
) -> None:
    """`processes`: pid and process_start() of each rank, where they are known.

    `hosts`: this_host() of each rank, where they differ; then `all_gather` brings a text of each
    rank to all, by rank, and is collective.
    """
    gather = _Gathering(all_gather)
    names = (c_char_p * world_size)(*(host.encode() for host in hosts)) if hosts else None
    pids = starts = None
    if processes is not None:
        pids = (c_int * world_size)(*(pid for pid, _ in processes))
        starts = (c_uint64 * world_size)(*(start for _, start in processes))
    succeeded = _c.waybill_connect(
        name.encode(),
        unique_id.encode(),
        rank,
        world_size,
        pids,
        starts,
        timeout or 0.0,
        threads or 0,
        STRICT_MODES.index(strict),
        on_phase or PhaseHook(0),
        names,
        gather.callback,
    )
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


def rejoin(
    name: str,
    unique_id: str,
    rank: int,
    world_size: int,
    timeout: float | None,
    threads: int | None,
    strict: str | None = None,
    on_phase: Any = None,
) -> None:
    """Comes back under the rank of a process that has ended; blocks until a reset."""
    _check(
        _c.waybill_rejoin(
            name.encode(),
            unique_id.encode(),
            rank,
            world_size,
            timeout or 0.0,
            threads or 0,
            STRICT_MODES.index(strict),
            on_phase or PhaseHook(0),
        )
    )


def process_start(pid: int) -> int:
    """When the process was started, in clock ticks since the machine was; 0: not known."""
    return int(_c.waybill_process_start(pid))


def inspect() -> list[dict[str, Any]]:
    """Groups of this host's processes, seen from outside (include/waybill/inspect.h)."""
    return list(json.loads(_c.waybill_inspect()))


def set_timeout(name: str, seconds: float) -> None:
    _check(_c.waybill_set_timeout(name.encode(), seconds))


def connect_local(
    names: list[str],
    timeout: float | None,
    threads: int | None,
    strict: str | None = None,
    on_phase: Any = None,
) -> None:
    texts = (c_char_p * len(names))(*(name.encode() for name in names))
    _check(
        _c.waybill_connect_local(
            texts,
            len(names),
            timeout or 0.0,
            threads or 0,
            STRICT_MODES.index(strict),
            on_phase or PhaseHook(0),
        )
    )


def release(name: str, timeout: float | None) -> None:
    _check(_c.waybill_release(name.encode(), -1.0 if timeout is None else timeout))


def reset(name: str) -> list[int]:
    return list(_checked_json(_c.waybill_reset(name.encode()))["ranks"])


def stats(name: str) -> dict[str, Any]:
    return _checked_json(_c.waybill_stats(name.encode()))


def placement(name: str) -> dict[str, Any]:
    return _checked_json(_c.waybill_placement(name.encode()))


def refuse(name: str, operator: str, argument: str, expected: str, got: str) -> None:
    """Makes a call that has no chance; last_error() has the sentence."""
    _c.waybill_refuse(*(text.encode() for text in (name, operator, argument, expected, got)))


def window_bytes(sizes: CallSizes) -> int:
    return int(_c.waybill_window_bytes(ctypes.byref(sizes)))


def _check(succeeded: int) -> None:
    if not succeeded:
        raise_last_error()


def _checked_json(text: bytes | None) -> dict[str, Any]:
    if text is None:
        raise_last_error()
    return dict(json.loads(text))
