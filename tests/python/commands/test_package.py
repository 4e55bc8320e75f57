"""The wheel in a new environment, the command, the demo, and the routing it recorded."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import waybill
from ranks import Rank, RankPool
from waybill import reference

ROOT = Path(__file__).resolve().parents[3]
ROUTING = ROOT / "examples" / "tiny_moe" / "routing.safetensors"
HIDDEN = 64

USE_WHEEL = """
import sys, tempfile, torch, torch.distributed as dist, waybill
assert waybill.__file__.startswith(sys.argv[1]), waybill.__file__
store = dist.FileStore(tempfile.mkdtemp() + "/store", 1)
name = waybill.connect(store, 0, 1, "wheel")
x = torch.randn(4, 8)
ids = torch.tensor([[0], [1], [1], [0]], dtype=torch.int32)
out = waybill.npu_moe_distribute_dispatch_v2(x, ids, name, 1, 0, 2)
weights = torch.ones(4, 1)
y = waybill.npu_moe_distribute_combine_v2(out[0], ids, out[2], out[4], weights, name, 1, 0, 2)
assert torch.equal(x, y)
waybill.release(name)
print("good")
"""


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_works_in_a_new_environment() -> None:
    with tempfile.TemporaryDirectory() as folder:
        wheels, place = Path(folder, "wheels"), Path(folder, "env")
        # It fails when auditwheel does not confirm the tag that it gave.
        run(sys.executable, "tools/make_wheel.py", wheels)
        (wheel,) = wheels.glob("*.whl")
        assert re.search(r"-py3-none-manylinux_\d+_\d+_\w+\.whl$", wheel.name)
        venv.create(place, with_pip=False)
        pip = (sys.executable, "-m", "pip", "--python", place / "bin" / "python")
        run(*pip, "install", "--quiet", "--no-deps", wheel)
        # torch and the rest come from this environment, waybill from the wheel.
        site = Path(sysconfig.get_path("purelib", vars={"base": str(place)}))
        (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
        alone = {"PYTHONPATH": "", "PATH": str(place / "bin")}  # no compiler is found
        assert shutil.which("g++", path=alone["PATH"]) is None
        assert run(place / "bin" / "python", "-c", USE_WHEEL, str(site), **alone).strip() == "good"
        tested = run(place / "bin" / "waybill", "selftest", "--seconds", "5", **alone)
        assert "equal the oracle bit for bit" in tested


def test_info_and_help() -> None:
    assert "simd" in run(sys.executable, "-m", "waybill", "info")
    for words in (["--help"], ["selftest", "--help"], ["demo", "--help"]):
        assert "usage: waybill" in run(sys.executable, "-m", "waybill", *words)


def test_selftest() -> None:
    output = run(sys.executable, "-m", "waybill", "selftest", "--seconds", "3")
    assert "equal the oracle bit for bit" in output


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--redundant", "4"),
        ("--experts-per-rank", "4", "--redundant", "2", "--overlap"),
        ("--lose-rank", "5"),
    ],
    ids=" ".join,
)
def test_demo(tmp_path: Path, options: tuple[str, ...]) -> None:
    words = ("demo", "--bytes", "16", "--out", tmp_path, *options)
    output = run(sys.executable, "-m", "waybill", *words)
    assert "all checks passed" in output
    assert (tmp_path / "experts.png").stat().st_size > 1000


def recorded_call(number: int, ranks: int) -> list[Tensor]:
    with safe_open(ROUTING, framework="pt") as file:
        return [file.get_tensor(f"{rank}.{number:04d}") for rank in range(ranks)]


def inputs(ids: list[Tensor], number: int) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(number)
    x = [torch.randn((len(part), HIDDEN), generator=generator).bfloat16() for part in ids]
    weights = [torch.rand(part.shape, generator=generator) for part in ids]
    return x, weights


def exchange(rank: Rank, number: int, common: dict[str, int]) -> Tensor:
    ids = recorded_call(number, rank.world_size)
    x, weights = inputs(ids, number)
    own = rank.rank
    where = {"group_ep": rank.name, "ep_rank_id": own, **common}
    out = waybill.npu_moe_distribute_dispatch_v2(x[own], ids[own], **where)
    out[0].mul_(2)
    return waybill.npu_moe_distribute_combine_v2(
        out[0], ids[own], out[2], out[4], weights[own], **where
    )


@pytest.mark.parametrize("number", range(0, 40, 3))
def test_recorded_routing(pool_of: Callable[[int], RankPool], number: int) -> None:
    ranks = 8
    ids = recorded_call(number, ranks)
    x, weights = inputs(ids, number)
    common = {"ep_world_size": ranks, "moe_expert_num": 16, "global_bs": ranks * 64}
    got = pool_of(ranks).run(exchange, number, common)
    sent = reference.npu_moe_distribute_dispatch_v2(x, ids, **common)
    want = reference.npu_moe_distribute_combine_v2(
        [out.expand_x * 2 for out in sent],
        ids,
        [out.assist_info_for_combine for out in sent],
        [out.ep_recv_counts for out in sent],
        weights,
        **common,
    )
    for mine, right in zip(got, want, strict=True):
        assert torch.equal(mine.view(torch.int16), right.view(torch.int16))
