"""The module torch.npu: devices that are all this machine's CPU, where nothing is asynchronous."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .stubs import missing

DEVICES = 16
"""How many there seem to be where ASCEND_RT_VISIBLE_DEVICES does not say."""


class _Current(threading.local):
    device = 0
    stream: Stream | None = None


_current = _Current()


def index_of(device: Any) -> int:
    """Of None (the current device), a number, a name or a torch.device."""
    if device is None:
        return current_device()
    if isinstance(device, int):
        number = device
    else:
        place = torch.device(device)
        if place.type != "npu":
            raise ValueError(f"torch.npu: expected a device of type npu, got {place}")
        number = _current.device if place.index is None else place.index
    if number < 0:
        raise ValueError(f"torch.npu: expected a device index >= 0, got {number}")
    return number


def is_available() -> bool:
    return True


def is_initialized() -> bool:
    return True


def init() -> None:
    """Nothing to do."""


def _lazy_init() -> None:
    """Nothing to do; torch calls it before it makes a tensor."""


def _is_in_bad_fork() -> bool:
    return False


def device_count() -> int:
    visible = os.environ.get("ASCEND_RT_VISIBLE_DEVICES", "")
    count = len([word for word in visible.split(",") if word.strip()]) or DEVICES
    return max(count, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def current_device() -> int:
    return _current.device


def set_device(device: Any) -> None:
    """Of this thread, as on the accelerator."""
    _current.device = index_of(device)


def synchronize(device: Any = None) -> None:
    """Nothing to do: every call has ended when it returns."""
    index_of(device)


def get_device_name(device: Any = None) -> str:
    return "Waybill CPU"


def empty_cache() -> None:
    """Nothing to do."""


@contextmanager
def device(device: Any) -> Iterator[None]:
    before = _current.device
    set_device(device)
    try:
        yield
    finally:
        _current.device = before


class Event:
    """Knows when it was recorded."""

    def __init__(
        self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False
    ) -> None:
        self._recorded: float | None = None

    def record(self, stream: Stream | None = None) -> None:
        self._recorded = time.perf_counter()

    def wait(self, stream: Stream | None = None) -> None:
        """Nothing to do."""

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        """Nothing to do."""

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds."""
        if self._recorded is None or end._recorded is None:
            raise RuntimeError("Event.elapsed_time: expected two recorded events")
        return (end._recorded - self._recorded) * 1000


class Stream:
    """Work on it is done at once, in the order of the program."""

    def __init__(self, device: Any = None, priority: int = 0, **options: Any) -> None:
        self.device_index = index_of(device)
        self.priority = priority

    @property
    def device(self) -> torch.device:
        return torch.device("npu", self.device_index)

    def synchronize(self) -> None:
        """Nothing to do."""

    def query(self) -> bool:
        return True

    def wait_stream(self, stream: Stream) -> None:
        """Nothing to do."""

    def wait_event(self, event: Event) -> None:
        """Nothing to do."""

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def __enter__(self) -> Stream:
        self._before = _current.stream
        _current.stream = self
        return self

    def __exit__(self, *error: object) -> None:
        _current.stream = self._before


_default = Stream(0)


def default_stream(device: Any = None) -> Stream:
    return _default


def current_stream(device: Any = None) -> Stream:
    return _current.stream or _default


def set_stream(stream: Stream | None) -> None:
    _current.stream = stream


@contextmanager
def stream(stream: Stream | None) -> Iterator[None]:
    before = _current.stream
    _current.stream = before if stream is None else stream
    try:
        yield
    finally:
        _current.stream = before


def manual_seed(seed: int) -> None:
    """Seeds torch's default generator, from which "npu" tensors are drawn, too."""
    torch.default_generator.manual_seed(int(seed))


def manual_seed_all(seed: int) -> None:
    manual_seed(seed)


def seed() -> None:
    torch.default_generator.seed()


def initial_seed() -> int:
    return torch.default_generator.initial_seed()


def get_rng_state(device: Any = "npu") -> Tensor:
    return torch.default_generator.get_state()


def set_rng_state(state: Tensor, device: Any = "npu") -> None:
    torch.default_generator.set_state(state)


def __getattr__(name: str) -> Any:
    raise missing("torch.npu", name)
