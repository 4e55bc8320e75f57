"""The inputs of one rank, and what has to come out."""

from __future__ import annotations

import numpy
import torch
from torch import Tensor

from ...reference._numerics import quantize_rows
from ..workload.routing import SEED, expert_ids
from ..workload.settings import Case

CHUNK = 1024  # rows that are compared at a time


class WrongResult(AssertionError):
    """A method's result is not what it has to be."""


class Layer:
    """One rank's part of a case. The rows of all ranks lie in memory that the ranks share."""

    def __init__(self, case: Case, rank: int, shared: numpy.ndarray) -> None:
        self.case = case
        self.rank = rank
        rows = torch.from_numpy(shared).view(case.torch_dtype)
        self.all_x = rows.view(case.ranks * case.bs, case.hidden)
        own = slice(rank * case.bs, (rank + 1) * case.bs)
        generator = torch.Generator().manual_seed(SEED + rank)
        self.all_x[own] = torch.randn((case.bs, case.hidden), generator=generator).to(
            case.torch_dtype
        )
        self.x = self.all_x[own].clone()
        self.ids = expert_ids(case, rank)
        weights = torch.rand((case.bs, case.topk), generator=generator)
        self.weights = weights / weights.sum(1, keepdim=True)
        self.tokens = expected_tokens(case, rank)

    @property
    def num_rows(self) -> int:
        return len(self.tokens)

    def expected_rows(self, tokens: Tensor, quantised: bool) -> tuple[Tensor, Tensor | None]:
        """Rows of these tokens as dispatch gives them, and their scales."""
        rows = self.all_x[tokens]
        return quantize_rows(rows.float()) if quantised else (rows, None)

    def expert_rows(self, tokens: Tensor) -> Tensor:
        """What combine gets: the experts change nothing, but read what was quantised."""
        rows, scales = self.expected_rows(tokens, self.case.quant == 2)
        if scales is None:
            return rows
        return (rows.float() * scales[:, None]).to(self.case.torch_dtype)

    def expected_sums(self) -> Tensor:
        """Of combine, in float32 in the order of the choices, rounded once."""
        case = self.case
        own = torch.arange(case.bs) + self.rank * case.bs
        rows = self.expert_rows(own).float()
        sums = torch.zeros_like(rows)
        for slot in range(case.topk):
            sums = sums + rows * self.weights[:, slot, None]
        return sums.to(case.torch_dtype)

    def check_rows(
        self, method: str, rows: Tensor, scales: Tensor | None, quantised: bool = False
    ) -> None:
        """Raises WrongResult unless every row that this rank has to get is there, bit for bit."""
        if len(rows) < self.num_rows:
            raise WrongResult(
                f"{method} dispatch: rank {self.rank}: expected {self.num_rows} rows, "
                f"got {len(rows)}"
            )
        for begin in range(0, self.num_rows, CHUNK):
            part = slice(begin, min(begin + CHUNK, self.num_rows))
            expected, factors = self.expected_rows(self.tokens[part], quantised)
            wrong = (rows[part] != expected).any(1)
            if factors is not None:
                assert scales is not None
                wrong |= scales[part] != factors
            _raise_wrong(f"{method} dispatch", self.rank, "row", begin, wrong)


def check_sums(method: str, rank: int, sums: Tensor, expected: Tensor, exact: bool) -> None:
    """Raises WrongResult unless `sums` are those of combine: bit for bit, or about."""
    if sums.shape != expected.shape:
        raise WrongResult(
            f"{method} combine: rank {rank}: expected {tuple(expected.shape)}, "
            f"got {tuple(sums.shape)}"
        )
    if exact:
        wrong = (sums != expected).any(1)
    else:
        wrong = ~torch.isclose(sums.float(), expected.float(), rtol=2e-2, atol=2e-2).all(1)
    _raise_wrong(f"{method} combine", rank, "token", 0, wrong)


def _raise_wrong(what: str, rank: int, unit: str, begin: int, wrong: Tensor) -> None:
    if bool(wrong.any()):
        first = begin + int(wrong.nonzero()[0])
        raise WrongResult(f"{what}: rank {rank}: {unit} {first} is wrong")


def expected_tokens(case: Case, rank: int) -> Tensor:
    """The token (source * BS + t) of each row that a rank gets: by expert, source, token."""
    ids = torch.stack([expert_ids(case, source) for source in range(case.ranks)]).flatten().long()
    mine = (ids // case.experts_per_rank == rank).nonzero()[:, 0]
    order = ids[mine].argsort(stable=True)
    return mine[order] // case.topk
