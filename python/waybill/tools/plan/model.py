"""Time and memory of one dispatch and one combine. docs/plan.md has the formulas."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy

from ..workload.routing import shown
from . import layout
from .links import Links, combine_links, dispatch_links, returned
from .settings import Layer, Machine
from .traffic import Array, Traffic, traffic_of

FORMAT = 1
"""Of the JSON that a plan writes and that a check reads."""
MOST_LINKS = 16
"""Hosts up to which the JSON has every link."""


@dataclass(frozen=True)
class Phase:
    """A step of a call, on the host that needs longest."""

    name: str
    parts: dict[str, float]
    """Microseconds that link, memory, cpu and latency need, as far as they matter."""

    @property
    def us(self) -> float:
        """Link, memory and cores work at the same time; latency comes on top."""
        work = [value for name, value in self.parts.items() if name != "latency"]
        return max(work, default=0.0) + self.parts.get("latency", 0.0)

    @property
    def bound(self) -> str:
        """What takes most of it; "-" when it takes no time."""
        return max(self.parts, key=self.parts.__getitem__) if self.us > 0 else "-"


@dataclass(frozen=True)
class OperatorPlan:
    """dispatch or combine: publish, link, and pull or sum, one behind the other."""

    name: str
    links: Links
    phases: tuple[Phase, ...]
    compute_us: float

    @property
    def us(self) -> float:
        """Of the call in one piece."""
        return sum(phase.us for phase in self.phases)

    @property
    def link_us(self) -> float:
        """Of the link phase."""
        return next(phase.us for phase in self.phases if phase.name == "link")

    @property
    def hidden_us(self) -> float:
        """What setup and teardown hide behind the computation between them."""
        return min(self.link_us, self.compute_us)

    @property
    def bound(self) -> str:
        """The longest phase, and what bounds it."""
        return f"{self.longest.name}: {self.longest.bound}"

    @property
    def longest(self) -> Phase:
        """The phase that takes most of the time."""
        return max(self.phases, key=lambda phase: phase.us)

    def sent(self) -> Array:
        """(hosts,) bytes that each host sends."""
        return numpy.asarray(self.links.total.sum(axis=1))

    def received(self) -> Array:
        """(hosts,) bytes that each host receives."""
        return numpy.asarray(self.links.total.sum(axis=0))


@dataclass(frozen=True)
class Memory:
    """Bytes, of the rank and the host that need most."""

    window_worst: int
    """Both halves of a rank in the worst case: waybill.window_bytes."""
    window: int
    """Both halves of a rank at these numbers of rows."""
    pool: int
    """Outputs of a rank that are written: expand_x, its scales, y."""
    mirror: float
    """Pages of a host's mirrors after one dispatch and one combine."""
    mirror_most: float
    """Address space of a host's mirrors: what their pages grow to where routing changes."""
    host: float
    """Windows and pools of a host's ranks, and its mirrors after one dispatch and combine."""


@dataclass(frozen=True)
class Plan:
    """One layer on one kind of machine."""

    layer: Layer
    machine: Machine
    traffic: Traffic
    dispatch: OperatorPlan
    combine: OperatorPlan
    memory: Memory

    @property
    def operators(self) -> tuple[OperatorPlan, OperatorPlan]:
        """In the order of a layer."""
        return self.dispatch, self.combine

    def to_json(self) -> dict[str, Any]:
        """For machines; docs/plan.md has the keys."""
        settings = asdict(self.layer) | asdict(self.machine)
        settings["routing"] = shown(self.layer.routing)
        return {
            "waybill_plan": FORMAT,
            "settings": settings,
            "traffic": self.traffic.how,
            **{operator.name: _operator_json(operator) for operator in self.operators},
            "memory": asdict(self.memory),
        }


def plan(layer: Layer, machine: Machine, traffic: Traffic | None = None) -> Plan:
    """The model. Raises ValueError for settings that no group can have.

    Args:
        traffic: what `traffic_of(layer)` says where it is not given.
    """
    layer.check()
    machine.check()
    found = traffic_of(layer) if traffic is None else traffic
    return Plan(
        layer,
        machine,
        found,
        _dispatch(layer, machine, found),
        _combine(layer, machine, found),
        _memory(layer, found),
    )


def _dispatch(layer: Layer, machine: Machine, traffic: Traffic) -> OperatorPlan:
    links = dispatch_links(layer, machine, traffic)
    published = layout.dispatch_rows(layer) * (layer.x_row_bytes + layer.dispatch_row_bytes) / 2
    received = traffic.pairs.sum(axis=0) * layer.dispatch_row_bytes
    every_rank = numpy.full(layer.ranks, published)
    return OperatorPlan(
        "dispatch",
        links,
        (
            _copy_phase("publish", layer, machine, every_rank),
            _link_phase(layer, machine, links),
            _copy_phase("pull", layer, machine, received),
        ),
        machine.compute_us,
    )


