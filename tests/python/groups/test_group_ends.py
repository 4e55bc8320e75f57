"""Groups end with their process groups: what they leave behind, and who they wait for."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import waybill
from ranks import Rank, RankPool
from samples import BASE, arguments_of
from test_groups import catch, check_round_trip, dispatch
from waybill import _library, _lifetime

PoolOf = Callable[..., RankPool]

FULL = os.environ.get("WAYBILL_SWEEP") == "full"
ROUNDS = {2: 12, 8: 4, 16: 3}
"""Groups that are made one after the other, by E; 500 in the full sweep."""
WARM = 2
SETTLE_SECONDS = 20.0
CASES = [(2, "destroy"), (2, "all"), (2, "drop"), (8, "destroy"), (16, "destroy")]
FULL_CASES = [(ranks, how) for ranks in ROUNDS for how in ("destroy", "all", "drop")]


@pytest.fixture
def pair() -> Iterator[RankPool]:
    """Two ranks of their own, for tests that end one or stop it."""
    pool = RankPool(2, process_group=True, connected=False)
    yield pool
    if not pool.broken:
        pool.close()
    else:
        pool.close(graceful=False)


def left_behind() -> dict[str, int]:
    """What groups take of a process, by /proc."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "maps of ours": sum("waybill" in line for line in maps),
        "maps": len(maps),
        "GiB of address space": int(status["VmSize"].split()[0]) >> 20,
        "threads": int(status["Threads"]),
    }


SLACK = {"maps": 12, "GiB of address space": 1}
"""What threads leave whoever starts them, once: malloc's memory for each that runs at a time, and
stacks for the next. A group of two has 24 maps and 384 GiB.
"""


def settles(before: dict[str, int]) -> dict[str, int]:
    """What is left once it is what was there before, or after a while: torch takes its time with
    sockets of its own.
    """
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        now = left_behind()
        is_as_before = all(now[key] <= before[key] + SLACK.get(key, 0) for key in now)
        if is_as_before or time.monotonic() > deadline:
            assert is_as_before, (before, now)
            return now
        time.sleep(0.01)


def without_shutdown(end: Callable[[], None]) -> None:
    """Ends process groups as if torch did not shut them down: only the last reference tells."""
    kept = dist.ProcessGroup.shutdown
    dist.ProcessGroup.shutdown = lambda self: None  # type: ignore[method-assign]
    try:
        end()
    finally:
        dist.ProcessGroup.shutdown = kept  # type: ignore[method-assign]


def init_world(rank: Rank, number: int) -> None:
    dist.init_process_group(
        "gloo", store=rank.store(f"world-{number}"), rank=rank.rank, world_size=rank.world_size
    )


def make_and_end(rank: Rank, rounds: int, how: str) -> list[dict[str, int]]:
    """What is there after the first groups, and after the last."""
    numbers = []
    for turn in range(rounds + WARM):
        group = dist.group.WORLD if how == "all" else dist.new_group(list(range(rank.world_size)))
        name = waybill.comm_name(group, timeout=60.0, threads=1)
        check_round_trip(rank, name)
        if how == "destroy":
            dist.destroy_process_group(group)  # while somebody refers to it
            assert name not in _library.group_names()
        elif how == "all":
            dist.destroy_process_group()
            assert name not in _library.group_names()
            init_world(rank, turn)
        else:
            without_shutdown(lambda: dist.destroy_process_group(group))  # noqa: B023
            assert name in _library.group_names()
            del group
            gc.collect()
            assert name not in _library.group_names()
        group = None
        gc.collect()
        if turn == WARM - 1:
            numbers.append(left_behind())
    numbers.append(settles(numbers[0]))
    return numbers


@pytest.mark.parametrize(("num_ranks", "how"), FULL_CASES if FULL else CASES)
def test_groups_leave_nothing(num_ranks: int, how: str) -> None:
    rounds = 500 if FULL else ROUNDS[num_ranks]
    with RankPool(num_ranks, process_group=True, connected=False) as pool:
        begin = time.monotonic()
        numbers = pool.run(make_and_end, rounds, how, timeout=4 * rounds + 60.0)
        took = time.monotonic() - begin
    print(f"E = {num_ranks}, {rounds} groups, {how}, {took:.0f} s: {numbers[0]}")


# Names


def reuse_names(rank: Rank) -> list[str]:
    """The world again and again, and one process group that is released and asked again. Rank 0 has
    made one more group than the others.
    """
    found = []
    for turn in range(3):
        if rank.rank == 0 and turn == 1:
            alone = dist.HashStore()
            waybill.connect(alone, 0, 1, "mine", timeout=20.0)
            waybill.release("mine")
        found.append(waybill.comm_name(timeout=20.0))
        check_round_trip(rank, found[-1])
        if turn == 1:
            waybill.release(found[-1])
            found.append(waybill.comm_name(timeout=20.0))
            check_round_trip(rank, found[-1])
        dist.destroy_process_group()
        error = catch(rank, lambda _: dispatch(rank, found[-1]))[1]
        assert isinstance(error, waybill.StateError)
        init_world(rank, 100 + turn)
    return found


