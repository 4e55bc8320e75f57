"""Ranks on several hosts: RankPool, but each process enters its host before anything else.

    with Network(2) as network, HostRanks(network, [2, 2]) as pool:
        results = pool.run(function, per_rank=[(x0,), (x1,), (x2,), (x3,)])

Ranks are numbered host by host. Rank.host is the host's number, and Rank.store() is at a TCPStore
on host 0, in a process of its own: it outlives ranks that are killed.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from typing import Any

import torch.distributed as dist

from ranks import Rank, RankFailed, RankPool, process_context
from waybill.tools.namespaces import Host, Network

STORE_SECONDS = 20.0
START_SECONDS = 60.0  # of the store's process; the first one waits for torch to be imported


class HostRanks(RankPool):
    """`ranks_per_host[h]` processes on host h of a network that outlives them. Used by one thread.

    Options are those of RankPool, but ranks connect only if that is asked for.
    """

    def __init__(
        self,
        network: Network,
        ranks_per_host: Sequence[int],
        *,
        connected: bool = False,
        **options: Any,
    ) -> None:
        if len(ranks_per_host) != network.num_hosts:
            raise ValueError(f"expected {network.num_hosts} numbers of ranks, got {ranks_per_host}")
        hosts = [
            network.hosts[host] for host, count in enumerate(ranks_per_host) for _ in range(count)
        ]
        self._store = StoreProcess(network.hosts[0])
        begin = Begin(tuple(hosts), network.address(0), self._store.port)
        try:
            super().__init__(len(hosts), connected=connected, begin=begin, **options)
        except BaseException:
            self.close(graceful=False)
            raise

    def close(self, *, graceful: bool = True) -> None:
        try:
            super().close(graceful=graceful)
        finally:
            self._store.close()


@dataclass(frozen=True)
class Begin:
    """What the process of a rank does first."""

    hosts: tuple[Host, ...]  # of each rank
    store_address: str
    store_port: int

    def __call__(self, own: Rank) -> None:
        host = self.hosts[own.rank]
        move_to(host)
        own.host = host.number
        own.open_store = self.open_store

    def open_store(self, name: str) -> dist.Store:
        patience = timedelta(seconds=STORE_SECONDS)
        client = dist.TCPStore(self.store_address, self.store_port, timeout=patience)
        return dist.PrefixStore(name, client)


def move_to(host: Host) -> None:
    """Makes this process one of that host, and lets it end with the process that wanted it.

    A process that stays keeps the namespaces of a network whose owner was killed.
    """
    host.enter()
    parent = parent_process()
    assert parent is not None, "expected a process of multiprocessing"

    def follow() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=follow, daemon=True).start()


class StoreProcess:
    """A TCPStore on a host."""

    def __init__(self, host: Host) -> None:
        context = process_context()
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve_store, args=(host, theirs), daemon=True)
        self._process.start()
        theirs.close()
        try:
            if not self._pipe.poll(START_SECONDS):
                raise RankFailed(f"no store on host {host.number} in {START_SECONDS} s")
            self.port: int = self._pipe.recv()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._process.kill()
        self._process.join(10)
        self._pipe.close()


def _serve_store(host: Host, pipe: Connection) -> None:
    move_to(host)
    store = dist.TCPStore(host.address, 0, is_master=True, wait_for_workers=False)
    pipe.send(store.port)
    wait([pipe])  # until it is killed
