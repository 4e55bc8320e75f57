"""Waybill: expert-parallel dispatch and combine for mixture-of-experts inference.

The operators have the names, arguments and results of the vendor's; they work on CPUs, between the
processes of one host or of several:

    name = waybill.comm_name()  # of the default process group of torch.distributed
    expand_x, _, assist, counts, recv_counts, _, _ = waybill.npu_moe_distribute_dispatch_v2(
        x, expert_ids, name, ep_world_size, ep_rank_id, moe_expert_num)
    y = waybill.npu_moe_distribute_combine_v2(
        experts(expand_x, counts), expert_ids, assist, recv_counts, expert_scales,
        name, ep_world_size, ep_rank_id, moe_expert_num)

`waybill.reference` is the oracle: every operator in plain PyTorch, without processes.
"""

from . import ops, reference
from ._library import version as __version__
from .errors import (
    ArgumentError,
    MismatchError,
    PeerLost,
    PeerTimeout,
    StateError,
    WaybillError,
)
from .groups import (
    comm_name,
    connect,
    expert_buffer,
    last_error,
    placement,
    release,
    reset,
    routes,
    set_timeout,
    stats,
    window_bytes,
)
from .ops import *  # noqa: F403

__all__ = [
    "ArgumentError",
    "MismatchError",
    "PeerLost",
    "PeerTimeout",
    "StateError",
    "WaybillError",
    "__version__",
    "comm_name",
    "connect",
    "expert_buffer",
    "last_error",
    "placement",
    "reference",
    "release",
    "reset",
    "routes",
    "set_timeout",
    "stats",
    "window_bytes",
]
__all__ += ops.__all__
