"""_npu_distribute_barrier: without processes there is nobody to wait for.

See docs/contract/operators.md section 10a.
"""

from __future__ import annotations

from torch import Tensor

from ._routing import PerRank


def _npu_distribute_barrier(
    x_ref: PerRank[Tensor],
    *,
    world_size: int,
    time_out: PerRank[Tensor] | None = None,
    elastic_info: PerRank[Tensor] | None = None,
) -> list[Tensor | None]:
    """The list of x_ref, untouched."""
    if len(x_ref) != world_size:
        raise ValueError(f"expected {world_size} ranks, got {len(x_ref)}")
    return list(x_ref)
