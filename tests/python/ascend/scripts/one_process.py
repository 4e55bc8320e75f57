"""What a script finds in torch, torch_npu and torchair without any other rank."""

import importlib
import io
import pickle
import sys
import threading

import pytest
import torch
import torch_npu
import torchair
from torch_npu.dynamo import torchair as same_torchair

PLACE = torch.device("npu", 3)


class Thing:
    """Pickled by the name of its module, __main__."""


def factories():
    """In any thread, a tensor on the CPU."""
    x = torch.ones(3, 4)
    made = [
        torch.empty(3, device="npu"),
        torch.zeros(3, device="npu:2"),
        torch.randn(3, device=PLACE),
        torch.randint(0, 4, (3,), device="npu"),
        torch.arange(5, device="npu"),
        torch.full((2,), 3, device="npu"),
        torch.eye(3, device="npu"),
        torch.linspace(0, 1, 3, device="npu"),
        torch.tensor([1, 2], device="npu"),
        torch.as_tensor([1, 2], device="npu"),
        torch.randperm(4, device="npu"),
        torch.tril_indices(3, 3, device="npu"),
        torch.randn(3, generator=torch.Generator(device="npu").manual_seed(1), device="npu"),
        torch.nn.Linear(3, 4, device="npu").weight,
        torch.nn.Linear(3, 4).npu().weight,
        torch.nn.Linear(3, 4).to("npu:1", torch.half).weight,
        x.new_zeros(3, device="npu"),
        torch.zeros_like(x, device="npu"),
        x.npu(),
        x.npu(3),
        x.npu(non_blocking=True),
        x.to("npu:3"),
        x.to(PLACE, torch.float16),
        x.to(3),
        x.pin_memory().npu(),
    ]
    with torch.device("npu"):
        made.append(torch.ones(3))
    assert all(tensor.device.type == "cpu" and tensor.is_npu for tensor in made)


def inside():
    """Functions to compile, without a graph break."""
    yield lambda x: x.npu() + x
    yield lambda x: x.npu(3) + x
    yield lambda x: x.npu(non_blocking=True) + x
    yield lambda x: x.to("npu:3") * 2 + x
    yield lambda x: x.to(3) * 2 + x
    yield lambda x: x.to(device=PLACE, dtype=torch.float64) + x
    yield lambda x: x.to("npu", torch.float64) + x
    yield lambda x: x.to(torch.float64) + x
    yield lambda x: torch.zeros(3, 4, device="npu") + x
    yield lambda x: torch.tensor([1.0, 2, 3, 4], device="npu:1") + x
    yield lambda x: torch.arange(4, device=PLACE) + x
    yield lambda x: x.new_zeros(3, 4, device="npu") + x
    yield lambda x: torch.ones_like(x, device="npu") + x.cpu()
    yield lambda x: x + 1 if x.is_npu and torch.npu.is_available() else x
    yield lambda x: torch.zeros(4, device=f"npu:{torch_npu.npu.current_device()}") + x
    yield copies


def copies(x):
    """Transfers copy, compiled or not."""
    there = x.npu()
    there.add_(1)
    back = there.cpu()
    there.add_(1)
    return back - x


def compiled():
    x = torch.arange(12.0).reshape(3, 4)
    backend = torchair.get_npu_backend(compiler_config=torchair.CompilerConfig())
    for function in inside():
        torch._dynamo.reset()
        graph = torch.compile(function, backend=backend, dynamic=False, fullgraph=True)
        assert torch.equal(graph(x), function(x))


def inductor():
    """Another back end sees the CPU, too."""
    x = torch.arange(12.0).reshape(3, 4)
    graph = torch.compile(lambda x: x.npu() * torch.full((4,), 2.0, device="npu"), fullgraph=True)
    assert torch.equal(graph(x), x * 2)


def in_a_thread(action):
    failures = []

    def run():
        try:
            action()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def devices():
    assert torch.npu.is_available() and torch.npu.device_count() == 16
    assert torch_npu.npu is torch.npu
    torch.npu.set_device("npu:5")
    assert torch.npu.current_device() == 5 == torch.accelerator.current_device_index()
    with torch.npu.device(2):
        assert torch_npu.npu.current_device() == 2
    in_a_thread(lambda: torch.npu.set_device(7))
    assert torch.npu.current_device() == 5
    torch.npu.synchronize()
    torch.accelerator.synchronize()

    stream = torch.npu.Stream()
    begin, end = (torch.npu.Event(enable_timing=True) for _ in range(2))
    with torch.npu.stream(stream):
        assert torch.npu.current_stream() is stream
        begin.record()
        end.record()
    end.wait(torch.npu.current_stream())
    assert begin.elapsed_time(end) >= 0

    torch.npu.manual_seed(3)
    first = torch.randn(4, device="npu")
    torch.manual_seed(3)
    assert torch.equal(first, torch.randn(4, device="npu"))
    torch.set_default_device("npu")
    assert torch.zeros(3).is_npu
    torch.set_default_device(None)


def files():
    buffer = io.BytesIO()
    torch.save({"weight": torch.ones(3, device="npu")}, buffer)
    buffer.seek(0)
    assert torch.load(buffer, map_location="npu:0")["weight"].tolist() == [1, 1, 1]
    assert isinstance(pickle.loads(pickle.dumps(Thing())), Thing)


def gradients():
    weight = torch.ones(3, device="npu", requires_grad=True)
    (weight.npu() * 2).sum().backward()
    assert weight.grad.tolist() == [2, 2, 2]


def errors():
    for module, name in ((torch_npu, "npu_grouped_matmul"), (torch.npu, "mem_get_info")):
        with pytest.raises(AttributeError, match=rf"{name} is not covered.*docs/ascend\.md"):
            getattr(module, name)
    with pytest.raises(AttributeError, match=r"docs/ascend\.md"):
        _ = torch.ops.npu.npu_grouped_matmul
    with pytest.raises(AttributeError, match=r"docs/ascend\.md"):
        _ = torchair.inference
    with pytest.raises(ModuleNotFoundError, match=r"docs/ascend\.md"):
        importlib.import_module("torch_npu.contrib")


def settings():
    config = torchair.CompilerConfig()
    config.mode = "reduce-overhead"
    config.experimental_config.frozen_parameter = True
    assert config.experimental_config.frozen_parameter is True
    assert same_torchair is torchair
    options = torch_npu._C._distributed_c10d.ProcessGroupHCCL.Options()
    options.hccl_config = {"hccl_buffer_size": 200}


def main():
    for action in (factories, compiled, devices, files, gradients, errors, settings):
        action()
    in_a_thread(factories)
    in_a_thread(compiled)
    print("PASS")


if __name__ == "__main__":
    if "inductor" in sys.argv:
        inductor()
        print("PASS")
    else:
        main()
