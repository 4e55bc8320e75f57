"""`waybill doctor`, and what a late rank is said to do."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import waybill
from ranks import Rank, RankPool

E = 3
LATE = 2


@pytest.fixture
def pool() -> Iterator[RankPool]:
    with RankPool(E) as made:
        yield made


def doctor(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "waybill", "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


def look(what: str) -> Any:
    return json.loads(doctor(what, "--json")[1])


def barrier(own: Rank) -> None:
    waybill._npu_distribute_barrier(torch.zeros(1), own.name, own.world_size)


def test_shows_who_waits_for_whom(pool: RankPool) -> None:
    pool.run(barrier)
    pool.signal(LATE, signal.SIGSTOP)
    pool.start(barrier, ranks=[0, 1])
    time.sleep(0.5)
    found = look(pool.name)
    code, table = doctor(pool.name)
    pool.signal(LATE, signal.SIGCONT)
    pool.start_more(barrier, ranks=[LATE])
    pool.wait()
    assert len(found) == 1 and found[0]["world_size"] == E
    for rank in (0, 1):
        state = found[0]["ranks"][rank]
        assert state["operator"] == "_npu_distribute_barrier"
        assert (state["phase"], state["call"], state["epoch"]) == ("wait-signals", 2, 1)
        assert state["pid"] == pool.pids[rank]
        assert state["waits_for"] == [LATE]
        assert 0.2 < state["seconds"] < 30
    late = found[0]["ranks"][LATE]
    assert (late["operator"], late["phase"], late["call"]) == ("", "idle", 1)
    assert code == 0 and "wait-signals" in table and "_npu_distribute_barrier" in table


def test_by_pid_and_after_a_kill(pool: RankPool) -> None:
    assert look(str(pool.pids[0]))[0]["name"] == pool.name
    pool.kill(1)
    states = look(pool.name)[0]["ranks"]
    assert [state["pid"] != 0 for state in states] == [True, False, True]
    assert "no process" in doctor(pool.name)[1]


def test_nothing_to_see() -> None:
    code, text = doctor("no-such-group")
    assert code == 1 and "no-such-group" in text
    assert look("no-such-group") == []


def late_barrier(own: Rank) -> str:
    waybill.set_timeout(own.name, 0.3)
    if own.rank == LATE:
        time.sleep(1.0)
        return ""
    with pytest.raises(waybill.PeerTimeout) as caught:
        barrier(own)
    return str(caught.value)


def test_a_timeout_says_where_the_late_rank_is(pool: RankPool) -> None:
    pool.run(barrier)
    text = pool.run(late_barrier)[0]
    assert "did not come within 300 ms (waiting for signals, call 2, epoch 1, rank 0)" in text
    assert f"rank {LATE}: idle for " in text and " after call 1" in text


def logged(own: Rank) -> str:
    """What goes to stderr while this rank waits."""
    import os
    import tempfile

    os.environ["WAYBILL_LOG"] = "debug"
    name = f"{own.name}-logged"
    waybill.connect(own.store("logged"), own.rank, own.world_size, name, timeout=20)
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            if own.rank == LATE:
                time.sleep(0.3)
            waybill._npu_distribute_barrier(torch.zeros(1), name, own.world_size)
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        waybill.release(name)
        file.seek(0)
        return file.read().decode()


def test_log_says_who_waited_for_whom(pool: RankPool) -> None:
    texts = pool.run(logged)
    assert (
        "waybill: rank 0: _npu_distribute_barrier, call 1, epoch 1: waiting for signals" in texts[0]
    )
    assert f"for rank {LATE}" in texts[0] or f"and {LATE}" in texts[0]
