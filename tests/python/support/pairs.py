"""Which cases a sweep runs: all pairs of option values that can occur together.

A case's tags (cases.py) are its option values. `selection()` goes through cases in a fixed order
and takes those with a pair that no case before had.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

from cases import outline

# How many seeds of each family of operators there are to choose from; 20,000 in all.
UNIVERSE = {"full": 12_000, "v1": 4_000, "setup": 4_000}


class Chosen(NamedTuple):
    """A case of the sweep, by what random_case needs for it."""

    features: str
    seed: int
    num_places: int  # processes

    @property
    def pair_tags(self) -> frozenset[str]:
        return tags_of(self.features, self.seed)[1]


def universe() -> Iterator[tuple[str, int]]:
    """Families take turns, in proportion."""
    step = min(UNIVERSE.values())
    for seed in range(step):
        for features, count in UNIVERSE.items():
            share = count // step
            for part in range(share):
                yield features, seed * share + part


def tags_of(features: str, seed: int) -> tuple[int, frozenset[str]]:
    """Places of a case and the option values that are known without its tensors."""
    plan = outline(seed, features=features)
    return plan.num_places, frozenset(plan.tags)


class Selection(NamedTuple):
    cases: list[Chosen]
    pairs: set[tuple[str, str]]  # all that occur in the universe


@lru_cache
def selection(count: int) -> Selection:
    """`count` cases or more: first those that bring a new pair, then others from the beginning."""
    pairs: set[tuple[str, str]] = set()
    chosen: list[Chosen] = []
    others: list[Chosen] = []
    for features, seed in universe():
        num_places, tags = tags_of(features, seed)
        own = set(combinations(sorted(tags), 2))
        case = Chosen(features, seed, num_places)
        if own <= pairs:
            if len(others) < count:
                others.append(case)
        else:
            pairs |= own
            chosen.append(case)
    missing = max(count - len(chosen), 0)
    return Selection(chosen + others[:missing], pairs)


def batches(cases: list[Chosen], size: int) -> list[list[Chosen]]:
    """Cases of the same number of processes together, at most `size` in a batch."""
    by_places: dict[int, list[Chosen]] = {}
    for case in cases:
        by_places.setdefault(case.num_places, []).append(case)
    return [
        cases[begin : begin + size]
        for _, cases in sorted(by_places.items())
        for begin in range(0, len(cases), size)
    ]
