"""Bytes and messages between hosts. Arrays (hosts, hosts) say: from host i to host j."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy

from .layout import LINE, PLACE_BYTES, dispatch_routing_bytes, owner_offsets_bytes
from .settings import Layer, Machine
from .traffic import Array, Traffic

BODY_BYTES = 56 << 10
"""Most bytes behind the head of a message (src/transport/wire.h)."""
PACKED_BYTES = 24 << 10
"""Runs of fewer bytes share messages (src/transport/sending.cc)."""
PIECE_BYTES = 16
"""Before each run in a message that several share."""
HEAD_BYTES = 64
HEADER_BYTES = 280
"""A call's header (CallHeader in src/window/control.h)."""
SEGMENT_BYTES = 66
"""Ethernet, IP and TCP headers of a segment, with time stamps; 52 of them count for the MTU."""
SEGMENT_IN_MTU = 52


@dataclass(frozen=True)
class Links:
    """What one call moves between hosts."""

    rows: Array
    """Bytes of rows, with the scales of comm_quant_mode."""
    routing: Array
    """Bytes of lists and counts."""
    headers: Array
    """Bytes of call headers and `done` words, without their heads."""
    heads: Array
    """Bytes of heads of messages."""
    framing: Array
    """Bytes that TCP/IP and Ethernet add."""
    messages: Array
    """Messages, not bytes."""

    @cached_property
    def total(self) -> Array:
        """Bytes on the link."""
        return self.rows + self.routing + self.headers + self.heads + self.framing

    @property
    def parts(self) -> dict[str, Array]:
        """What `total` is the sum of."""
        names = ("rows", "routing", "headers", "heads", "framing")
        return {name: getattr(self, name) for name in names}


def dispatch_links(layer: Layer, machine: Machine, traffic: Traffic) -> Links:
    """Each source's rows once for each host that needs them, and its routing whole."""
    row = layer.dispatch_row_bytes
    rows = traffic.rows(layer)
    # With smooth scales rows are sorted by expert, so a host's are one run and a run for each
    # shared expert.
    counted = in_runs(rows, 1.0, row) if layer.smooth else scattered(rows, layer.bs, row)
    routing = numpy.full(rows.shape, float(dispatch_routing_bytes(layer)))
    return _links(layer, machine, [(rows * row, counted)], routing)


def combine_links(layer: Layer, machine: Machine, traffic: Traffic) -> Links:
    """Each row to the host of its token, with its place; each publisher's offsets whole."""
    rows = returned(layer, traffic)
    row, scale = layer.combine_row_bytes, layer.combine_scale_bytes
    # A host's rows are together for each expert of the publisher.
    runs = float(max(layer.experts_per_rank, 1))
    bodies = [(rows * row, in_runs(rows, runs, row))]
    if scale:
        bodies.append((rows * scale, in_runs(rows, runs, scale)))
    places = numpy.ceil(PLACE_BYTES * rows / LINE) * LINE + owner_offsets_bytes(layer)
    return _links(layer, machine, bodies, places)


def returned(layer: Layer, traffic: Traffic) -> Array:
    """(E, hosts): rows that a rank sends back to the ranks of a host."""
    shape = (layer.hosts, layer.ranks_per_host, layer.ranks)
    return numpy.asarray(traffic.pairs.reshape(shape).sum(axis=1).T)


def scattered(rows: Array, of: int, row_bytes: int) -> Array:
    """Messages for `rows` of `of` rows, each wanted with the same chance p.

    A long run of wanted rows takes messages of its own, of at most m rows: p(1-p)(1 + p^m + p^2m +
    ...) of all rows begin one. Short runs, p^l(1-p)^2 of length l, share messages with those that
    follow: of groups without a long run between them, c to a message.
    """
    most = max(BODY_BYTES // row_bytes, 1)
    chance = (rows / of).clip(max=1.0)
    partial = chance < 1.0
    inside = numpy.where(partial, 1.0 - chance**most, 1.0)
    share = numpy.where(partial, chance * (1.0 - chance) / inside, 1.0 / most)
    lengths = range(1, (PACKED_BYTES - 1) // row_bytes + 1)
    short = sum((chance**n * (1.0 - chance) ** 2 for n in lengths), numpy.zeros_like(chance))
    short_rows = sum(
        (n * chance**n * (1.0 - chance) ** 2 for n in lengths), numpy.zeros_like(chance)
    )
    messages = share - short + _shared(chance, short, short_rows * row_bytes)
    return of * messages * max(-(-row_bytes // BODY_BYTES), 1)


def _shared(chance: Array, short: Array, short_bytes: Array) -> Array:
    """Messages that short runs share: a group of n of them takes n/c, rounded up."""
    runs = chance * (1.0 - chance)
    some = short > 1e-12
    goes_on = numpy.where(some, short / numpy.where(some, runs, 1.0), 0.0)
    each = numpy.where(some, short_bytes / numpy.where(some, short, 1.0), 1.0) + PIECE_BYTES
    fit = numpy.maximum(numpy.floor(BODY_BYTES / each), 1.0)
    ends = 1.0 - goes_on
    endless = ends < 1e-9
    groups = numpy.where(endless, 1.0 / fit, ends / numpy.where(endless, 1.0, 1.0 - goes_on**fit))
    return numpy.asarray(short * groups)


def in_runs(rows: Array, runs: float, row_bytes: int) -> Array:
    """Messages for `rows` rows that lie in `runs` equal runs."""
    most = max(BODY_BYTES // row_bytes, 1)
    full = runs * numpy.ceil(rows / runs / most)
    return numpy.minimum(rows, full) * max(-(-row_bytes // BODY_BYTES), 1)


def _links(
    layer: Layer, machine: Machine, bodies: list[tuple[Array, Array]], routing: Array
) -> Links:
    """Sums over the ranks of each host. `bodies`: bytes and messages, (E, hosts) each."""
    data = sum((part for part, _ in bodies), numpy.zeros_like(routing))
    lists = numpy.ceil(routing / BODY_BYTES)
    # Every rank sends every rank of the other hosts a header, and later that it is done.
    peers = numpy.full(routing.shape, float(layer.ranks_per_host))
    framing = segments(machine, routing, lists) + segments(machine, peers * HEADER_BYTES, peers)
    framing += segments(machine, numpy.zeros_like(peers), peers)
    for part, number in bodies:
        framing += segments(machine, part, number)
    messages = sum((number for _, number in bodies), lists + 2 * peers)
    by_host = {
        "rows": data,
        "routing": routing,
        "headers": peers * HEADER_BYTES,
        "heads": messages * HEAD_BYTES,
        "framing": framing * SEGMENT_BYTES,
        "messages": messages,
    }
    return Links(**{name: _between_hosts(layer, part) for name, part in by_host.items()})


def segments(machine: Machine, body_bytes: Array, messages: Array) -> Array:
    """TCP segments of so many messages with so many bytes behind their heads, all alike."""
    if not machine.mtu:
        return numpy.zeros_like(messages)
    each = numpy.divide(body_bytes, messages, out=numpy.zeros_like(messages), where=messages > 0)
    return messages * numpy.ceil((each + HEAD_BYTES) / (machine.mtu - SEGMENT_IN_MTU))


def _between_hosts(layer: Layer, of_ranks: Array) -> Array:
    """(E, hosts) to (hosts, hosts), nothing from a host to itself."""
    shape = (layer.hosts, layer.ranks_per_host, layer.hosts)
    total = numpy.asarray(of_ranks.reshape(shape).sum(axis=1))
    numpy.fill_diagonal(total, 0.0)
    return total
