"""Groups: names, lifetimes of groups and outputs, ranks that end, come late or are stopped."""

from __future__ import annotations

import gc
import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor

import waybill
from ranks import BAD_ARGUMENT, Rank, RankPool
from round_trips import check_works
from waybill import _meeting

PoolOf = Callable[..., RankPool]
Dispatched = tuple[Tensor, ...]

BS, K, H = 8, 2, 16


@pytest.fixture
def worlds(pool_of: PoolOf) -> RankPool:
    """Two ranks with a process group of torch.distributed and no group of ours."""
    return pool_of(2, process_group=True, connected=False)


@pytest.fixture
def patient_pool() -> Iterator[Callable[[int, float], RankPool]]:
    """A pool of its own, for tests that break it."""
    pools: list[RankPool] = []

    def make(num_ranks: int, timeout: float) -> RankPool:
        pools.append(RankPool(num_ranks, timeout=timeout))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def dispatch(
    rank: Rank, name: str | None = None, *, bs: int = BS, hidden: int = H, add: float = 0
) -> Dispatched:
    """Every token goes to expert 0 and to the last one; there is one expert a rank."""
    x = torch.arange(bs * hidden).reshape(bs, hidden).remainder(97).bfloat16() + rank.rank + add
    ids = torch.tensor([[0, rank.world_size - 1]], dtype=torch.int32).repeat(bs, 1)
    where = {**rank.layer, "group_ep": name or rank.name, "moe_expert_num": rank.world_size}
    return waybill.npu_moe_distribute_dispatch_v2(x, ids, **where)


def combine(
    rank: Rank, rows: Tensor, dispatched: Dispatched, name: str | None = None, *, bs: int = BS
) -> Tensor:
    ids = torch.tensor([[0, rank.world_size - 1]], dtype=torch.int32).repeat(bs, 1)
    where = {**rank.layer, "group_ep": name or rank.name, "moe_expert_num": rank.world_size}
    return waybill.npu_moe_distribute_combine_v2(
        rows, ids, dispatched[2], dispatched[4], torch.full((bs, K), 0.5), **where
    )


def check_round_trip(rank: Rank, name: str | None = None) -> None:
    """Rows come back as they were: two halves of each make the whole."""
    dispatched = dispatch(rank, name)
    back = combine(rank, dispatched[0], dispatched, name)
    x = torch.arange(BS * H).reshape(BS, H).remainder(97).bfloat16() + rank.rank
    assert torch.equal(back, x)


def digest(tensors: Dispatched) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


# Names


def name_groups(rank: Rank) -> dict[str, Any]:
    found: dict[str, Any] = {"first": waybill.comm_name(timeout=20.0, threads=1)}
    found["again"] = waybill.comm_name()
    found["equal"] = waybill.comm_name(dist.group.WORLD, timeout=20.0, threads=1)
    for options in ({"timeout": 3.0}, {"threads": 2}, {"timeout": 0.0}, {"strict": "a4"}):
        try:
            waybill.comm_name(**options)
        except waybill.ArgumentError as error:
            found[next(iter(options))] = error
    second = dist.new_group([0, 1])
    found["second"] = waybill.comm_name(second)
    check_round_trip(rank, found["first"])
    check_round_trip(rank, found["second"])
    found["calls"] = [waybill.stats(found[key])["calls"] for key in ("first", "second")]
    waybill.release(found["second"])
    found["renamed"] = waybill.comm_name(second)
    check_round_trip(rank, found["renamed"])
    waybill.release(found["renamed"])
    dist.destroy_process_group(second)
    return found


def test_comm_name(worlds: RankPool) -> None:
    ranks = worlds.run(name_groups)
    for found in ranks:
        name = found["first"]
        assert 1 <= len(name) <= 127
        assert found["again"] == found["equal"] == name
        assert found["second"] != name
        assert found["calls"] == [2, 2]
        for option in ("timeout", "threads", "strict"):
            assert isinstance(found[option], ValueError)
            assert found[option].operator == "comm_name"
    for key in ("first", "second", "renamed"):
        assert len({found[key] for found in ranks}) == 1


