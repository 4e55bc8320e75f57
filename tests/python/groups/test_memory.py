"""Memory: what `stats` says is reserved, and what the kernel says is there; where it lies."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import waybill
from ranks import Rank, RankPool
from waybill import _nodes

E, K, M = 3, 4, 12
H = 2048
MIB = 1 << 20
SIZES = (1, 64, 16, 512, 2)
"""Tokens of one call after the other."""


@pytest.fixture
def pool() -> Iterator[RankPool]:
    with RankPool(E) as made:
        yield made


def call(own: Rank, bs: int, quant_mode: int, in_place: bool) -> int:
    """Each operator twice, so that both halves take its rows; the rows received."""
    x = torch.full((bs, H), own.rank + 1.0, dtype=torch.bfloat16)
    tokens = torch.arange(bs).unsqueeze(1)
    ids = ((tokens * 5 + own.rank + torch.arange(K)) % M).int()
    layer = {**own.layer, "moe_expert_num": M}
    for _ in range(2):
        out = waybill.npu_moe_distribute_dispatch_v2(x, ids, quant_mode=quant_mode, **layer)
    rows = int(out[4][-1])
    experts = torch.ones(rows, H, dtype=torch.bfloat16)
    if in_place:
        buffer = waybill.expert_buffer(own.name, rows, H, torch.bfloat16)
        experts = buffer.copy_(experts)
    weights = torch.full((bs, K), 0.25)
    for _ in range(2):
        waybill.npu_moe_distribute_combine_v2(experts, ids, out[2], out[4], weights, **layer)
    return rows


def resident(file: str) -> int:
    """Bytes of this process's own mappings of memory files with this name."""
    total, counts = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0]:  # a mapping's first line; peers' files are mapped read-only
            counts = words[1].startswith("rw") and f"/memfd:{file}" in line
        elif counts and words[0] == "Rss:":
            total += int(words[1]) << 10
    return total


def measure(own: Rank, sizes: tuple[int, ...], quant_mode: int, in_place: bool) -> dict[str, Any]:
    rows = max(call(own, bs, quant_mode, in_place) for bs in sizes)
    numbers = waybill.stats(own.name)
    return {
        "rows": rows,
        "window_bytes": numbers["window_bytes"],
        "pool_bytes": numbers["pool_bytes"],
        "window_resident": resident("waybill-half"),
        "pool_resident": resident("waybill-pool"),
        "control_resident": resident("waybill-control"),
        "placement": waybill.placement(own.name),
    }


@pytest.mark.parametrize("quant_mode", [0, 2])
@pytest.mark.parametrize("in_place", [False, True])
def test_windows_within_their_bound(pool: RankPool, quant_mode: int, in_place: bool) -> None:
    for found in pool.run(measure, SIZES, quant_mode, in_place):
        sent = max(SIZES) * H * (1 if quant_mode else 2)
        returned = 0 if in_place else found["rows"] * H * 2
        bound = 1.2 * 2 * max(sent, returned) + MIB
        assert found["window_bytes"] + found["control_resident"] <= bound
        assert 0 < found["window_resident"] <= found["window_bytes"]
        assert 0 < found["pool_resident"] <= found["pool_bytes"]


def test_pages_lie_where_the_rank_runs(pool: RankPool) -> None:
    nodes = _nodes.read()
    for found in pool.run(measure, (64,), 0, False):
        placement = found["placement"]
        assert sum(placement["window_pages"]) > 16 and sum(placement["pool_pages"]) > 16
        if len(nodes) < 2:
            assert placement["node"] == 0 and len(placement["window_pages"]) == 1
            assert placement["unknown_pages"] == 0


def test_doctor_names_the_node(pool: RankPool) -> None:
    command = [sys.executable, "-m", "waybill", "doctor", pool.name]
    found = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    states = json.loads(found.stdout)[0]["ranks"]
    assert all(state["memory_node"] >= 0 for state in states)
    if len(_nodes.read()) < 2:
        assert all(state["memory_node"] == 0 for state in states)


def test_info_shows_nodes_and_whether_pinned() -> None:
    command = [sys.executable, "-m", "waybill", "info"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(r"NUMA node 0 .*core.*GiB", text)
    assert re.search(r"this process .*pinned", text)


@pytest.fixture
def two_nodes(tmp_path: Path) -> Path:
    """Two nodes with cores, one with memory alone, and what is no node."""
    for number, cores, kib in ((0, "0-3,8-11", 8 << 20), (1, "4-7,12-15", 4 << 20), (10, "", 1024)):
        folder = tmp_path / f"node{number}"
        folder.mkdir()
        (folder / "cpulist").write_text(f"{cores}\n")
        (folder / "meminfo").write_text(
            f"Node {number} MemTotal:       {kib} kB\nNode {number} MemFree:  1 kB\n"
        )
    (tmp_path / "node2").mkdir()  # taken offline
    (tmp_path / "online").write_text("0-1,10\n")
    return tmp_path


def test_nodes_of_a_larger_machine(two_nodes: Path, tmp_path: Path) -> None:
    nodes = _nodes.read(two_nodes)
    assert [node.number for node in nodes] == [0, 1, 10]
    assert nodes[1].cores == {4, 5, 6, 7, 12, 13, 14, 15}
    assert nodes[0].describe() == "8 cores (0-3,8-11), 8.0 GiB"
    assert nodes[2].describe() == "no cores, 0.0 GiB"
    assert _nodes.describe_process(range(16), nodes, 1) == (
        "16 cores (0-15), not pinned, now on node 1"
    )
    assert _nodes.describe_process({5}, nodes, 1) == "core 5, pinned to node 1"
    assert _nodes.describe_process({3, 4}, nodes, 0) == "2 cores (3-4), pinned to nodes 0, 1"
    assert _nodes.describe_process({0}, [], None) == "core 0, not pinned"
    (tmp_path / "77").mkdir()
    fields = ["S", *(str(n) for n in range(4, 39)), "13", "0"]
    (tmp_path / "77" / "stat").write_text(f"77 (a ) b) {' '.join(fields)}\n")
    assert _nodes.of_process(77, nodes, tmp_path) == 1
    assert _nodes.of_process(78, nodes, tmp_path) is None
