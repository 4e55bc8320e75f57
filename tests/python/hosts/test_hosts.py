"""What a program sees of hosts: how they are found, what travels, who moves it, what shows it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import waybill
from host_ranks import HostRanks
from ranks import Rank, RankPool
from waybill import _library, reference
from waybill.group_map import spans
from waybill.tools.namespaces import Network

ROOT = Path(__file__).resolve().parents[3]
no_ucx = pytest.mark.skipif(
    bool(_library.machine()["ucx_problem"]), reason=str(_library.machine()["ucx_problem"])
)
no_namespaces = pytest.mark.skipif(Network.available() is not None, reason=str(Network.available()))
H, K, BS, EXPERTS_PER_RANK = 7168, 8, 128, 8
CALLS = 10


def inputs(rank: int, ranks: int, tokens: int, hidden: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, expert_ids, expert_scales of a rank."""
    draw = torch.Generator().manual_seed(rank)
    choices = torch.rand(tokens, EXPERTS_PER_RANK * ranks, generator=draw).topk(K)
    x = torch.rand(tokens, hidden, generator=draw).bfloat16()
    return x, choices.indices.int(), choices.values


def layer(rank: Rank, tokens: int, hidden: int, **options: Any) -> tuple[list[Tensor], Tensor]:
    x, ids, weights = inputs(rank.rank, rank.world_size, tokens, hidden)
    sizes = {
        "group_ep": rank.name,
        "ep_world_size": rank.world_size,
        "ep_rank_id": rank.rank,
        "moe_expert_num": EXPERTS_PER_RANK * rank.world_size,
    }
    out = waybill.npu_moe_distribute_dispatch_v2(x, ids, **sizes, **options)
    rows = out[0].bfloat16() if options else out[0]
    y = waybill.npu_moe_distribute_combine_v2(rows, ids, out[2], out[4], weights, **sizes)
    return list(out), y


def oracle(ranks: int, tokens: int, hidden: int) -> list[Tensor]:
    x, ids, weights = (
        list(column)
        for column in zip(*(inputs(r, ranks, tokens, hidden) for r in range(ranks)), strict=True)
    )
    sizes = {"ep_world_size": ranks, "moe_expert_num": EXPERTS_PER_RANK * ranks}
    dispatched = reference.npu_moe_distribute_dispatch_v2(x, ids, **sizes)
    return reference.npu_moe_distribute_combine_v2(
        [own.expand_x for own in dispatched],
        ids,
        [own.assist_info_for_combine for own in dispatched],
        [own.ep_recv_counts for own in dispatched],
        weights,
        **sizes,
    )


def connect_as(rank: Rank, hosts: list[str], progress: str) -> tuple[list[str], bool]:
    """A group whose ranks say on which host they are."""
    os.environ["WAYBILL_HOST"] = hosts[rank.rank]
    os.environ["WAYBILL_PROGRESS"] = progress
    try:
        name = f"named-{progress}"
        waybill.connect(rank.store(name), rank.rank, rank.world_size, name, timeout=30, threads=1)
    finally:
        del os.environ["WAYBILL_HOST"], os.environ["WAYBILL_PROGRESS"]
    own = Rank(**{**vars(rank), "name": name})
    good = True
    for _ in range(CALLS):
        good = good and torch.equal(layer(own, 9, 64)[1], oracle(rank.world_size, 9, 64)[rank.rank])
    how = [route["how"].split()[0] for route in waybill.routes(name)]
    waybill.release(name)
    return how, good


@no_ucx
@pytest.mark.parametrize("progress", ["thread", "call"])
def test_named_hosts_on_one_machine(progress: str) -> None:
    """Without namespaces: WAYBILL_HOST says who is where, UCX goes over the loopback."""
    with RankPool(4, connected=False) as pool:
        found = pool.run(connect_as, ["one", "two", "one", "two"], progress)
    assert all(good for _, good in found)
    assert found[0][0] == ["self", "UCX", "shared", "UCX"]
    assert found[3][0] == ["UCX", "shared", "UCX", "self"]


@pytest.fixture(scope="module")
def two_hosts() -> Iterator[tuple[Network, HostRanks]]:
    with Network(2) as network, HostRanks(network, [2, 2], connected=True) as pool:
        yield network, pool


