"""Sizes of what calls publish, and the pages of mirrors. Mirrors src/window/layout.h."""

from __future__ import annotations

import numpy

from .settings import Layer
from .traffic import Array

LINE = 64
GRANULE = 64 << 10
PLACE_BYTES = 12
"""Row, token and slot of a row that goes back."""


def up(value: float, unit: int) -> int:
    """The next multiple of `unit`."""
    return -(-int(numpy.ceil(value)) // unit) * unit


def dispatch_rows(layer: Layer) -> int:
    """Rows that a rank publishes in dispatch, without masks."""
    return layer.bs * (layer.topk + layer.shared) if layer.smooth else layer.bs


def dispatch_routing_bytes(layer: Layer) -> int:
    """Everything before the rows: counts, offsets, entries, active tokens, weights, scales."""
    entries = layer.bs * layer.topk
    sections = (
        4 * layer.ranks,
        4 * (layer.experts + 1),
        4 * entries,
        4 * layer.bs if layer.shared else 0,
        4 * entries if layer.expert_scales else 0,
        4 * dispatch_rows(layer) if layer.quant else 0,
    )
    return sum(up(section, LINE) for section in sections)


def dispatch_bytes(layer: Layer) -> int:
    """Bytes of the half that dispatch publishes."""
    return dispatch_routing_bytes(layer) + up(dispatch_rows(layer) * layer.dispatch_row_bytes, LINE)


def owner_offsets_bytes(layer: Layer) -> int:
    """Where each owner's rows begin in the list of places."""
    return up(4 * (layer.ranks + 1), LINE)


def combine_bytes(layer: Layer, rows: float, copied_rows: float, counts: int = 0) -> int:
    """Bytes of the half that combine publishes for `rows` rows, of which so many are in it."""
    return (
        owner_offsets_bytes(layer)
        + up(PLACE_BYTES * rows, LINE)
        + up(4 * counts, LINE)
        + up(copied_rows * layer.combine_scale_bytes, LINE)
        + up(copied_rows * layer.combine_row_bytes, LINE)
    )


def capacity(layer: Layer) -> int:
    """A: most rows that any rank can receive."""
    moe = layer.bs * layer.ranks * min(layer.experts_per_rank, layer.topk)
    if not layer.shared:
        return moe
    replicas = layer.shared_ranks // layer.shared
    return max(moe, layer.bs * -(-layer.ranks // replicas))


def window_bytes(layer: Layer) -> int:
    """Bytes of both halves in the worst case: what waybill.window_bytes says."""
    rows = capacity(layer)
    combine = combine_bytes(layer, rows, rows, layer.ranks * layer.experts_per_rank)
    return 2 * up(max(dispatch_bytes(layer), combine), GRANULE)


def dispatch_mirror_pages(layer: Layer, tokens: Array) -> Array:
    """Bytes of pages that mirrors of dispatch's halves get in one call.

    `tokens`: of rows of a source that go to the host, for each mirror. A granule has pages when the
    host gets any of the rows that lie in it; each row is wanted with the same chance.
    """
    rows, size, first = (
        dispatch_rows(layer),
        layer.dispatch_row_bytes,
        dispatch_routing_bytes(layer),
    )
    begins = numpy.arange(0, first + rows * size, GRANULE)
    first_row = numpy.maximum((begins - first) // size, 0)
    end_row = numpy.minimum(-(-(begins + GRANULE - first) // size), rows)
    held = numpy.maximum(end_row - first_row, 0)
    lengths, times = numpy.unique(held[begins >= first], return_counts=True)
    chance = (tokens / rows).clip(max=1.0)
    pages = numpy.full(chance.shape, float(numpy.count_nonzero(begins < first)))
    for length, number in zip(lengths, times, strict=True):
        pages += number * (1.0 - (1.0 - chance) ** length)
    return pages * GRANULE


def combine_mirror_pages(layer: Layer, rows: Array, all_rows: Array) -> Array:
    """Bytes of pages that mirrors of combine's rows get in one call.

    `rows`: that go to the host, of `all_rows` of the publisher. The rows of a host's tokens are
    together for each expert: a run of bytes touches one granule more than it fills.
    """
    row = layer.combine_row_bytes + layer.combine_scale_bytes
    runs = numpy.minimum(rows, max(layer.experts_per_rank, 1))
    places = owner_offsets_bytes(layer) + PLACE_BYTES * rows + GRANULE
    touched = rows * row + runs * GRANULE
    return numpy.minimum(touched, all_rows * row + GRANULE) + places