def test_names_are_not_used_twice(pair: RankPool) -> None:
    first, second = pair.run(reuse_names)
    assert first == second
    assert len(set(first)) == 4


def take_over_a_name(rank: Rank) -> None:
    """A name that was released and given to another group does not end with the process group."""
    group = dist.new_group([0, 1])
    name = waybill.comm_name(group, timeout=20.0)
    waybill.release(name)
    waybill.connect(rank.store("taken"), rank.rank, 2, name, timeout=20.0)
    dist.destroy_process_group(group)
    del group
    gc.collect()
    check_round_trip(rank, name)
    waybill.release(name)


def test_a_name_that_was_given_on(pair: RankPool) -> None:
    pair.run(take_over_a_name)


# Peers that still read, come late, never come, or have ended


def layer(rank: Rank) -> dict[str, Any]:
    return {"group_ep": rank.memory["name"], "ep_rank_id": rank.rank, "ep_world_size": 2}


def make_group(rank: Rank, timeout: float) -> None:
    rank.memory["before"] = left_behind()
    rank.memory["group"] = dist.new_group([0, 1])
    rank.memory["name"] = waybill.comm_name(rank.memory["group"], timeout=timeout, threads=1)


def set_up(rank: Rank) -> None:
    operator = f"{BASE}dispatch_setup"
    results: dict[str, Any] = {}
    results[operator] = getattr(waybill, operator)(**arguments_of(operator, layer(rank), results))
    rank.memory["results"] = results


def tear_down(rank: Rank) -> torch.Tensor:
    operator = f"{BASE}dispatch_teardown"
    arguments = arguments_of(operator, layer(rank), rank.memory.pop("results"))
    rows, _, _, counts = getattr(waybill, operator)(**arguments)
    return rows[: int(counts.sum())].clone()


def end(rank: Rank, how: str) -> float:
    """How long it took."""
    name = rank.memory.pop("name")
    rank.memory.pop("results", None)  # outputs keep the pool
    begin = time.monotonic()
    if how == "drop":
        without_shutdown(lambda: dist.destroy_process_group(rank.memory["group"]))
        assert name in _library.group_names()
    else:
        dist.destroy_process_group(rank.memory["group"])
        assert name not in _library.group_names()
    del rank.memory["group"]
    gc.collect()
    took = time.monotonic() - begin
    assert name not in _library.group_names()
    return took


def check_settled(rank: Rank) -> None:
    settles(rank.memory["before"])


def is_held(rank: Rank) -> bool:
    """Whether this process still maps windows of a group."""
    return left_behind()["maps of ours"] > rank.memory["before"]["maps of ours"]


def warm(pool: RankPool) -> None:
    pool.run(make_group, 20.0)
    pool.run(set_up)
    pool.run(tear_down)
    pool.run(end, "destroy")


@pytest.mark.parametrize("how", ["destroy", "drop"])
def test_a_peer_still_reads(pair: RankPool, how: str) -> None:
    """Rank 0 is through with its last call and ends the group; rank 1 reads it much later."""
    warm(pair)
    pair.run(make_group, 60.0)
    pair.run(set_up)
    right = pair.run(tear_down)[1]
    pair.run(set_up)
    pair.run(tear_down, ranks=[0])
    assert pair.run(end, how, ranks=[0])[0] < 30
    assert pair.run(is_held, ranks=[0])[0]
    assert torch.equal(pair.run(tear_down, ranks=[1])[1], right)
    pair.run(check_settled, ranks=[0])
    pair.run(end, how, ranks=[1])
    pair.run(check_settled)


def test_a_peer_never_reads(pair: RankPool) -> None:
    """Its setup stays open: the group's timeout bounds what rank 0 keeps."""
    warm(pair)
    pair.run(make_group, 1.0)
    pair.run(set_up)
    pair.run(tear_down, ranks=[0])
    assert pair.run(end, "destroy", ranks=[0])[0] < 30
    pair.run(check_settled, ranks=[0])
    pair.run(end, "destroy", ranks=[1])
    pair.run(check_settled)


def test_a_peer_ends_the_group_later(pair: RankPool) -> None:
    warm(pair)
    pair.run(make_group, 60.0)
    pair.run(check_group)
    pair.run(end, "destroy", ranks=[0])
    pair.run(check_settled, ranks=[0])
    pair.run(end, "destroy", ranks=[1])
    pair.run(check_settled)


def check_group(rank: Rank) -> None:
    check_round_trip(rank, rank.memory["name"])


@pytest.mark.parametrize("how", ["destroy", "drop"])
def test_a_peer_has_ended(pair: RankPool, how: str) -> None:
    """In the call that rank 0 made last, which it has not read."""
    warm(pair)
    pair.run(make_group, 600.0)
    pair.run(set_up)
    pair.run(tear_down, ranks=[0])
    pair.kill(1)
    assert pair.run(end, how, ranks=[0])[0] < 30
    pair.run(check_settled, ranks=[0])


