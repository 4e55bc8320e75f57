"""Which experts the tokens choose: uniform, skewed, or recorded."""

from __future__ import annotations

from pathlib import Path

import numpy
import torch
from torch import Tensor

from .settings import Case

SEED = 1000


def expert_ids(case: Case, rank: int) -> Tensor:
    """(BS, K) int32, K different experts for each token; every process can make every rank's."""
    kind, _, detail = case.routing.partition(":")
    if kind == "recorded":
        return _recorded(case, rank, Path(detail))
    generator = torch.Generator().manual_seed(SEED + rank)
    scores = torch.rand((case.bs, case.experts), generator=generator)
    if kind == "uniform" and not detail:
        return scores.topk(case.topk).indices.int()
    if kind == "zipf":
        # The K largest of log p + Gumbel noise are K draws from p without replacement.
        exponent = float(detail or "1.2")
        popularity = torch.arange(1, case.experts + 1).pow(-exponent)
        order = torch.randperm(case.experts, generator=torch.Generator().manual_seed(SEED))
        noise = -(-scores.clamp_min(1e-9).log()).log()
        return (popularity[order].log() + noise).topk(case.topk).indices.int()
    raise ValueError(
        f"routing: expected uniform, zipf:EXPONENT or recorded:FILE, got {case.routing!r}"
    )


def read_recorded(path: Path) -> numpy.ndarray:
    """(tokens, K) expert ids.

    .txt: a token a line, K ids separated by spaces. .npy: an integer array (tokens, K).
    .safetensors: integer tensors (tokens, K), taken one below the other in the order of their
    names.
    """
    if path.suffix == ".npy":
        ids = numpy.load(path)
    elif path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        ids = numpy.concatenate([tensor for _, tensor in sorted(load_file(path).items())])
    else:
        ids = numpy.loadtxt(path, dtype=numpy.int64, ndmin=2)
    if ids.ndim != 2 or len(ids) == 0 or not numpy.issubdtype(ids.dtype, numpy.integer):
        raise ValueError(
            f"{path.name}: expected integers (tokens, K), got {ids.dtype} {tuple(ids.shape)}"
        )
    return ids


def _recorded(case: Case, rank: int, path: Path) -> Tensor:
    ids = read_recorded(path)
    if ids.shape[1] != case.topk:
        raise ValueError(f"{path.name}: expected topk = {ids.shape[1]}, got {case.topk}")
    if ids.min() < 0 or ids.max() >= case.experts:
        raise ValueError(
            f"{path.name}: expected ids below ranks * experts_per_rank = {case.experts}, "
            f"got {ids.min()} to {ids.max()}"
        )
    # Each rank takes the tokens behind those of the rank before, from the start again at the end.
    tokens = (rank * case.bs + numpy.arange(case.bs)) % len(ids)
    return torch.from_numpy(ids[tokens].astype(numpy.int32))


def shown(routing: str) -> str:
    """For results: a recorded one by the name of its file alone."""
    kind, separator, detail = routing.partition(":")
    return f"{kind}:{Path(detail).name}" if kind == "recorded" else kind + separator + detail
