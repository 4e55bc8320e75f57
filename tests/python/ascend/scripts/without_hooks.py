"""As in a torch that cannot register hooks from Python. Runs without torch loading the package."""

import sys

import torch
import torch.distributed as dist
from torch.utils import backend_registration

if hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
    del backend_registration._setup_privateuseone_for_python_backend

import torch_npu
import torchair


def function(x):
    return x.npu() + torch.zeros(3, device=f"npu:{torch.npu.current_device()}")


torch_npu.npu.set_device(1)
x = torch.ones(3, device="npu").to("npu:1")
graph = torch.compile(function, backend=torchair.get_npu_backend(), fullgraph=True)
assert torch.equal(graph(x), function(x))
dist.init_process_group(
    "hccl", rank=0, world_size=1, init_method=f"tcp://127.0.0.1:{int(sys.argv[1])}"
)
dist.barrier()
assert dist.group.WORLD.get_hccl_comm_name(0)
dist.destroy_process_group()
print("PASS")