def repeat(rank: Rank, step: str, quant: bool) -> None:
    """CALLS dispatches, or combines of one dispatch."""
    x, ids, weights = inputs(rank.rank, rank.world_size, BS, H)
    sizes = {
        "group_ep": rank.name,
        "ep_world_size": rank.world_size,
        "ep_rank_id": rank.rank,
        "moe_expert_num": EXPERTS_PER_RANK * rank.world_size,
    }
    mode = {"quant_mode": 2} if quant else {}
    back = {"comm_quant_mode": 2} if quant else {}
    for i in range(CALLS):
        if step == "dispatch" or i == 0:
            out = waybill.npu_moe_distribute_dispatch_v2(x, ids, **sizes, **mode)
            rows = out[0].bfloat16() if quant else out[0]
        if step == "combine":
            waybill.npu_moe_distribute_combine_v2(
                rows, ids, out[2], out[4], weights, **sizes, **back
            )


def rows_over_the_link(ranks: int) -> tuple[int, int]:
    """Of a dispatch and of a combine, from host 0 to host 1: each token once; a row each choice."""
    there = EXPERTS_PER_RANK * ranks // 2
    tokens = pairs = 0
    for rank in range(ranks):
        away = inputs(rank, ranks, BS, H)[1] >= there
        if rank < ranks // 2:
            tokens += int(away.any(1).sum())
        else:
            pairs += int((~away).sum())  # computed on host 0 for ranks of host 1
    return tokens, pairs


@no_ucx
@no_namespaces
@pytest.mark.parametrize("quant", [False, True], ids=["bfloat16", "int8"])
def test_bytes_over_the_link(two_hosts: tuple[Network, HostRanks], quant: bool) -> None:
    """Within 5 % of the rows that have to travel and what describes them, by the interface."""
    network, pool = two_hosts
    tokens, pairs = rows_over_the_link(4)
    pool.run(repeat, "combine", quant)
    before = network.sent_bytes(0)
    pool.run(repeat, "dispatch", quant)
    dispatch = (network.sent_bytes(0) - before) / CALLS
    before = network.sent_bytes(0)
    pool.run(repeat, "combine", quant)  # its first call is a dispatch
    combine = (network.sent_bytes(0) - before - dispatch) / CALLS
    row = H if quant else 2 * H
    scales = H // 8 * 2 if quant else 0  # of comm_quant_mode: one for 8 elements
    headers = 2 * 2 * 600  # two ranks, two remote ranks of each
    lists = 2 * (4 * BS * K + 4 * 33 + 4 * BS * quant)
    assert tokens * row <= dispatch <= 1.05 * (tokens * row + lists + headers)
    places = 2 * (12 * BS * K + 64)
    assert pairs * (row + scales) <= combine <= 1.05 * (pairs * (row + scales) + places + headers)


@no_ucx
@no_namespaces
def test_rows_over_hosts_are_the_oracles(two_hosts: tuple[Network, HostRanks]) -> None:
    wanted = oracle(4, 33, 576)
    for rank, (_, y) in enumerate(two_hosts[1].run(layer, 33, 576)):
        assert torch.equal(y, wanted[rank])


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@no_ucx
@no_namespaces
def test_the_example_runs() -> None:
    shown = run(sys.executable, str(ROOT / "examples" / "two_hosts" / "here.py"))
    assert "4 ranks equal the oracle bit for bit" in shown
    assert shown.count("UCX") == 2


@no_ucx
@no_namespaces
@pytest.mark.parametrize("options", [(), ("--overlap",)], ids=" ".join)
def test_the_demo_over_two_hosts(tmp_path: Path, options: tuple[str, ...]) -> None:
    words = ["demo", "--bytes", "16", "--out", str(tmp_path), "--hosts", "2", *options]
    shown = run(sys.executable, "-m", "waybill", *words)
    assert "all checks passed" in shown
    assert "on 2 hosts" in shown


def test_the_map_without_a_launcher() -> None:
    name = "map-of-one"
    _library.connect_local([name], timeout=20.0, threads=1)
    try:
        shown = run(sys.executable, "-m", "waybill", "info", "--group")
    finally:
        _library.release(name, 1.0)
    assert name in shown


def test_spans() -> None:
    assert spans([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
