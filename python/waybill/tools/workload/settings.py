"""What is measured: sizes, and how long."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
PHASES = ("dispatch", "combine")
SCALE_BYTES = 4


@dataclass(frozen=True)
class Sizes:
    """One layer."""

    ranks: int
    bs: int
    hidden: int
    topk: int
    experts_per_rank: int

    @property
    def experts(self) -> int:
        return self.ranks * self.experts_per_rank


@dataclass(frozen=True)
class Case(Sizes):
    """One layer and how it is run; the fields are keys of a record."""

    quant: int = 0
    threads: int = 1
    routing: str = "uniform"
    dtype: str = "bfloat16"
    hosts: int = 1
    """Namespaces of this machine; the ranks lie on them in equal parts, one behind the other."""

    @property
    def ranks_per_host(self) -> int:
        return self.ranks // self.hosts

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    def check(self) -> None:
        """Raises ValueError for what cannot be run."""
        for field in fields(Sizes):
            if getattr(self, field.name) < 1:
                raise ValueError(f"{field.name}: expected 1 or more")
        if self.hosts < 1 or self.ranks % self.hosts:
            raise ValueError(
                f"hosts: expected a divisor of the number of ranks, {self.ranks}, got {self.hosts}"
            )
        if self.topk > self.experts:
            raise ValueError(
                f"topk: expected at most ranks * experts_per_rank = {self.experts}, got {self.topk}"
            )
        if self.quant not in (0, 2):
            raise ValueError(f"quant: expected 0 or 2, got {self.quant}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, got {self.dtype!r}")

    def bytes_of(self, quantised: bool) -> int:
        """Bytes of the rows that all ranks together get in one direction."""
        row = self.hidden + SCALE_BYTES if quantised else self.hidden * self.torch_dtype.itemsize
        return self.ranks * self.bs * self.topk * row


def sweep(options: dict[str, Sequence[Any]]) -> Iterator[Case]:
    """Every combination of lists of values, by the names of Case's fields."""
    names = list(options)
    for values in itertools.product(*options.values()):
        case = Case(**dict(zip(names, values, strict=True)))
        case.check()
        yield case


def numbers(text: str) -> list[int]:
    """ "2,8" """
    return [int(word) for word in words(text)]


def words(text: str) -> list[str]:
    found = [word.strip() for word in text.split(",") if word.strip()]
    if not found:
        raise ValueError("expected at least one value")
    return found


def base_case(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The value of each setting that most records have; of several, the first."""
    kept = list(records)
    base = {}
    for field in fields(Case):
        values = [record[field.name] for record in kept if field.name in record]
        if values:
            base[field.name] = max(dict.fromkeys(values), key=values.count)
    return base
