"""The operators: the names, arguments and results of the vendor's."""

from __future__ import annotations

from .. import fakes, operators

for _operator in operators.OPERATORS:
    operators.register(_operator)
    fakes.register(_operator)

from .barrier import _npu_distribute_barrier  # noqa: E402
from .combine import (  # noqa: E402
    npu_moe_distribute_combine,
    npu_moe_distribute_combine_add_rms_norm,
    npu_moe_distribute_combine_v2,
)
from .dispatch import npu_moe_distribute_dispatch, npu_moe_distribute_dispatch_v2  # noqa: E402
from .experts import npu_moe_eplb_update_expert, npu_moe_update_expert  # noqa: E402
from .setup import (  # noqa: E402
    npu_moe_distribute_combine_setup,
    npu_moe_distribute_combine_teardown,
    npu_moe_distribute_dispatch_setup,
    npu_moe_distribute_dispatch_teardown,
)

__all__ = [
    "_npu_distribute_barrier",
    "npu_moe_distribute_combine",
    "npu_moe_distribute_combine_add_rms_norm",
    "npu_moe_distribute_combine_setup",
    "npu_moe_distribute_combine_teardown",
    "npu_moe_distribute_combine_v2",
    "npu_moe_distribute_dispatch",
    "npu_moe_distribute_dispatch_setup",
    "npu_moe_distribute_dispatch_teardown",
    "npu_moe_distribute_dispatch_v2",
    "npu_moe_eplb_update_expert",
    "npu_moe_update_expert",
]