def name_from_outside(rank: Rank) -> BaseException | None:
    group = dist.new_group([0])
    error = catch(rank, lambda _: waybill.comm_name(group, timeout=20.0))[1]
    dist.destroy_process_group(group)
    return error


def test_comm_name_of_a_rank_that_is_outside(worlds: RankPool) -> None:
    inside, outside = worlds.run(name_from_outside)
    assert inside is None
    assert isinstance(outside, waybill.ArgumentError)
    assert outside.argument == "group"
    assert "rank 1 is not in" in str(outside) and "-100" not in str(outside)


def name_before_init(rank: Rank) -> str:
    return waybill.comm_name()


def test_comm_name_without_torch_distributed(pool_of: PoolOf) -> None:
    for error in pool_of(2).outcomes(name_before_init):
        assert isinstance(error, waybill.StateError)
        assert error.operator == "comm_name"


def connect_again(rank: Rank, name: str) -> Dispatched:
    """A used name, then release and the same name; outputs of before are as they were."""
    store = rank.store(name)
    assert waybill.connect(store, rank.rank, rank.world_size, name, timeout=20.0) == name
    outputs = dispatch(rank, name)
    before = digest(outputs)
    with pytest.raises(waybill.StateError, match="in use"):
        waybill.connect(store, rank.rank, rank.world_size, name)
    waybill.release(name)
    assert digest(outputs) == before
    with pytest.raises(waybill.StateError, match=name):
        dispatch(rank, name)
    for action in (waybill.release, waybill.stats, waybill.reset):
        with pytest.raises(waybill.StateError, match=name):
            action(name)
    waybill.connect(store, rank.rank, rank.world_size, name, timeout=20.0)
    check_round_trip(rank, name)
    waybill.release(name)
    assert digest(outputs) == before
    return outputs


def test_connect_release_connect(pool_of: PoolOf) -> None:
    pool = pool_of(2)
    first = pool.run(connect_again, "one")
    assert digest(first[0]) != digest(first[1])
    pool.run(connect_again, "n" * 127)


def follow_by_hand(board: _meeting._Board, nonce: str) -> str:
    """Rank 1 of a meeting up to where it would read its end; the token that it has accepted."""
    board.post("rank-1", {"nonce": nonce, "process": None})
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        offer = board.read("offer")
        if offer is not None and nonce in offer["nonces"]:
            board.post("accepted-1", {"token": offer["token"]})
            return str(offer["token"])
        time.sleep(0.001)
    raise AssertionError("rank 0 made no offer")


def test_a_slow_rank_reads_the_end_of_its_own_meeting() -> None:
    """Rank 0 meets again before rank 1 has read what the first meeting came to."""
    store = dist.HashStore()
    board = _meeting._Board(store, "slow")

    def lead(word: str, timeout: float) -> dict[str, Any]:
        return _meeting.meet(store, "slow", 0, 2, {}, lambda _: {"word": word}, timeout)

    with ThreadPoolExecutor(1) as leader:
        first = leader.submit(lead, "first", 20.0)
        token = follow_by_hand(board, "a")
        assert first.result() == {"word": "first"}
        with pytest.raises(waybill.PeerTimeout) as caught:
            lead("second", 0.1)
        assert caught.value.ranks == [1]
        offer, final = board.read("offer"), board.read("final")
        assert offer is not None and final is not None
        assert (offer["token"], final["token"]) == (token, token)
        assert offer["decision"] == {"word": "first"}

        third = leader.submit(lead, "third", 20.0)
        follow_by_hand(board, "b")
        assert third.result() == {"word": "third"}


@pytest.mark.parametrize("name", ["", "n" * 128])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(waybill.ArgumentError, match="1 to 127"):
        waybill.connect(dist.HashStore(), 0, 1, name)


