"""_npu_distribute_barrier."""

from __future__ import annotations

from torch import Tensor

from .._calls import operator

__all__ = ["_npu_distribute_barrier"]


@operator
def _npu_distribute_barrier(
    x_ref: Tensor,
    group: str,
    world_size: int,
    *,
    time_out: Tensor | None = None,
    elastic_info: Tensor | None = None,
) -> Tensor:
    """Return when every rank of the group has called it.

    Collective. With elastic_info: every rank that it names.

    Args:
        x_ref: any tensor; untouched.
        group: name of the group.
        world_size: the size of the group.
        time_out: (1,) int32, microseconds, > 0: in place of the group's timeout for this call.
        elastic_info: (4+2E,) int32, as in npu_moe_distribute_dispatch_v2.

    Returns:
        x_ref itself.

    Raises:
        As npu_moe_distribute_dispatch_v2.
    """
