"""What the processes of a fault case share, and what a process has open."""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

MAX_RANKS = 16
POLL_SECONDS = 0.001


class Stuck(AssertionError):
    """A condition did not come true in time."""


class Board:
    """Numbers that every process forked after it was made sees; each has one writer."""

    def __init__(self) -> None:
        words = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("q")
        self.phase = words[0:MAX_RANKS]  # waybill's number of the phase each rank is in
        self.step = words[MAX_RANKS : 2 * MAX_RANKS]  # how far each rank is in its case
        self.ended_at = words[2 * MAX_RANKS : 3 * MAX_RANKS]  # when each process had ended, ns
        self.calls = words[3 * MAX_RANKS : 4 * MAX_RANKS]  # for the soak
        self.words = words[4 * MAX_RANKS :]  # for whoever uses the board

    def all_at(self, ranks: Sequence[int], step: int) -> bool:
        return all(self.step[rank] >= step for rank in ranks)


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Stuck(f"not within {seconds} s: {what}")
        time.sleep(POLL_SECONDS)


def level() -> dict[str, int]:
    """What this process holds: descriptors, memory files that are mapped, and KiB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "memory files": Path("/proc/self/maps").read_text().count("/memfd:waybill"),
        "address space": int(status["VmSize"].split()[0]),
        "shared memory": int(status["RssShmem"].split()[0]),
        "resident": int(status["VmRSS"].split()[0]),
    }


SLACK = {
    "descriptors": 0,
    "memory files": 0,
    "address space": 1 << 20,  # a window is 64 of these
    "shared memory": 1 << 10,
    "resident": 48 << 10,  # the interpreter's and torch's own
}


def growth(
    before: dict[str, int], after: dict[str, int], kinds: Sequence[str] = tuple(SLACK)
) -> list[str]:
    """What is above the level before; empty when the process is clean."""
    return [
        f"{name} grew from {before[name]} to {after[name]}"
        for name in kinds
        if after[name] > before[name] + SLACK[name]
    ]


OTHERS_FILES = ("vader_segment.", "sm_segment.")
"""Open MPI leaves these in /dev/shm, and may run beside a case that is judged."""


def machine_level() -> tuple[set[str], set[str]]:
    """Names in /dev/shm, and waybill's abstract sockets that no other program has."""
    sockets = {}
    for line in Path("/proc/net/unix").read_text().splitlines():
        words = line.split()
        if words[-1].startswith("@waybill-"):
            sockets[f"socket:[{words[-2]}]"] = words[-1]
    if sockets:
        for number in others_descriptors():
            sockets.pop(number, None)
    names = {name for name in os.listdir("/dev/shm") if not name.startswith(OTHERS_FILES)}
    return names, set(sockets.values())


def others_descriptors() -> Iterator[str]:
    """What processes have open that are neither this one nor its children."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if os.getpid() not in (int(folder.name), parent):
                for descriptor in os.listdir(folder / "fd"):
                    yield os.readlink(folder / "fd" / descriptor)