# Outputs and inputs


def combine_in_place(rank: Rank) -> list[tuple[int, Tensor]]:
    """rows_in_place and the result, for expand_x in the group's memory and elsewhere."""
    dispatched = dispatch(rank)
    own = waybill.expert_buffer(rank.name, *dispatched[0].shape, torch.bfloat16)
    own.copy_(dispatched[0])
    found = []
    for rows in (own, dispatched[0].clone(), dispatched[0]):
        before = waybill.stats(rank.name)["rows_in_place"]
        result = combine(rank, rows, dispatched).clone()
        found.append((waybill.stats(rank.name)["rows_in_place"] - before, result))
    return found


def test_rows_in_place(pool_of: PoolOf) -> None:
    for (own, first), (elsewhere, second), (output, third) in pool_of(2).run(combine_in_place):
        assert own == output == 2 * BS
        assert elsewhere == 0
        assert torch.equal(first, second) and torch.equal(first, third)


def use_strides(rank: Rank) -> None:
    """Any strides of any input, which stays as it is."""
    num_ranks = rank.world_size
    x = torch.randn(BS, H).bfloat16()
    ids = torch.randint(0, num_ranks, (BS, 1)).repeat(1, K).int()
    ids[:, 1] = (ids[:, 0] + 1) % num_ranks
    weights = torch.rand(BS, K)
    where = {**rank.layer, "moe_expert_num": num_ranks}
    layouts: list[Callable[[Tensor], Tensor]] = [
        lambda t: t,
        lambda t: t.t().contiguous().t(),
        lambda t: torch.stack([t, t], dim=2)[:, :, 1],
        lambda t: torch.cat([t, t])[BS - BS :: 1][: len(t)],
        lambda t: torch.stack([t, t], dim=1)[:, 1],
    ]
    results = []
    for layout in layouts:
        mine = [layout(t) for t in (x, ids, weights)]
        copies = [t.clone() for t in mine]
        got = waybill.npu_moe_distribute_dispatch_v2(
            mine[0], mine[1], expert_scales=mine[2], **where
        )
        rows = int(got[4][:num_ranks].max())
        back = waybill.npu_moe_distribute_combine_v2(
            layout(got[0]), mine[1], got[2], got[4], mine[2], **where
        )
        results.append((got[0][:rows].clone(), got[6][:rows].clone(), back.clone()))
        assert all(torch.equal(*pair) for pair in zip(mine, copies, strict=True))
    for result in results[1:]:
        assert all(torch.equal(*pair) for pair in zip(result, results[0], strict=True))


def test_strided_inputs(pool_of: PoolOf) -> None:
    pool_of(2).run(use_strides)


def hold_outputs(rank: Rank) -> tuple[int, int]:
    """Fifty held outputs through fifty more calls; pool numbers when all are dropped."""
    gc.collect()
    held = [dispatch(rank, bs=32, hidden=7168, add=i) for i in range(50)]
    before = [digest(outputs) for outputs in held]
    assert waybill.stats(rank.name)["pool_buffers"] >= 50
    for i in range(50):
        more = dispatch(rank, bs=32, hidden=7168, add=100 + i)
    assert [digest(outputs) for outputs in held] == before
    held.clear()
    del more
    gc.collect()
    numbers = waybill.stats(rank.name)
    return numbers["pool_buffers"], numbers["pool_bytes_in_use"]


def test_held_outputs_never_change(patient_pool: Callable[[int, float], RankPool]) -> None:
    assert patient_pool(4, 60.0).run(hold_outputs, timeout=120) == [(0, 0)] * 4


def send_to_child(rank: Rank) -> bool:
    """An output through a torch.multiprocessing queue, to a forked child."""
    output = dispatch(rank)[0]
    want = output.float().tolist()
    queue = torch.multiprocessing.SimpleQueue()
    child = os.fork()
    if child == 0:
        os._exit(0 if queue.get().float().tolist() == want else 1)
    queue.put(output)
    _, status = os.waitpid(child, 0)
    assert output.float().tolist() == want
    check_round_trip(rank)
    return status == 0


