"""Pools of ranks over hosts: a store and gloo between them, and nothing left of a killed test."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import waybill
from host_ranks import HostRanks
from links import SwitchedNetwork
from ranks import Rank, is_alive
from waybill.tools.namespaces import Network

PATIENCE = 15.0


@pytest.fixture(scope="module")
def permitted() -> None:
    if reason := Network.available():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def network(permitted: None) -> Iterator[Network]:
    with Network(2) as made:
        yield made


def add_up(rank: Rank) -> tuple[str, float]:
    values = torch.full((1 << 18,), float(rank.rank + 1))
    dist.all_reduce(values)
    return socket.gethostname(), values.mean().item()


@pytest.mark.parametrize("user_namespace", [None, True])
def test_gloo_adds_up_over_two_hosts(permitted: None, user_namespace: bool | None) -> None:
    with Network(2, user_namespace=user_namespace) as network:
        with HostRanks(network, [2, 2], process_group=True) as pool:
            assert pool.run(add_up) == [(f"host{host}", 10.0) for host in (0, 0, 1, 1)]
        assert network.sent_bytes(0) > 4 << 18


def meet_on_host(rank: Rank) -> tuple[int, int]:
    """A group of the two ranks of each host."""
    name = waybill.connect(rank.store(f"on-{rank.host}"), rank.rank % 2, 2, f"on-{rank.host}")
    ids = torch.tensor([[0], [1]], dtype=torch.int32)
    x = torch.full((2, 8), float(rank.rank))
    out = waybill.npu_moe_distribute_dispatch_v2(x, ids, name, 2, rank.rank % 2, 2)
    waybill.release(name)
    return rank.host, int(out[0][:2].sum())


def test_ranks_of_a_host_share_memory(network: Network) -> None:
    with HostRanks(network, [2, 2]) as pool:
        assert pool.run(meet_on_host) == [(0, 8), (0, 8), (1, 40), (1, 40)]


def visit(rank: Rank, name: str) -> int:
    return rank.store(name).add("visits", 1)


def test_the_store_outlives_ranks(network: Network) -> None:
    with HostRanks(network, [1, 1]) as pool:
        assert sorted(pool.run(visit, "a")) == [1, 2]
        pool.kill(0)
        pool.restart(0)
        assert sorted(pool.run(visit, "a")) == [3, 4]
        assert sorted(pool.run(visit, "b")) == [1, 2]


def test_numbers_of_ranks_are_checked(network: Network) -> None:
    with pytest.raises(ValueError, match="expected 2 numbers of ranks"):
        HostRanks(network, [4])


def test_ranks_over_links_that_fail(permitted: None) -> None:
    if reason := SwitchedNetwork.available():
        pytest.skip(reason)
    with (
        SwitchedNetwork(2) as network,
        HostRanks(network, [1, 1], process_group=True) as pool,
    ):
        network.cut(0, 1, both=True)
        pool.start(add_up)
        while not network.counts(0, 1)["dropped_frames"]:
            time.sleep(0.01)
        network.heal(0, 1, both=True)
        assert [mean for _, mean in pool.wait()] == [3.0, 3.0]


OWNER = """
import json, sys, time
from host_ranks import HostRanks
from links import SwitchedNetwork
from test_host_ranks import sleep
if __name__ == "__main__":
    network = SwitchedNetwork(2)
    pool = HostRanks(network, [1, 1])
    pids = [*pool.pids, pool._store._process.pid, network._process.pid]
    pool.start(sleep, 60.0)
    print(json.dumps(pids), flush=True)
    time.sleep(60)
"""


def sleep(rank: Rank, seconds: float) -> None:
    time.sleep(seconds)


def test_no_process_is_left_of_a_test_that_is_killed(permitted: None, tmp_path: Path) -> None:
    if reason := SwitchedNetwork.available():
        pytest.skip(reason)
    program = tmp_path / "owner.py"
    program.write_text(OWNER)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, program], stdout=subprocess.PIPE, text=True, env=environment
    ) as owner:
        pids = json.loads(owner.stdout.readline())
        assert all(is_alive(pid) for pid in pids)
        owner.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while any(is_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [pid for pid in pids if is_alive(pid)] == []