def _combine(layer: Layer, machine: Machine, traffic: Traffic) -> OperatorPlan:
    links = combine_links(layer, machine, traffic)
    travels = layer.combine_row_bytes + layer.combine_scale_bytes
    moved = (layer.x_row_bytes + travels) / 2 if _copies(layer) else 0.0
    # Each owner reads all rows of its tokens and writes one row for each token.
    read = traffic.pairs.sum(axis=1) * travels
    summed = (read + layer.bs * layer.x_row_bytes) / 2
    return OperatorPlan(
        "combine",
        links,
        (
            _copy_phase("publish", layer, machine, traffic.pairs.sum(axis=0) * moved),
            _link_phase(layer, machine, links),
            _copy_phase("sum", layer, machine, summed),
        ),
        machine.compute_us,
    )


def _copies(layer: Layer) -> bool:
    """Whether combine publishes rows of its own."""
    return layer.private_rows or layer.comm_quant != 0


def _copy_phase(name: str, layer: Layer, machine: Machine, copied: Array) -> Phase:
    """`copied`: (E,) bytes, half of what is read and written together."""
    cores = machine.cores / layer.ranks_per_host
    hosts = copied.reshape(layer.hosts, -1).sum(axis=1)
    return Phase(
        name,
        {
            "memory": float(hosts.max()) / machine.host_copy_gbs / 1e3,
            "cpu": float(copied.max()) / (cores * machine.core_copy_gbs) / 1e3,
        },
    )


def _link_phase(layer: Layer, machine: Machine, links: Links) -> Phase:
    if layer.hosts == 1:
        return Phase("link", {})
    sent, received = links.total.sum(axis=1), links.total.sum(axis=0)
    data_in = (links.rows + links.routing).sum(axis=0)
    messages = links.messages.sum(axis=0) + links.messages.sum(axis=1)
    # One thread of each rank moves its messages, and copies what came into the mirror.
    work = messages * machine.message_us + data_in / machine.core_copy_gbs / 1e3
    if machine.tcp_gbs:
        work += (sent + received) / machine.tcp_gbs / 1e3
    busiest = float(max(sent.max(), received.max()))
    return Phase(
        "link",
        {
            "link": busiest * 8 / machine.link_gbps / 1e3,
            "memory": float(data_in.max()) / machine.host_copy_gbs / 1e3,
            "cpu": float(work.max()) / min(layer.ranks_per_host, machine.cores),
            "latency": machine.latency_us,
        },
    )


def _memory(layer: Layer, traffic: Traffic) -> Memory:
    received = traffic.pairs.sum(axis=0)
    dispatch = layout.dispatch_bytes(layer)
    halves = [
        layout.up(
            max(dispatch, layout.combine_bytes(layer, rows, rows if _copies(layer) else 0)),
            layout.GRANULE,
        )
        for rows in received
    ]
    scales = 4 if layer.quant else 0
    most = float(received.max())
    pool = most * (layer.dispatch_row_bytes + scales) + layer.bs * layer.x_row_bytes
    mirror, mirror_most = _mirrors(layer, traffic)
    window = 2 * max(halves)
    return Memory(
        window_worst=layout.window_bytes(layer),
        window=window,
        pool=round(pool),
        mirror=mirror,
        mirror_most=mirror_most,
        host=layer.ranks_per_host * (window + pool) + mirror,
    )


def _mirrors(layer: Layer, traffic: Traffic) -> tuple[float, float]:
    """Pages after one call of each kind, and address space, on the host that needs most."""
    if layer.hosts == 1:
        return 0.0, 0.0
    back, held = returned(layer, traffic), traffic.pairs.sum(axis=0)[:, None]
    pages = layout.dispatch_mirror_pages(layer, traffic.rows(layer))
    pages = pages + layout.combine_mirror_pages(layer, back, held)
    # A block has room for the publisher's half as if all its rows lay in it.
    blocks = numpy.array(
        [
            2
            * layout.up(
                max(layout.dispatch_bytes(layer), layout.combine_bytes(layer, rows, rows)),
                layout.GRANULE,
            )
            for rows in held[:, 0]
        ],
        dtype=float,
    )
    host_of = numpy.arange(layer.ranks) // layer.ranks_per_host
    remote = host_of[:, None] != numpy.arange(layer.hosts)
    space = remote * blocks[:, None]
    return (
        float((remote * numpy.minimum(pages, space)).sum(axis=0).max()),
        float(space.sum(axis=0).max()),
    )


def _operator_json(operator: OperatorPlan) -> dict[str, Any]:
    links = operator.links
    hosts = len(links.total)
    found: dict[str, Any] = {
        "us": operator.us,
        "hidden_us": operator.hidden_us,
        "bound": operator.bound,
        "phases": {
            phase.name: {"us": phase.us, "bound": phase.bound, "parts": phase.parts}
            for phase in operator.phases
        },
        "sent_bytes": operator.sent().tolist(),
        "received_bytes": operator.received().tolist(),
        "parts_bytes": {name: float(part.sum()) for name, part in links.parts.items()},
        "messages": float(links.messages.sum()),
    }
    if hosts <= MOST_LINKS:
        found["links"] = [
            {"from": i, "to": j, "bytes": float(links.total[i, j])}
            for i in range(hosts)
            for j in range(hosts)
            if i != j
        ]
    return found