def test_outputs_go_through_queues(pool_of: PoolOf) -> None:
    assert pool_of(2).run(send_to_child) == [True, True]


# Ranks that do not come


def catch(rank: Rank, action: Callable[..., Any]) -> tuple[float, BaseException | None]:
    """When an action ended, and what it raised."""
    try:
        action(rank)
    except (waybill.WaybillError, KeyboardInterrupt) as error:
        return time.monotonic(), error
    return time.monotonic(), None


def reset(rank: Rank) -> list[int]:
    return waybill.reset(rank.name)


def test_a_rank_is_killed(patient_pool: Callable[[int, float], RankPool]) -> None:
    """While others wait for it; and the others hear of it again in a later call."""
    pool = patient_pool(3, 60.0)
    pool.start(catch, dispatch, ranks=[0, 2])
    time.sleep(0.3)
    killed = time.monotonic()
    pool.kill(1)
    results = pool.wait()
    for rank in (0, 2):
        ended, error = results[rank]
        assert isinstance(error, waybill.PeerLost)
        assert error.ranks == [1]
        assert error.operator == "npu_moe_distribute_dispatch_v2"
        assert "rank 1" in str(error)
        assert ended - killed < 2.0
    for rank in (0, 2):
        _, error = pool.outcomes(catch, dispatch, ranks=[rank])[rank]
        assert isinstance(error, waybill.StateError) and "reset" in str(error)
    assert pool.run(reset, ranks=[0, 2]) == [[0, 2], None, [0, 2]]
    # A call that includes a missing rank fails at once.
    for rank in (0, 2):
        begin = time.monotonic()
        ended, error = pool.outcomes(catch, dispatch, ranks=[rank])[rank]
        assert isinstance(error, waybill.WaybillError)
        assert error.ranks == [1]
        assert ended - begin < 1.0


def test_a_rank_is_late(pool_of: PoolOf) -> None:
    pool = pool_of(3, timeout=1.0)
    begin = time.monotonic()
    results = pool.run(catch, dispatch, ranks=[0, 2])
    for rank in (0, 2):
        ended, error = results[rank]
        assert isinstance(error, waybill.PeerTimeout)
        assert isinstance(error, TimeoutError)
        assert (error.operator, error.ranks) == ("npu_moe_distribute_dispatch_v2", [1])
        assert "rank 1" in str(error) and "waiting for signals" in str(error)
        assert 0.9 < ended - begin < 3.0
    for _, error in pool.run(catch, dispatch):
        assert isinstance(error, waybill.StateError)
    assert pool.run(reset) == [[0, 1, 2]] * 3
    pool.run(check_round_trip)
    check_works(pool)


def test_ctrl_c(pool_of: PoolOf) -> None:
    pool = pool_of(2)
    pool.start(catch, dispatch, ranks=[0])
    time.sleep(0.5)
    sent = time.monotonic()
    pool.signal(0, signal.SIGINT)
    ended, error = pool.wait()[0]
    assert isinstance(error, KeyboardInterrupt)
    assert ended - sent < 1.0
    for _ in range(2):
        _, error = pool.run(catch, dispatch, ranks=[0])[0]
        assert isinstance(error, waybill.StateError) and "reset" in str(error)
    assert pool.run(reset) == [[0, 1]] * 2
    pool.run(check_round_trip)


# Threads and processes


def call_in_child(rank: Rank) -> str:
    """What a forked child gets. It can read outputs that it inherited."""
    outputs = dispatch(rank)
    before = digest(outputs)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            dispatch(rank)
            text = "no error"
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        text += "" if digest(outputs) == before else " and outputs differ"
        del outputs
        gc.collect()
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    assert digest(outputs) == before
    check_round_trip(rank)
    return text


