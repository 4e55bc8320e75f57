"""The exchange that one would write by hand over torch.distributed."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from ..workload.settings import Sizes


class GlooExchange:
    """Sort the pairs by expert, pack the rows, exchange counts and rows, unpack by expert.

    On the way back the same in reverse, and a weighted sum. On the default process group.
    """

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes

    def dispatch(self, x: Tensor, ids: Tensor) -> Tensor:
        sizes = self.sizes
        flat = ids.flatten().long()
        self.order = flat.argsort(stable=True)
        packed = x[self.order // sizes.topk]
        sent = torch.bincount(flat, minlength=sizes.experts)
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent)
        self.send_rows = sent.view(sizes.ranks, -1).sum(1).tolist()
        by_source = received.view(sizes.ranks, sizes.experts_per_rank)
        self.recv_rows = by_source.sum(1).tolist()
        rows = torch.empty((sum(self.recv_rows), sizes.hidden), dtype=x.dtype)
        dist.all_to_all_single(
            rows.view(torch.uint8), packed.view(torch.uint8), self.recv_rows, self.send_rows
        )
        # Rows come by source, then expert; experts want them by expert, then source.
        expert = torch.arange(sizes.experts_per_rank).repeat(sizes.ranks)
        self.by_expert = expert.repeat_interleave(by_source.flatten()).argsort(stable=True)
        return rows[self.by_expert]

    def combine(self, rows: Tensor, weights: Tensor) -> Tensor:
        sizes = self.sizes
        packed = torch.empty_like(rows)
        packed[self.by_expert] = rows
        back = torch.empty((sum(self.send_rows), sizes.hidden), dtype=rows.dtype)
        dist.all_to_all_single(
            back.view(torch.uint8), packed.view(torch.uint8), self.send_rows, self.recv_rows
        )
        pairs = torch.empty_like(back)
        pairs[self.order] = back
        pairs = pairs.view(-1, sizes.topk, sizes.hidden)
        return torch.einsum("tkh,tk->th", pairs.float(), weights).to(rows.dtype)
