"""A process that was started again comes back under the rank of the one that was killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

import waybill
from ranks import Rank, RankPool

E, BS, H = 3, 2, 8


@pytest.fixture
def pool() -> Iterator[RankPool]:
    with RankPool(E) as made:
        yield made


class DeadStore(dist.Store):
    """What a store is whose server died with a rank."""

    def check(self, keys: list[str]) -> bool:
        raise RuntimeError("connection closed by the server")

    def get(self, key: str) -> bytes:
        raise RuntimeError("connection closed by the server")


def round_trip(own: Rank) -> bool:
    """A layer whose result is its input, on the whole group."""
    layer = {**own.layer, "moe_expert_num": E}
    x = torch.arange(BS * H, dtype=torch.float32).reshape(BS, H) + own.rank
    ids = torch.tensor([[own.rank], [(own.rank + 1) % E]], dtype=torch.int32)
    for _ in range(3):
        rows, _, triples, _, counts, _, _ = waybill.npu_moe_distribute_dispatch_v2(x, ids, **layer)
        back = waybill.npu_moe_distribute_combine_v2(
            rows, ids, triples, counts, torch.ones(BS, 1), **layer
        )
        if not torch.equal(back, x):
            return False
    return True


def fail_and_reset(own: Rank) -> list[int]:
    with pytest.raises(waybill.PeerLost):
        round_trip(own)
    return waybill.reset(own.name)


def take_in(own: Rank, newcomers: list[int]) -> list[int]:
    deadline = time.monotonic() + 30
    while waybill.stats(own.name)["rejoining"] != newcomers and time.monotonic() < deadline:
        time.sleep(0.002)
    return waybill.reset(own.name)


def come_back(own: Rank, how: str) -> list[int]:
    store = {"store": own.store, "dead store": DeadStore, "no store": lambda: None}[how]()
    waybill.connect(store, own.rank, own.world_size, own.name, timeout=20)
    return [r for r in range(own.world_size) if r not in waybill.stats(own.name)["absent"]]


def either(own: Rank, newcomers: list[int], how: str) -> list[int]:
    return come_back(own, how) if own.rank in newcomers else take_in(own, newcomers)


@pytest.mark.parametrize("how", ["store", "dead store", "no store"])
@pytest.mark.parametrize("lost", [[2], [0], [0, 1]], ids=str)
def test_group_is_whole_again(pool: RankPool, lost: list[int], how: str) -> None:
    alive = [rank for rank in range(E) if rank not in lost]
    assert all(pool.run(round_trip))
    for rank in lost:
        pool.kill(rank)
    found = pool.run(fail_and_reset, ranks=alive)
    assert [found[rank] for rank in alive] == [alive] * len(alive)
    for rank in lost:
        pool.restart(rank)
    assert pool.run(either, lost, how) == [list(range(E))] * E
    assert all(pool.run(round_trip))


def epoch_of(own: Rank) -> tuple[int, list[int], list[int]]:
    stats = waybill.stats(own.name)
    return stats["epoch"], stats["absent"], stats["rejoining"]


def test_again_and_again(pool: RankPool) -> None:
    """Nothing of the ranks that were replaced stays behind."""
    for turn in range(4):
        lost = turn % E
        alive = [rank for rank in range(E) if rank != lost]
        pool.kill(lost)
        pool.run(fail_and_reset, ranks=alive)
        assert pool.run(epoch_of, ranks=alive)[alive[0]] == (2 * turn + 2, [lost], [])
        pool.restart(lost)
        pool.run(either, [lost], "store")
        assert all(pool.run(round_trip))
        assert pool.run(epoch_of) == [(2 * turn + 3, [], [])] * E


def connect_again(own: Rank) -> bool:
    waybill.connect(own.store(), own.rank, own.world_size, own.name, timeout=20)
    return round_trip(own)


def test_all_of_them_is_a_new_group(pool: RankPool) -> None:
    """Nobody is left who never went: the ranks meet at the store as for the first time."""
    for rank in range(E):
        pool.kill(rank)
    for rank in range(E):
        pool.restart(rank)
    assert all(pool.run(connect_again))


def released_and_again(own: Rank) -> bool:
    waybill.release(own.name)
    return connect_again(own)


def test_release_and_connect_is_a_new_group(pool: RankPool) -> None:
    assert all(pool.run(released_and_again))


def fails(own: Rank) -> waybill.WaybillError:
    with pytest.raises(waybill.StateError) as caught:
        waybill.connect(None, own.rank, own.world_size, "nobody-has-this-name", timeout=1)
    return caught.value


def test_no_store_and_no_group(pool: RankPool) -> None:
    assert "'nobody-has-this-name'" in str(pool.run(fails, ranks=[0])[0])


def gives_up(own: Rank) -> float:
    """Seconds until a process that nobody takes in is told so."""
    begin = time.monotonic()
    with pytest.raises(waybill.PeerTimeout):
        waybill.connect(own.store(), own.rank, own.world_size, own.name, timeout=0.3)
    return time.monotonic() - begin


def test_nobody_looks(pool: RankPool) -> None:
    """Processes come and go again more often than the others' queue is long; none hangs."""
    pool.kill(2)
    pool.restart(2)
    for _ in range(2 * E):
        assert pool.run(gives_up, ranks=[2])[2] < 10
    assert pool.run(fail_and_reset, ranks=[0, 1])[:2] == [[0, 1]] * 2
    assert pool.run(either, [2], "store") == [list(range(E))] * E


def descriptors(own: Rank) -> int:
    assert waybill.stats(own.name)["rejoining"] == []
    return len(os.listdir("/proc/self/fd"))


def test_looking_keeps_nothing_of_those_that_went(pool: RankPool) -> None:
    pool.kill(2)
    before = pool.run(descriptors, ranks=[0, 1])
    pool.restart(2)
    for _ in range(3):
        pool.run(gives_up, ranks=[2])
        assert pool.run(descriptors, ranks=[0, 1]) == before


def fork_a_worker(own: Rank) -> int:
    """As a data loader does: a child without exec, which has all descriptors."""
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    return pid


def test_children_of_the_one_that_ended_live_on(pool: RankPool) -> None:
    worker = pool.run(fork_a_worker, ranks=[2])[2]
    try:
        pool.kill(2)
        pool.restart(2)
        assert pool.run(either, [2], "store") == [list(range(E))] * E
        assert all(pool.run(round_trip))
    finally:
        os.kill(worker, signal.SIGKILL)
