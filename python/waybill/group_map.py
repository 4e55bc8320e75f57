"""`waybill info --group`: who talks with whom, and how.

Under a launcher (torchrun, or anything that sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT) the
ranks form a group and rank 0 prints its map. Elsewhere it shows the groups that run on this host.
"""

from __future__ import annotations

import os
import statistics
import time
from itertools import groupby

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from . import _library, groups
from .ops import _npu_distribute_barrier

SECONDS = 60.0
ROUNDS = 50
Routes = list[dict[str, str]]


def show() -> int:
    return _show_own() if "WORLD_SIZE" in os.environ else _show_running()


def _show_own() -> int:
    """Collective among the launched ranks."""
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    name = groups.comm_name(timeout=SECONDS)
    routes: list[Routes] = [[] for _ in range(ranks)]
    dist.all_gather_object(routes, groups.routes(name))
    took = _barrier_us(name, ranks)
    if rank == 0:
        console = Console()
        console.print(table_of(routes))
        console.print(f"a barrier of all ranks takes {took:.0f} us (median of {ROUNDS})")
    groups.release(name)
    dist.destroy_process_group()
    return 0


def _barrier_us(name: str, ranks: int) -> float:
    times = []
    token = torch.zeros(1)
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        _npu_distribute_barrier(token, name, ranks)
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e6


def table_of(routes: list[Routes]) -> Table:
    """A row for each pair of hosts; `routes` has those of each rank."""
    hosts: dict[str, list[int]] = {}
    for rank, own in enumerate(routes):
        hosts.setdefault(own[rank]["host"] or "this host", []).append(rank)
    table = Table("ranks", "host", "with ranks", "how", title="waybill info --group")
    for host, here in hosts.items():
        for there in hosts.values():
            ways = {routes[a][b]["how"] for a in here for b in there if a != b}
            text = ", ".join(sorted(ways)) or "self"
            table.add_row(spans(here), host, spans(there), text)
    return table


def spans(ranks: list[int]) -> str:
    """ "0-3, 8" of [0, 1, 2, 3, 8]."""
    parts = []
    for _, run in groupby(enumerate(ranks), lambda pair: pair[1] - pair[0]):
        members = [rank for _, rank in run]
        parts.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    return ", ".join(parts)


def _show_running() -> int:
    found = _library.inspect()
    console = Console()
    if not found:
        console.print(
            "no group of this user runs on this host; under a launcher (torchrun ... -m waybill "
            "info --group) the launched ranks form one"
        )
        return 0
    table = Table("group", "ranks on this host", "elsewhere", title="waybill info --group")
    for group in found:
        here = [rank["rank"] for rank in group["ranks"] if rank["pid"]]
        away = [rank["rank"] for rank in group["ranks"] if not rank["pid"]]
        table.add_row(group["name"], f"{spans(here)}: shared memory", spans(away) or "-")
    console.print(table)
    return 0