def test_a_peer_stands_still(pair: RankPool) -> None:
    warm(pair)
    pair.run(make_group, 600.0)
    pair.run(set_up)
    pair.run(tear_down, ranks=[0])
    pair.signal(1, signal.SIGSTOP)
    try:
        assert pair.run(end, "destroy", ranks=[0])[0] < 30
    finally:
        pair.signal(1, signal.SIGCONT)
    pair.run(tear_down, ranks=[1])
    pair.run(check_settled, ranks=[0])


# Ends amid calls, in other threads, in children, and of the process


def drop_in_a_call(rank: Rank) -> None:
    """The last reference goes while an operator of the group waits, on the thread that waits."""
    name = rank.memory["name"]
    if rank.rank == 1:
        wait_for_file(rank, "dropped")
        check_round_trip(rank, name)
        return
    held = [rank.memory.pop("group")]
    without_shutdown(lambda: dist.destroy_process_group(held[0]))

    def drop(*_: Any) -> None:
        assert name in _library.group_names()
        held.clear()
        gc.collect()
        assert name not in _library.group_names()
        (rank.folder / "dropped").touch()

    kept = signal.signal(signal.SIGALRM, drop)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        dispatch(rank, name)
    finally:
        signal.signal(signal.SIGALRM, kept)
    assert not held
    error = catch(rank, lambda _: dispatch(rank, name))[1]
    assert isinstance(error, waybill.StateError) and "known" in str(error)


def wait_for_file(rank: Rank, name: str) -> None:
    deadline = time.monotonic() + 30
    while not (rank.folder / name).exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_last_reference_goes_in_a_call(pair: RankPool) -> None:
    """That call is right; rank 1's next one finds nobody."""
    warm(pair)
    pair.run(make_group, 2.0)
    first, second = pair.outcomes(drop_in_a_call)
    assert first is None
    assert isinstance(second, waybill.WaybillError)  # rank 0 has no name for combine any more
    pair.run(check_settled, ranks=[0])


def end_in_another_thread(rank: Rank) -> None:
    """destroy_process_group while a call waits in another thread: the call ends as it would."""
    name = rank.memory["name"]
    if rank.rank == 1:
        wait_for_file(rank, "destroyed")
        rank.memory["rows"] = dispatch(rank, name)
        return
    found: list[Any] = []

    def run() -> None:
        found.append(catch(rank, lambda _: dispatch(rank, name))[1])

    thread = threading.Thread(target=run)
    before = waybill.stats(name)["calls"]
    thread.start()
    while waybill.stats(name)["calls"] == before:
        time.sleep(0.001)
    end(rank, "destroy")
    (rank.folder / "destroyed").touch()
    thread.join(30)
    assert found == [None]


def test_another_thread_is_in_a_call(pair: RankPool) -> None:
    warm(pair)
    pair.run(make_group, 30.0)
    pair.run(end_in_another_thread)
    pair.run(check_settled, ranks=[0])


def drop_in_a_child(rank: Rank) -> None:
    """A forked child has its copy of the process group without the end of ours. It cannot drop it:
    gloo waits for threads that the child does not have.
    """
    name = rank.memory["name"]
    child = os.fork()
    if child == 0:
        ends = name in _lifetime._finalizers or len(_lifetime.names) > 0
        _library.end(name, 0.0)
        _library.finish_ended(1.0)
        os._exit(1 if ends else 0)
    assert os.waitpid(child, 0)[1] == 0
    check_group(rank)


def test_a_forked_child_ends_nothing(pair: RankPool) -> None:
    pair.run(make_group, 20.0)
    pair.run(drop_in_a_child)
    pair.run(end, "destroy")


SCRIPT = """
import os, sys, time
import torch
from torch.distributed import *
import torch.distributed as dist
from torch.distributed import destroy_process_group  # a name of its own, before waybill
import torch.multiprocessing as mp
import waybill

def main(rank, folder, how):
    store = dist.FileStore(os.path.join(folder, "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    group = dist.new_group([0, 1])
    for held in (group, dist.group.WORLD):
        name = waybill.comm_name(held, timeout=20.0)
        waybill._npu_distribute_barrier(torch.zeros(1), name, 2)
    if how == "destroy":
        destroy_process_group()
        assert waybill._library.group_names() == []
    elif how == "setup":
        ids = torch.tensor([[0], [1]], dtype=torch.int32)
        arguments = (torch.zeros(2, 512).bfloat16(), ids, name, 2, rank, 2)
        y, index, commands = waybill.npu_moe_distribute_dispatch_setup(*arguments)
        if rank == 0:
            waybill.npu_moe_distribute_dispatch_teardown(
                arguments[0], y, ids, commands, *arguments[2:]
            )
            destroy_process_group()
            print("ended", flush=True)
        else:
            time.sleep(3)  # never reads; rank 0's patience ends meanwhile
    if rank == 0:
        print("end of", how, flush=True)

if __name__ == "__main__":
    mp.start_processes(main, args=sys.argv[1:], nprocs=2, start_method="fork")
"""


@pytest.mark.parametrize("how", ["exit", "destroy", "setup"])
def test_ends_of_processes(tmp_path: Path, how: str) -> None:
    """Without an error, a word on stderr, or a wait without end."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path), how]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (result.returncode, result.stderr) == (0, ""), result
    assert f"end of {how}" in result.stdout
