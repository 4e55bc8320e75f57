"""Groups over several hosts: every operator form, bit for bit against the oracle, as on one host.

Hosts are network namespaces; their ranks share nothing but the network between them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

import waybill
from family import check
from host_ranks import HostRanks
from pairs import Chosen, batches, selection
from ranks import Rank
from waybill import _library
from waybill.tools.namespaces import Network

FULL = os.environ.get("WAYBILL_SWEEP") == "full"
NUM_SELECTED = 4000
NUM_CASES = 1200 if FULL else 240
BATCH = 10
Layout = tuple[int, ...]
LAYOUTS: dict[int, tuple[Layout, ...]] = {
    2: ((1, 1),),
    3: ((2, 1), (1, 1, 1)),
    4: ((2, 2), (1, 3), (1, 1, 1, 1)),
    6: ((3, 3), (2, 2, 2)),
    8: ((4, 4), (2, 2, 2, 2), (1, 2, 4, 1)),
    12: ((4, 4, 4), (3, 3, 3, 3)),
    16: ((4, 4, 4, 4),),
}
"""Ranks of each host, by the number of places of a case."""

reason = Network.available() or _library.machine()["ucx_problem"] or None
pytestmark = pytest.mark.skipif(reason is not None, reason=str(reason))

PoolOf = Callable[[Layout], HostRanks]


def planned() -> list[tuple[Layout, list[Chosen]]]:
    """Batches of cases that fit a layout, the layouts by turns, in the order of layouts."""
    by_layout: dict[Layout, list[Chosen]] = {}
    seen = dict.fromkeys(LAYOUTS, 0)
    for case in selection(NUM_SELECTED).cases:
        layouts = LAYOUTS.get(case.num_places)
        if layouts is None or sum(seen.values()) >= NUM_CASES:
            continue
        layout = layouts[seen[case.num_places] % len(layouts)]
        by_layout.setdefault(layout, []).append(case)
        seen[case.num_places] += 1
    return [
        (layout, batch)
        for layout in sorted(by_layout)
        for batch in batches(by_layout[layout], BATCH)
    ]


@pytest.fixture(scope="module")
def pool_over() -> Iterator[PoolOf]:
    """Ranks on hosts, one layout at a time."""
    kept: list[tuple[Layout, Network, HostRanks]] = []

    def close() -> None:
        for _, network, pool in kept:
            if not pool.broken:
                pool.close()
            network.close()
        kept.clear()

    def get(layout: Layout) -> HostRanks:
        if kept and (kept[0][0] != layout or kept[0][2].broken):
            close()
        if not kept:
            network = Network(len(layout))
            kept.append((layout, network, HostRanks(network, layout, connected=True)))
        return kept[0][2]

    yield get
    close()


def name_of(value: object) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    assert isinstance(value, list)
    return f"{value[0].features}{value[0].seed}"


@pytest.mark.parametrize(("layout", "batch"), planned(), ids=name_of)
def test_family_over_hosts(pool_over: PoolOf, layout: Layout, batch: list[Chosen]) -> None:
    check(pool_over(layout), batch)


def test_the_sweep_is_as_large_as_it_says() -> None:
    plan = planned()
    assert sum(len(batch) for _, batch in plan) >= 200
    assert {len(layout) for layout, _ in plan} == {2, 3, 4}
    assert {max(layout) for layout, _ in plan} == {1, 2, 3, 4}
    tags = {tag for _, batch in plan for case in batch for tag in case.pair_tags}
    assert tags >= {f"form:{form}" for form in ("v2", "v2+rms", "v1", "v1+rms", "setup")}
    assert tags >= {"quant:2", "comm_quant:2", "tp:2", "smooth:yes", "elastic:removed"}


def routes(rank: Rank) -> list[dict[str, str]]:
    return waybill.routes(rank.name)


def test_routes_say_who_talks_how(pool_over: PoolOf) -> None:
    for rank, found in enumerate(pool_over((2, 2)).run(routes)):
        kinds = [route["how"].split()[0] for route in found]
        here, there = ["shared", "shared"], ["UCX", "UCX"]
        assert kinds[rank] == "self"
        kinds[rank] = "shared"
        assert kinds == (here + there if rank < 2 else there + here)
        assert len({route["host"] for route in found}) == 2