def test_a_forked_child(pool_of: PoolOf) -> None:
    for text in pool_of(2).run(call_in_child):
        assert text.startswith("StateError: npu_moe_distribute_dispatch_v2")
        assert "forked" in text and "differ" not in text


def count_meanwhile(rank: Rank) -> int:
    """How often another thread of rank 0 ran while its operator waited for rank 1."""
    if rank.rank == 1:
        time.sleep(0.5)
        dispatch(rank)
        return 0
    turns: list[float] = []
    stop = threading.Event()

    def count() -> None:
        while not stop.wait(0.005):
            turns.append(time.monotonic())

    thread = threading.Thread(target=count)
    thread.start()
    begin = time.monotonic()
    dispatch(rank)
    end = time.monotonic()
    stop.set()
    thread.join()
    return sum(begin + 0.05 < turn < end - 0.05 for turn in turns)


def test_other_threads_run_while_an_operator_waits(pool_of: PoolOf) -> None:
    assert pool_of(2).run(count_meanwhile)[0] >= 20


def call_twice_at_a_time(rank: Rank) -> BaseException | None:
    if rank.rank == 1:
        time.sleep(0.5)
        dispatch(rank)
        return None
    thread = threading.Thread(target=dispatch, args=(rank,))
    thread.start()
    time.sleep(0.2)
    error = catch(rank, dispatch)[1]
    thread.join()
    return error


def test_a_second_thread(pool_of: PoolOf) -> None:
    pool = pool_of(2)
    error = pool.run(call_twice_at_a_time)[0]
    assert isinstance(error, waybill.StateError)
    assert "one call at a time" in str(error)
    pool.run(check_round_trip)


# Errors


def fail_in_torch(rank: Rank, changes: dict[str, Any]) -> tuple[Exception, Any]:
    """From the operators of torch.ops."""
    arguments = {**rank.layer, "moe_expert_num": 2, **changes}
    x, ids = torch.zeros(2, H), torch.zeros(2, 1, dtype=torch.int32)
    try:
        torch.ops.waybill.npu_moe_distribute_dispatch_v2(x, ids, **arguments)
    except Exception as error:
        return error, waybill.last_error()
    raise AssertionError("no error")


def test_last_error(pool_of: PoolOf) -> None:
    pool = pool_of(2)
    first, second = pool.run(fail_in_torch, per_rank=[({"global_bs": 3},), ({},)])
    assert type(first[0]) is BAD_ARGUMENT
    assert isinstance(first[1], waybill.ArgumentError) and first[1].argument == "global_bs"
    assert type(second[0]) is RuntimeError
    assert isinstance(second[1], waybill.MismatchError) and second[1].ranks == [0]
    for raised, last in (first, second):
        assert str(last) in str(raised)
        assert last.operator == "npu_moe_distribute_dispatch_v2"
    for raised, last in pool.run(fail_in_torch, {"group_ep": "nobody"}):
        assert type(raised) is RuntimeError
        assert isinstance(last, waybill.StateError)
    pool.run(check_round_trip)


def run_short_of_memory(rank: Rank) -> BaseException | None:
    """16 MiB for everything, and a call that wants more; then one that does not."""
    os.environ["WAYBILL_MAX_MEMORY"] = "16M"
    try:
        waybill.connect(rank.store("memory"), rank.rank, rank.world_size, "memory", timeout=10.0)
        error = catch(rank, lambda _: dispatch(rank, "memory", bs=512, hidden=16384))[1]
        check_round_trip(rank, "memory")
        waybill.release("memory")
    finally:
        del os.environ["WAYBILL_MAX_MEMORY"]
    return error


def test_max_memory(pool_of: PoolOf) -> None:
    errors = pool_of(2).run(run_short_of_memory)
    short = [error for error in errors if type(error) is waybill.WaybillError]
    assert short, errors
    for error in short:
        assert "wanted" in str(error) and "WAYBILL_MAX_MEMORY" in str(error)
    for error in errors:
        assert isinstance(error, waybill.WaybillError)
