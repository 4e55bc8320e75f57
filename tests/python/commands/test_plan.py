"""`waybill plan`: its counts against loops over drawn ids, its sizes against the library's."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import waybill
from waybill.tools.plan import Layer, Machine, count, expected, layout, links, plan, traffic_of
from waybill.tools.plan.traffic import count_source
from waybill.tools.workload import routing
from waybill.tools.workload.settings import Case

ROOT = Path(__file__).resolve().parents[3]
RECORDED = ROOT / "examples" / "tiny_moe" / "routing.safetensors"
SMALL = Layer(hosts=3, ranks_per_host=2, bs=20, hidden=64, topk=3, experts=24)
SHARED = replace(SMALL, hosts=4, experts=24, shared_experts=2, shared_ranks=2)
WIDE_SHARED = replace(SMALL, experts=10, shared_experts=1, shared_ranks=4)
LAYERS = (SMALL, SHARED, WIDE_SHARED)


def ids_of(layer: Layer, rank: int) -> numpy.ndarray:
    case = Case(1, layer.bs, layer.hidden, layer.topk, layer.experts, routing=layer.routing)
    return routing.expert_ids(case, rank).numpy()


def destinations(layer: Layer, source: int, choices: numpy.ndarray) -> list[int]:
    """The ranks that one token goes to, one for each row.

    It is docs/contract/operators.md section 3, said again.
    """
    local = layer.experts // (layer.ranks - layer.shared_ranks)
    found = [layer.shared_ranks + int(choice) // local for choice in choices]
    if layer.shared_ranks:
        replicas = layer.shared_ranks // layer.shared_experts
        found += [source % replicas + s * replicas for s in range(layer.shared_experts)]
    return found


def brute_force(layer: Layer, ids: list[numpy.ndarray]) -> tuple[numpy.ndarray, numpy.ndarray]:
    tokens = numpy.zeros((layer.ranks, layer.hosts))
    pairs = numpy.zeros((layer.ranks, layer.ranks))
    for source, choices in enumerate(ids):
        for token in choices:
            ranks = destinations(layer, source, token)
            for rank in ranks:
                pairs[source, rank] += 1
            for host in {rank // layer.ranks_per_host for rank in ranks}:
                tokens[source, host] += 1
    return tokens, pairs


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", ["uniform", "zipf:1.1"])
def test_counts_are_exact(layer: Layer, kind: str) -> None:
    layer = replace(layer, routing=kind)
    ids = [ids_of(layer, rank) for rank in range(layer.ranks)]
    tokens, pairs = brute_force(layer, ids)
    found = count(layer, ids)
    assert (found.tokens == tokens).all() and (found.pairs == pairs).all()
    if kind != "uniform":
        assert (traffic_of(layer).tokens == tokens).all()


@pytest.mark.parametrize("layer", LAYERS)
def test_bytes_of_rows_are_those_of_the_counts(layer: Layer) -> None:
    ids = [ids_of(layer, rank) for rank in range(layer.ranks)]
    tokens, pairs = brute_force(layer, ids)
    found = plan(layer, Machine(), count(layer, ids))
    hosts = range(layer.hosts)
    of_host = [slice(h * layer.ranks_per_host, (h + 1) * layer.ranks_per_host) for h in hosts]
    for i in hosts:
        for j in hosts:
            there, back = tokens[of_host[i], j].sum(), pairs[of_host[j], of_host[i]].sum()
            if i != j:
                assert found.dispatch.links.rows[i, j] == there * layer.hidden * 2
                assert found.combine.links.rows[i, j] == back * layer.hidden * 2
            else:
                assert found.dispatch.links.total[i, i] == found.combine.links.total[i, i] == 0


def test_smooth_rows_and_int8_rows() -> None:
    ids = [ids_of(SHARED, rank) for rank in range(SHARED.ranks)]
    tokens, pairs = brute_force(SHARED, ids)
    away = numpy.arange(SHARED.ranks)[:, None] // 2 != numpy.arange(SHARED.hosts)
    by_host = pairs.reshape(SHARED.ranks, SHARED.hosts, 2).sum(axis=2)
    int8 = replace(SHARED, quant=2, comm_quant=2)
    for layer, rows in ((int8, tokens), (replace(int8, smooth=True), by_host)):
        found = plan(layer, Machine(), count(layer, ids))
        assert found.dispatch.links.rows.sum() == (rows * away).sum() * 64
        # On the way back 8 elements have a scale of 2 bytes.
        assert found.combine.links.rows.sum() == (by_host * away).sum() * (64 + 8 * 2)


@pytest.mark.parametrize("layer", LAYERS)
def test_expected_rows_are_the_mean_of_draws(layer: Layer) -> None:
    drawn = []
    for seed in range(40):
        ids = [ids_of(layer, 1000 * seed + rank) for rank in range(layer.ranks)]
        drawn.append(count(layer, ids))
    found = expected(layer)
    for name in ("tokens", "pairs"):
        values = numpy.stack([getattr(one, name) for one in drawn])
        error = values.std(axis=0, ddof=1) / math.sqrt(len(drawn))
        apart = numpy.abs(values.mean(axis=0) - getattr(found, name))
        assert (apart <= 4.5 * error + 1e-9).all()
    rows = layer.bs * (layer.topk + layer.shared)
    assert numpy.allclose(found.pairs.sum(axis=1), rows)


def test_a_sample_stands_for_large_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = replace(SMALL, bs=512, routing="zipf:1.2")
    counted = traffic_of(layer)
    monkeypatch.setattr("waybill.tools.plan.traffic.MOST_DRAWN", 0)
    sampled = traffic_of(layer)
    assert (counted.how, sampled.how) == ("counted", "sampled")
    assert numpy.allclose(sampled.tokens.sum(0), counted.tokens.sum(0), rtol=0.05)
    assert numpy.allclose(sampled.pairs.sum(0), counted.pairs.sum(0), rtol=0.1)


def test_recorded_routing() -> None:
    topk = routing.read_recorded(RECORDED).shape[1]
    experts = int(routing.read_recorded(RECORDED).max()) + 1
    layer = replace(SMALL, hosts=2, topk=topk, experts=-(-experts // 4) * 4)
    layer = replace(layer, routing=f"recorded:{RECORDED}")
    tokens, _ = brute_force(layer, [ids_of(layer, rank) for rank in range(layer.ranks)])
    found = plan(layer, Machine())
    assert found.traffic.how == "counted" and (found.traffic.tokens == tokens).all()
    assert found.to_json()["settings"]["routing"] == "recorded:routing.safetensors"


def test_source_counts_take_any_number_of_tokens() -> None:
    tokens, pairs = count_source(SMALL, numpy.array([[0, 1, 23]]))
    assert tokens.tolist() == [1, 0, 1] and pairs.tolist() == [2, 0, 0, 0, 0, 1]


# Messages and pages.


def messages_of(wanted: numpy.ndarray, row: int) -> int:
    """As src/transport/sending.cc sends runs of rows."""
    runs = [len(run) * row for run in "".join("1" if w else " " for w in wanted).split()]
    count, room = 0, 0
    for run in runs:
        if run >= links.PACKED_BYTES:
            count += -(-run // links.BODY_BYTES)
            room = 0
        else:
            if run + links.PIECE_BYTES > room:
                count, room = count + 1, links.BODY_BYTES
            room -= run + links.PIECE_BYTES
    return count


@pytest.mark.parametrize("row", [14336, 7168, 2048])
def test_messages_of_scattered_rows(row: int) -> None:
    generator = numpy.random.default_rng(5)
    bs = 4096
    for chance in (0.03, 0.4, 0.9, 1.0):
        counts = [messages_of(generator.random(bs) < chance, row) for _ in range(20)]
        rows = numpy.array([[chance * bs]])
        assert links.scattered(rows, bs, row)[0, 0] == pytest.approx(numpy.mean(counts), rel=0.12)


def test_a_long_row_takes_several_messages() -> None:
    assert links.scattered(numpy.array([[3.0]]), 3, 100_000)[0, 0] == pytest.approx(6)
    assert links.in_runs(numpy.array([[8.0]]), 2.0, 14336)[0, 0] == 2
    assert links.in_runs(numpy.array([[10.0]]), 2.0, 14336)[0, 0] == 4
    assert links.in_runs(numpy.array([[0.5]]), 2.0, 14336)[0, 0] == 0.5


@pytest.mark.parametrize("hidden", [7168, 3000, 100_000])
def test_pages_of_a_mirror(hidden: int) -> None:
    layer = replace(SMALL, bs=300, hidden=hidden)
    generator = numpy.random.default_rng(6)
    first, row = layout.dispatch_routing_bytes(layer), layer.dispatch_row_bytes
    for chance in (0.0, 0.1, 0.6):
        pages = []
        for _ in range(30):
            touched = set(range(-(-first // layout.GRANULE)))
            for t in numpy.flatnonzero(generator.random(layer.bs) < chance):
                begin = first + int(t) * row
                granules = range(begin // layout.GRANULE, (begin + row - 1) // layout.GRANULE + 1)
                touched |= set(granules)
            pages.append(len(touched) * layout.GRANULE)
        found = layout.dispatch_mirror_pages(layer, numpy.array([[chance * layer.bs]]))
        assert found[0, 0] == pytest.approx(numpy.mean(pages), rel=0.03)


@pytest.mark.parametrize("layer", [*LAYERS, replace(SMALL, hosts=1), Layer(hosts=1)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"quant": 2},
        {"quant": 2, "smooth": True},
        {"comm_quant": 2},
        {"expert_scales": True},
        {"dtype": "float32", "hidden": 100},
    ],
)
def test_windows_are_those_of_the_library(layer: Layer, options: dict[str, Any]) -> None:
    layer = replace(layer, **options)
    assert layout.window_bytes(layer) == waybill.window_bytes(
        layer.bs,
        layer.hidden,
        layer.topk,
        layer.experts,
        layer.ranks,
        dtype=getattr(torch, layer.dtype),
        quant_mode=layer.quant,
        smooth=layer.smooth,
        shared_expert_num=layer.shared_experts,
        shared_expert_rank_num=layer.shared_ranks,
        comm_quant_mode=layer.comm_quant,
        expert_scales=layer.expert_scales,
    )


# Time.


def test_a_call_worked_out_by_hand() -> None:
    layer = Layer(hosts=2, ranks_per_host=1, bs=1000, hidden=1000, topk=1, experts=2)
    machine = Machine(
        link_gbps=8, latency_us=7, mtu=0, cores=2, core_copy_gbs=10, host_copy_gbs=10, message_us=0
    )
    found = plan(layer, machine)
    dispatch, combine = found.operators
    # rows_to 8, expert_offsets 12 and entries 4000 bytes, each rounded up to 64.
    assert float(dispatch.links.routing[0, 1]) == 64 + 64 + 4032
    rows = 500 * 2000
    assert float(dispatch.links.rows[0, 1]) == pytest.approx(rows)
    assert dispatch.sent()[0] == pytest.approx(
        rows + 4160 + links.HEADER_BYTES + 64 * dispatch.links.messages[0, 1]
    )
    publish, link, pull = dispatch.phases
    assert (publish.us, publish.bound) == (pytest.approx(200), "memory")
    assert link.us == pytest.approx(7 + dispatch.sent()[0] * 8 / 8 / 1e3)
    assert link.bound == "link" and dispatch.bound == "link: link"
    assert pull.us == pytest.approx(200)
    assert dispatch.us == pytest.approx(publish.us + link.us + pull.us)
    # 1000 rows read, 1000 written; rows lie in the pool, nothing is published but places.
    assert [phase.us for phase in combine.phases][::2] == [0, pytest.approx(200)]
    # 12 bytes for each of 500 rows, and 3 offsets.
    assert float(combine.links.routing[0, 1]) == 6016 + 64


def test_what_bounds_a_link() -> None:
    layer = replace(SMALL, bs=512, hidden=4096)
    for bound, machine in {
        "link": Machine(link_gbps=1),
        "latency": Machine(latency_us=1e6),
        "cpu": Machine(message_us=1e4),
        "memory": Machine(host_copy_gbs=0.01),
    }.items():
        assert plan(layer, machine).dispatch.phases[1].bound == bound
    slow = plan(layer, Machine(tcp_gbs=0.01)).dispatch.phases[1]
    assert slow.bound == "cpu" and slow.us > plan(layer, Machine()).dispatch.phases[1].us


def test_setup_hides_the_link() -> None:
    link = plan(SMALL, Machine()).dispatch.link_us
    for compute, hidden in ((0.0, 0.0), (link / 2, link / 2), (2 * link, link)):
        assert plan(SMALL, Machine(compute_us=compute)).dispatch.hidden_us == hidden


def test_framing_follows_the_mtu() -> None:
    def framing(mtu: int) -> float:
        return float(plan(Layer(), Machine(mtu=mtu)).dispatch.links.framing.sum())

    assert framing(0) == 0
    assert 5 < framing(1500) / framing(9000) < 6.5
    assert framing(65536) < framing(9000)


def test_one_host_has_no_link() -> None:
    found = plan(replace(SMALL, hosts=1), Machine())
    assert found.dispatch.sent().tolist() == [0] and found.memory.mirror_most == 0
    assert found.dispatch.phases[1].us == 0 and found.dispatch.us > 0


def test_memory_grows_with_the_sources() -> None:
    two, four = (plan(replace(Layer(), hosts=n), Machine()).memory for n in (2, 4))
    assert four.mirror_most == pytest.approx(3 * two.mirror_most, rel=0.02)
    assert two.mirror < two.mirror_most and two.window <= two.window_worst
    assert two.host == pytest.approx(8 * (two.window + two.pool) + two.mirror, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"hosts": 0}, "hosts"),
        ({"experts": 25}, "experts"),
        ({"topk": 25}, "topk"),
        ({"quant": 1}, "quant"),
        ({"smooth": True}, "smooth"),
        ({"dtype": "int8"}, "dtype"),
        ({"shared_ranks": 6}, "shared_ranks"),
        ({"shared_ranks": 2, "shared_experts": 0}, "shared_experts"),
        ({"routing": "other"}, "routing"),
    ],
)
def test_impossible_layers(change: dict[str, Any], argument: str) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: expected"):
        plan(replace(SMALL, **change), Machine())


@pytest.mark.parametrize("change", [{"link_gbps": 0.0}, {"latency_us": -1.0}, {"mtu": 40}])
def test_impossible_machines(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(change))}: expected"):
        plan(SMALL, replace(Machine(), **change))
