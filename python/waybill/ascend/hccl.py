"""The back end "hccl" of torch.distributed: gloo, and the names of groups that operators take."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch.distributed as dist

DEVICES = ["cpu", "npu"]


def install() -> None:
    if not (dist.is_available() and hasattr(dist, "ProcessGroupGloo")):
        return
    dist.Backend.register_backend("hccl", _make, devices=DEVICES)
    # Tensors of either device are the CPU's, so gloo serves both, as it does with CUDA's.
    dist.Backend.backend_capability["gloo"] = [*dist.Backend.backend_capability["gloo"], "npu"]
    group: Any = dist.ProcessGroup
    group.get_hccl_comm_name = _name_of_group
    # On gloo's class, because what a group hands out is a new Python object each time.
    backend: Any = dist.ProcessGroupGloo
    backend.get_hccl_comm_name = _name_of_backend
    if not hasattr(backend, "perform_nocolor_split"):
        # torch calls it where init_process_group got a device_id, on ranks outside a new group.
        backend.perform_nocolor_split = _nothing
    dist.is_hccl_available = _true  # type: ignore[attr-defined]
    _serve_the_cpu(dist.distributed_c10d.BackendConfig)


def _serve_the_cpu(config: Any) -> None:
    """Without a name of a back end torch takes that of the accelerator, for its tensors only."""
    original = config.__init__

    def __init__(self: Any, backend: Any) -> None:
        original(self, backend)
        backends = self.device_backend_map
        if "npu" in backends:
            backends.setdefault("cpu", backends["npu"])

    config.__init__ = __init__


def _true() -> bool:
    return True


def _nothing(self: Any, device: Any) -> None:
    """Gloo's groups need no part in others."""


def _make(store: dist.Store, rank: int, size: int, timeout: timedelta) -> Any:
    return dist.ProcessGroupGloo(store, rank, size, timeout=timeout)


def _name_of_group(self: dist.ProcessGroup, rank: int, init_comm: bool = True) -> str:
    import waybill

    return waybill.comm_name(self)


def _name_of_backend(self: Any, rank: int, init_comm: bool = True) -> str:
    for group in dist.distributed_c10d._world.pg_map:
        places = [place for place in group._device_types if place.type in DEVICES]
        if any(group._get_backend(place) is self for place in places):
            return _name_of_group(group, rank)
    raise RuntimeError("get_hccl_comm_name: expected a group that exists, got a destroyed one")
