"""Pools of ranks that tests share, and the check that nothing is left of them."""

from __future__ import annotations

import os
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from local_groups import LocalGroups
from ranks import LocalPool, RankPool, is_alive

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Inductor builds C++ against Python's headers, which not every installation has."""
    if Path(sysconfig.get_path("include"), "Python.h").exists():
        return
    for item in items:
        if "inductor" in item.name:
            item.add_marker(pytest.mark.skip(reason="Python.h is missing: install python3-dev"))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tensors as small as those of some tests only lose time to a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def pool_of() -> Iterator[Callable[..., RankPool]]:
    """A resident pool of n processes; broken ones are replaced."""
    pools: dict[tuple[object, ...], RankPool] = {}
    pids: list[int] = []

    def get(num_ranks: int, **options: object) -> RankPool:
        key = (num_ranks, *sorted(options.items()))
        if key in pools and pools[key].broken:
            pools.pop(key)
        if key not in pools:
            pools[key] = RankPool(num_ranks, **options)
            pids.extend(pools[key].pids)
        return pools[key]

    yield get
    for pool in pools.values():
        if not pool.broken:
            pool.close()
    deadline = time.monotonic() + 5
    while any(is_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [pid for pid in pids if is_alive(pid)]
    for pid in left:
        os.kill(pid, 9)
    assert not left, f"rank processes were left: {left}"


@pytest.fixture(scope="session")
def local_pool_of() -> Iterator[Callable[[int], LocalPool]]:
    """A resident pool of n threads."""
    pools: dict[int, LocalPool] = {}

    def get(num_ranks: int) -> LocalPool:
        if num_ranks not in pools:
            pools[num_ranks] = LocalPool(num_ranks)
        return pools[num_ranks]

    yield get
    for pool in pools.values():
        pool.close()


@pytest.fixture(scope="session")
def local_groups_of() -> Iterator[Callable[..., LocalGroups]]:
    """Resident groups of E (and TP = 2) threads."""
    kept: dict[tuple[int, int], LocalGroups] = {}

    def get(num_ranks: int, tp: int = 1) -> LocalGroups:
        if (num_ranks, tp) not in kept:
            kept[num_ranks, tp] = LocalGroups(num_ranks, tp)
        return kept[num_ranks, tp]

    yield get
    for groups in kept.values():
        groups.close()
