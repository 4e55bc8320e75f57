"""No rank fails alone and goes on: whatever fails on one rank, the others hear of it in the same
call or in their next one, and nobody gets rows of another layer. Values carry the layer's number.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import waybill
from host_ranks import HostRanks
from numbered_layers import FORMS, Layer, allow_memory
from ranks import Rank, RankPool
from test_hosts import no_namespaces, no_ucx
from waybill.tools.namespaces import Network

PoolOf = Callable[..., RankPool]
Where = dict[str, Any]
E = 3
TIMEOUT = 60.0  # of groups whose ranks have to hear of a failure at once
AT_ONCE = 10.0
TP_FORMS = ("v2", "v1+rms")
SMALL_WINDOW = 4 << 20
WIDE: dict[str, Any] = {"bs": 64, "hidden": 1024}
"""Windows and pools of small layers have no room for it."""
WIDER: dict[str, Any] = {"bs": 256, "hidden": 1024}


class Told(NamedTuple):
    """What a program heard of one layer."""

    error: BaseException | None
    ended: float

    @property
    def kind(self) -> type | None:
        return None if self.error is None else type(self.error)


class ExpertFailed(Exception):
    """What a program raises in its own code."""


def tell(action: Callable[[], Any]) -> Told:
    """A server that catches every exception and goes on."""
    error: BaseException | None = None
    try:
        action()
    except (waybill.WaybillError, ExpertFailed, KeyboardInterrupt) as caught:
        # A traceback holds the outputs of the frames that it has been through.
        error = caught.with_traceback(None)
    return Told(error, time.monotonic())


def place_of(rank: Rank, name: str | None = None) -> Where:
    return {**rank.layer, "group_ep": name or rank.name}


def layer(rank: Rank, form: str, number: int, **sizes: Any) -> Told:
    return tell(lambda: Layer(form, rank.world_size, number, **sizes).run(place_of(rank)))


def layers(rank: Rank, form: str, first: int, count: int = 4) -> list[Told]:
    return [layer(rank, form, first + i) for i in range(count)]


def all_right(told: list[list[Told]]) -> None:
    for own in told:
        assert [each.error for each in own] == [None] * len(own)


def reset(rank: Rank) -> list[int]:
    return waybill.reset(rank.name)


def expect_needs_reset(pool: RankPool, form: str) -> None:
    """Nothing works before a reset of all, and everything after it."""
    for own in pool.run(layers, form, 20, 2):
        assert [each.kind for each in own] == [waybill.StateError] * 2
    everyone = list(range(pool.num_ranks))
    assert pool.run(reset) == [everyone] * pool.num_ranks
    all_right(pool.run(layers, form, 10))


# A shortage of memory


def short_of_memory(rank: Rank, form: str, short: int) -> list[Told]:
    """Layers that are warm, one for which rank `short` has no memory, and more small ones."""
    found = layers(rank, form, 0)
    allow_memory(0 if rank.rank == short else None)
    found.append(layer(rank, form, 4, **WIDER))
    found += layers(rank, form, 5)
    allow_memory(None)
    found.append(layer(rank, form, 9, **WIDER))
    return found


def too_many_rows(rank: Rank, form: str, crowded: int) -> list[Told]:
    """Windows are wide enough; then rank `crowded` gets more rows than it has memory for."""
    other = (crowded + 1) % rank.world_size
    found = [layer(rank, form, number, towards=other, **WIDE) for number in range(2)]
    allow_memory(0 if rank.rank == crowded else None)
    found.append(layer(rank, form, 2, towards=crowded, **WIDE))
    found += layers(rank, form, 3)
    allow_memory(None)
    found.append(layer(rank, form, 7, towards=crowded, **WIDE))
    return found


@pytest.mark.parametrize("form", FORMS)
def test_memory_that_one_rank_does_not_have(form: str) -> None:
    """For the rows that come, or before its signal: an error of all in the same layer. No reset."""
    with RankPool(E) as pool:  # one whose memory is not warm
        crowded = pool.run(too_many_rows, form, 1)
        short = pool.run(short_of_memory, form, 1)
    for own in crowded:
        assert [each.error is None for each in own] == [True] * 2 + [False] + [True] * 5, own
        assert type(own[2].error) is waybill.WaybillError
        assert own[2].error.ranks == [1]
        assert str(own[2].error).split(" (rank")[0] == str(crowded[0][2].error).split(" (rank")[0]
        assert "rows for rank 1" in str(own[2].error)
    for rank, own in enumerate(short):
        assert [each.error is None for each in own] == [True] * 4 + [False] + [True] * 5, own
        error = own[4].error
        assert "out of memory" in str(error) and "WAYBILL_MAX_MEMORY" in str(error)
        if rank == 1:
            assert type(error) is waybill.WaybillError
        else:
            assert type(error) is waybill.MismatchError
            assert error.ranks == [1]
            assert str(short[1][4].error) in str(error)


def hold_outputs(rank: Rank, form: str) -> list[Told]:
    """Rank 1 keeps what its layers return, drops it when one fails, and goes on."""
    name = f"holds-{form}"
    os.environ["WAYBILL_WINDOW_BYTES"] = str(SMALL_WINDOW)
    try:
        waybill.connect(rank.store(name), rank.rank, rank.world_size, name, timeout=TIMEOUT)
    finally:
        del os.environ["WAYBILL_WINDOW_BYTES"]
    held: list[Tensor] = []

    def run(number: int) -> None:
        # Many rows may come, and few do: address space runs out, not memory.
        sizes = {"hidden": 512, "global_bs": rank.world_size * 64}
        outputs = Layer(form, rank.world_size, number, **sizes).run(place_of(rank, name))
        if rank.rank == 1:
            held.append(outputs[0])

    found: list[Told] = []
    for number in range(40):
        told = tell(lambda number=number: run(number))
        found.append(told)
        if told.error is not None:
            held.clear()
    held.clear()
    waybill.release(name)
    return found


@pytest.mark.parametrize("form", FORMS)
def test_held_outputs(pool_of: PoolOf, form: str) -> None:
    """They fill the address space of the pool, again and again. No reset."""
    told = pool_of(E).run(hold_outputs, form)
    failed = [number for number, each in enumerate(told[1]) if each.error is not None]
    assert len(failed) > 1, "outputs were not held"
    for rank, own in enumerate(told):
        assert [number for number, each in enumerate(own) if each.error is not None] == failed
        for number in failed:
            error, why = own[number].error, str(told[1][number].error)
            assert "out of address space" in why and "outputs that are still held" in why
            assert type(error) is (waybill.MismatchError if rank != 1 else waybill.WaybillError)
            assert rank == 1 or (error.ranks == [1] and why in str(error))


def connect_tp(rank: Rank) -> Where:
    """Place TP * ep_rank + tp_rank, in both of its groups."""
    ep_rank, tp_rank = divmod(rank.rank, 2)
    size = rank.world_size // 2
    names = [f"{rank.name}-in-step-ep{tp_rank}", f"{rank.name}-in-step-tp{ep_rank}"]
    if "in step" not in rank.memory:
        for name, place, ranks in ((names[0], ep_rank, size), (names[1], tp_rank, 2)):
            waybill.connect(rank.store(name), place, ranks, name, timeout=20.0, threads=1)
        rank.memory["in step"] = True
    ep = {"group_ep": names[0], "ep_world_size": size, "ep_rank_id": ep_rank}
    return {**ep, "group_tp": names[1], "tp_world_size": 2, "tp_rank_id": tp_rank}


def short_with_tp(rank: Rank, form: str, fails: str) -> list[Told]:
    """Place 2 (rank 1 of an EP group, 0 of a TP group) has no memory, or its expert raises."""
    where = connect_tp(rank)

    def run(number: int, **sizes: Any) -> Told:
        def before(what: str) -> None:
            if what == "experts" and fails == "expert" and number == 3 and rank.rank == 2:
                raise ExpertFailed

        own = Layer(form, rank.world_size // 2, number, local=1, **sizes)
        return tell(lambda: own.run(where, before))

    found = [run(number) for number in range(3)]
    if fails == "memory":
        allow_memory(0 if rank.rank == 2 else None)
        found.append(run(3, **WIDE))
    else:
        found.append(run(3))
    found += [run(number) for number in range(4, 8)]
    allow_memory(None)
    if fails == "expert":
        for group in ("group_ep", "group_tp"):
            waybill.reset(where[group])
        found += [run(number) for number in range(8, 12)]
    else:
        found.append(run(8, **WIDE))
    return found


@pytest.mark.parametrize("form", TP_FORMS)
def test_memory_short_with_tp(form: str) -> None:
    with RankPool(4, connected=False) as pool:
        told = pool.run(short_with_tp, form, "memory")
    for place, own in enumerate(told):
        assert [each.error is None for each in own] == [True] * 3 + [False] + [True] * 5, own
        assert own[3].kind is (waybill.WaybillError if place == 2 else waybill.MismatchError)
        assert "out of memory" in str(own[3].error)


@pytest.mark.parametrize("form", TP_FORMS)
def test_an_expert_fails_with_tp(pool_of: PoolOf, form: str) -> None:
    for place, own in enumerate(pool_of(4).run(short_with_tp, form, "expert")):
        good = [each.error is None for each in own]
        assert good == [True] * 3 + [False] * 5 + [True] * 4, own
        assert own[3].kind is ExpertFailed or place != 2
        assert all(each.kind is waybill.StateError for each in own[5:8]), own


@pytest.fixture(scope="module")
def hosts() -> Iterator[HostRanks]:
    with Network(2) as network, HostRanks(network, [2, 1], connected=True) as pool:
        yield pool


@no_namespaces
@no_ucx
@pytest.mark.parametrize("short", [1, 2])
@pytest.mark.parametrize("form", ["v2", "setup"])
def test_memory_short_over_hosts(hosts: HostRanks, form: str, short: int) -> None:
    told = hosts.run(short_of_memory, form, short)
    failed = {each.error is not None for each in (own[4] for own in told)}
    assert len(failed) == 1, told  # what it lacks it may have since an earlier test
    for rank, own in enumerate(told):
        assert all(each.error is None for each in own[:4] + own[5:]), own
        kinds = {waybill.WaybillError}  # for its rows, the same on all ranks
        if rank != short:
            kinds.add(waybill.MismatchError)
        if failed == {True}:
            assert own[4].kind in kinds
            assert "out of memory" in str(own[4].error)
            assert rank == short or own[4].error.ranks == [short]


@no_namespaces
@no_ucx
def test_an_expert_fails_over_hosts(hosts: HostRanks) -> None:
    check_expert_fails(hosts, "v2")


# An exception of the program


def fail_once(rank: Rank, form: str, where: str, number: int) -> list[Told]:
    """Rank 1 raises at one point of a layer, and all go on."""

    def before(what: str) -> None:
        if rank.rank == 1 and what == where:
            raise ExpertFailed

    first = Layer(form, rank.world_size, number)
    found = [tell(lambda: first.run(place_of(rank), before))]
    return found + layers(rank, form, number + 1, 3)


def check_expert_fails(pool: RankPool, form: str) -> None:
    all_right(pool.run(layers, form, 0))
    told = pool.run(fail_once, form, "experts", 4)
    assert told[1][0].kind is ExpertFailed
    # The next dispatch of rank 1 meets the combine of the others.
    for rank, own in enumerate(told):
        error = own[1 if rank == 1 else 0].error
        assert type(error) is waybill.MismatchError
        assert "out of step" in str(error) and "completed calls" in str(error)
        assert error.ranks == [1] and error.argument is None
        rest = own[2:] if rank == 1 else own[1:]
        assert [each.kind for each in rest] == [waybill.StateError] * len(rest)
    expect_needs_reset(pool, form)


@pytest.mark.parametrize("form", FORMS)
def test_an_expert_fails(pool_of: PoolOf, form: str) -> None:
    """Once, on one rank, which goes on with the next layer."""
    check_expert_fails(pool_of(E), form)


def fail_and_reset(rank: Rank, where: str) -> list[Told]:
    """A set-up that stays open: rank 1 can do nothing else and resets, and so do the others."""
    found = fail_once(rank, "setup", where, 4) if rank.rank == 1 else []
    found = found or [layer(rank, "setup", 4)]
    waybill.reset(rank.name)
    return found + layers(rank, "setup", 10)


@pytest.mark.parametrize("where", ["dispatch_teardown", "combine_teardown"])
def test_an_exception_between_setup_and_teardown(pool_of: PoolOf, where: str) -> None:
    """The open set-up refuses other calls on its rank. Its reset wakes those who wait."""
    begin = time.monotonic()
    told = pool_of(E, timeout=TIMEOUT).run(fail_and_reset, where)
    assert time.monotonic() - begin < AT_ONCE
    assert [each.kind for each in told[1][:4]] == [ExpertFailed] + [waybill.StateError] * 3
    for rank, own in enumerate(told):
        assert all(each.error is None for each in own[-4:]), own
        assert rank == 1 or own[0].kind in (None, waybill.StateError), own
        assert rank == 1 or where == "combine_teardown" or own[0].error is not None


# Ctrl-C


def interrupted_layer(rank: Rank, form: str, number: int) -> Told:
    """Rank 0 is interrupted as it waits for rank 1, which comes when that has been heard."""
    heard = rank.folder / f"heard-{form}"
    if rank.rank == 1:
        while not heard.exists():
            time.sleep(0.01)
    found = layer(rank, form, number)
    if rank.rank == 0:
        heard.touch()
    return found


@pytest.mark.parametrize("form", FORMS)
def test_ctrl_c_in_a_wait(pool_of: PoolOf, form: str) -> None:
    """The others are told who it was, in the same call and at once."""
    pool = pool_of(E, timeout=TIMEOUT)
    all_right(pool.run(layers, form, 0))
    pool.start(interrupted_layer, form, 4)
    time.sleep(0.3)
    sent = time.monotonic()
    pool.signal(0, signal.SIGINT)
    told = pool.wait()
    assert told[0].kind is KeyboardInterrupt
    for heard in told[1:]:
        assert heard.kind is waybill.StateError
        assert "rank 0 left the group" in str(heard.error), heard
        assert "interrupted" in str(heard.error)
        assert 0 in heard.error.ranks  # and who had heard of it before
    assert max(each.ended for each in told) - sent < AT_ONCE
    expect_needs_reset(pool, form)


# Combines in another order


def crossed(rank: Rank, form: str, cloned: bool) -> Told:
    """Two open dispatches; rank 1 combines the later one first."""
    where = place_of(rank)
    own = [Layer(form, rank.world_size, 4) for _ in range(2)]  # alike, so that all else agrees
    sent = [each.dispatch(where) for each in own]
    rows = [each.experts(rank.rank, out) for each, out in zip(own, sent, strict=True)]
    if cloned:
        sent = [[each.clone() for each in out] for out in sent]
    first = 1 if rank.rank == 1 else 0
    return tell(lambda: own[first].combine(where, rows[first], sent[first]))


@pytest.mark.parametrize("form", [*FORMS, "cloned v2", "cloned v2+rms"])
def test_combines_in_another_order(pool_of: PoolOf, form: str) -> None:
    """A copy of assist_info_for_combine still says which dispatch it is of."""
    pool = pool_of(E)
    plain = form.removeprefix("cloned ")
    for told in pool.run(crossed, plain, plain != form):
        assert told.kind is waybill.MismatchError
        assert told.error.ranks == [1]
        assert "out of step" in str(told.error)
        assert told.error.argument in ("assist_info_for_combine", "expand_idx")
    expect_needs_reset(pool, plain)


def combine_with_own_list(rank: Rank, form: str) -> Told:
    where = place_of(rank)
    own = Layer(form, rank.world_size, 4)
    sent = own.dispatch(where)
    rows = own.experts(rank.rank, sent)
    triples = sent[2][: 3 * len(rows)].view(-1, 3)
    if rank.rank == 1:
        sent[2] = torch.stack(list(triples)).flatten()
    return tell(lambda: own.combine(where, rows, sent))


def test_a_list_that_the_program_built(pool_of: PoolOf) -> None:
    """It knows no dispatch, and fits to every one."""
    pool = pool_of(E)
    for told in pool.run(combine_with_own_list, "v2"):
        assert told.error is None, told
    all_right(pool.run(layers, "v2", 5))
