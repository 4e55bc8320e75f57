"""Descriptors or address space run out: errors say how many groups there are and what to do."""

from __future__ import annotations

import gc
import os
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

import waybill
from ranks import Rank, RankPool

PoolOf = Callable[..., RankPool]
GIB = 1 << 30
ROOM = 16
"""More descriptors than a group of two takes."""


@contextmanager
def limited(kind: int, limit: int) -> Iterator[None]:
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def check_advice(text: str) -> None:
    assert re.search(r"\d+ group(s are| is) connected in this process", text), text
    assert "waybill.release" in text, text


def first_free_descriptor() -> int:
    """New descriptors get the lowest numbers: those above a limit do not matter."""
    found = os.open("/dev/null", os.O_RDONLY)
    os.close(found)
    return found


def connect_alone(rank: Rank) -> int:
    """With ever more descriptors, until it succeeds; how often it did not."""
    waybill.connect(dist.HashStore(), 0, 1, "first", timeout=5.0)
    failures = 0
    for more in range(ROOM):
        number = first_free_descriptor()
        with limited(resource.RLIMIT_NOFILE, number + more):
            try:
                waybill.connect(dist.HashStore(), 0, 1, "second", timeout=5.0)
            except waybill.WaybillError as error:
                assert "Too many open files" in str(error), error
                check_advice(str(error))
                failures += 1
            else:
                waybill.release("second")
                break
        gc.collect()
        assert first_free_descriptor() == number, "a failure left a descriptor"
    waybill.release("first")
    return failures


def test_descriptors_of_one_rank(pool_of: PoolOf) -> None:
    failures = pool_of(2, connected=False).run(connect_alone, ranks=[0])[0]
    assert 0 < failures < ROOM


def open_store(rank: Rank, port: int) -> int:
    """A store that needs no descriptor to be asked."""
    store = dist.TCPStore(
        "127.0.0.1", port, is_master=rank.rank == 0, wait_for_workers=False, use_libuv=True
    )
    rank.memory["tcp"] = store
    return int(store.port)


def connect_two(rank: Rank, more: int) -> str | None:
    """Rank 1 has few descriptors; rank 0 gets some error, and soon."""
    limit = first_free_descriptor() + more
    name = f"two-{more}"
    kind = resource.RLIMIT_NOFILE
    with limited(kind, limit if rank.rank == 1 else resource.getrlimit(kind)[0]):
        try:
            waybill.connect(rank.memory["tcp"], rank.rank, 2, name, timeout=2.0)
        except waybill.WaybillError as error:
            return str(error)
    waybill.release(name)
    return None


def test_descriptors_of_two_ranks(pool_of: PoolOf) -> None:
    pool = pool_of(2, connected=False)
    port = pool.run(open_store, 0, ranks=[0])[0]
    pool.run(open_store, port, ranks=[1])
    short = 0
    for more in (0, 3, 6, 9, 12):
        first, second = pool.run(connect_two, more)
        assert first is not None and second is not None
        if "Too many open files" in second:  # else it had to wait for the other's processor
            check_advice(second)
            short += 1
    assert short > 0
    assert pool.run(connect_two, 4 * ROOM) == [None, None]


def address_space() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmSize")).split()[1]) * 1024


def connect_in_little_space(rank: Rank, room: int) -> str | None:
    """`room` is enough for nothing, for this rank's windows, or for those of both."""
    rank.memory["round"] = rank.memory.get("round", 0) + 1
    name = f"space-{rank.memory['round']}"
    with limited(resource.RLIMIT_AS, address_space() + room):
        try:
            waybill.connect(rank.store(name), rank.rank, 2, name, timeout=2.0)
        except waybill.WaybillError as error:
            return str(error)
    waybill.release(name)
    return None


def test_address_space(pool_of: PoolOf) -> None:
    pool = pool_of(2, connected=False)
    for room, what in ((16 * GIB, "address space of"), (200 * GIB, "mapping")):
        for text in pool.run(connect_in_little_space, room):
            assert text is not None
            if "Cannot allocate memory" in text:
                assert what in text, text
                assert "WAYBILL_WINDOW_BYTES" in text, text
                check_advice(text)
    assert pool.run(connect_in_little_space, 500 * GIB) == [None, None]
