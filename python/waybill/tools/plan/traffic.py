"""Which rows go where: expected or counted numbers for every source and destination."""

from __future__ import annotations

from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from ..workload import routing
from ..workload.settings import Case
from .settings import Layer

Array = NDArray[numpy.float64]

MOST_DRAWN = 1 << 26
"""Random numbers that are drawn to count every rank's own ids."""
SAMPLED_TOKENS = 1 << 14
"""Tokens that stand for all where counting would take more."""


@dataclass(frozen=True)
class Traffic:
    """Numbers of rows in one call; real numbers where they are expected values."""

    tokens: Array
    """(E, hosts): tokens of a source with at least one expert, or shared expert, on a host."""
    pairs: Array
    """(E, E): rows that a source's tokens are at a destination, one for each (token, expert)."""
    how: str
    """expected, counted or sampled."""

    def pairs_to_hosts(self, layer: Layer) -> Array:
        """(E, hosts): rows that a source's tokens are on a host."""
        shape = (layer.ranks, layer.hosts, layer.ranks_per_host)
        return numpy.asarray(self.pairs.reshape(shape).sum(axis=2))

    def rows(self, layer: Layer) -> Array:
        """(E, hosts): rows that dispatch sends from a source to a host."""
        return self.pairs_to_hosts(layer) if layer.smooth else self.tokens


def shared_destinations(layer: Layer, source: int) -> list[int]:
    """The ranks that every token of a source goes to, one for each shared expert."""
    if not layer.shared:
        return []
    replicas = layer.shared_ranks // layer.shared
    return [source % replicas + s * replicas for s in range(layer.shared)]


def ranks_of(layer: Layer, expert_ids: NDArray[numpy.integer]) -> NDArray[numpy.int64]:
    """The rank of each expert."""
    return layer.shared_ranks + expert_ids.astype(numpy.int64) // layer.experts_per_rank


def expected(layer: Layer) -> Traffic:
    """K different experts for each token, all sets of K equally likely: in closed form."""
    is_moe = numpy.arange(layer.ranks) >= layer.shared_ranks
    on_rank = numpy.where(is_moe, layer.experts_per_rank, 0)
    on_host = on_rank.reshape(layer.hosts, -1).sum(axis=1)
    # None of the K is on the host: C(M - m, K) / C(M, K).
    elsewhere = layer.experts - on_host[:, None] - numpy.arange(layer.topk)
    none = numpy.prod(
        elsewhere.clip(min=0) / (layer.experts - numpy.arange(layer.topk)),
        axis=1,
    )
    mean_pairs = layer.topk * on_rank / layer.experts
    return _with_shared(
        layer,
        numpy.tile(layer.bs * (1.0 - none), (layer.ranks, 1)),
        numpy.tile(layer.bs * mean_pairs, (layer.ranks, 1)),
        "expected",
    )


def count_source(layer: Layer, expert_ids: NDArray[numpy.integer]) -> tuple[Array, Array]:
    """(hosts,) tokens and (E,) pairs of the ids (tokens, K) of one source, without shared ones."""
    ranks = ranks_of(layer, expert_ids)
    found = numpy.zeros((len(ranks), layer.hosts), dtype=bool)
    found[numpy.arange(len(ranks))[:, None], ranks // layer.ranks_per_host] = True
    pairs = numpy.bincount(ranks.ravel(), minlength=layer.ranks)
    return found.sum(axis=0).astype(float), pairs.astype(float)


def count(layer: Layer, expert_ids: list[NDArray[numpy.integer]]) -> Traffic:
    """Counted: the ids (BS, K) of each rank."""
    found = [count_source(layer, ids) for ids in expert_ids]
    tokens, pairs = (numpy.stack(part) for part in zip(*found, strict=True))
    return _with_shared(layer, tokens, pairs, "counted")


def traffic_of(layer: Layer) -> Traffic:
    """What the layer's routing gives.

    uniform: expected values. recorded: counted. zipf: the ids that `waybill bench` draws are
    counted; for large groups a sample of SAMPLED_TOKENS stands for the tokens of every rank.
    """
    kind, _, detail = layer.routing.partition(":")
    if kind == "uniform" and not detail:
        return expected(layer)
    drawn = layer.ranks * layer.bs * layer.experts
    if kind == "zipf" and drawn > MOST_DRAWN:
        tokens, pairs = count_source(layer, _ids(layer, 0, SAMPLED_TOKENS))
        share = layer.bs / SAMPLED_TOKENS
        return _with_shared(
            layer,
            numpy.tile(tokens * share, (layer.ranks, 1)),
            numpy.tile(pairs * share, (layer.ranks, 1)),
            "sampled",
        )
    return count(layer, [_ids(layer, rank, layer.bs) for rank in range(layer.ranks)])


def _ids(layer: Layer, rank: int, bs: int) -> NDArray[numpy.int32]:
    case = Case(
        ranks=1,
        bs=bs,
        hidden=layer.hidden,
        topk=layer.topk,
        experts_per_rank=layer.experts,
        routing=layer.routing,
    )
    return numpy.asarray(routing.expert_ids(case, rank).numpy())


def _with_shared(layer: Layer, tokens: Array, pairs: Array, how: str) -> Traffic:
    for source in range(layer.ranks):
        for rank in shared_destinations(layer, source):
            tokens[source, layer.host_of(rank)] = layer.bs
            pairs[source, rank] += layer.bs
    return Traffic(tokens, pairs, how)
