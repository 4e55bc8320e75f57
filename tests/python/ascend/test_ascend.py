"""Scripts written for the accelerator, as they are: each runs in an interpreter of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import waybill
from waybill.ascend import launch

SCRIPTS = Path(__file__).parent / "scripts"
FAMILIES = {
    "v2": "npu_moe_distribute_combine_v2",
    "ops": "npu_moe_distribute_combine_v2",
    "v1": "npu_moe_distribute_combine",
    "add_rms_norm": "npu_moe_distribute_combine_add_rms_norm",
    "setup": "npu_moe_distribute_combine_teardown",
    "update_expert": "npu_moe_eplb_update_expert",
    "barrier": "_npu_distribute_barrier",
}
LIMIT = 150


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def run(*words: str, limit: float = LIMIT, **environment: str) -> str:
    """The output of a command line that succeeds; nothing it started is left."""
    settings = {"OMP_NUM_THREADS": "1", "WAYBILL_TIMEOUT": "60", **environment}
    process = subprocess.Popen(
        [sys.executable, *words],
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit)
    finally:
        left = not has_ended(process.pid)
        if left:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == 0, output
    assert not left, f"processes were left\n{output}"
    return output


def has_ended(group: int) -> bool:
    """Whether all processes of a group end by themselves soon, as multiprocessing's trackers do."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def ascend(*words: str, **environment: str) -> str:
    return run("-m", "waybill.ascend", *words, **environment)


@pytest.fixture(scope="module")
def sixteen_ranks() -> str:
    present = [family for family, name in FAMILIES.items() if hasattr(waybill, name)]
    return ascend(str(SCRIPTS / "sixteen_ranks.py"), free_port(), *present)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("family", FAMILIES)
def test_sixteen_ranks(request: pytest.FixtureRequest, family: str, mode: str) -> None:
    if not hasattr(waybill, FAMILIES[family]):
        pytest.skip(f"waybill has no {FAMILIES[family]} yet")
    assert f"PASS {family} {mode}\n" in request.getfixturevalue("sixteen_ranks")


def test_spawned_ranks() -> None:
    output = ascend(str(SCRIPTS / "two_ranks.py"), free_port())
    assert "PASS 0" in output and "PASS 1" in output


def test_groups_again() -> None:
    output = ascend(str(SCRIPTS / "groups_again.py"), free_port())
    assert "PASS 0" in output and "PASS 1" in output


def test_ranks_of_torchrun() -> None:
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port", free_port())
    output = ascend(*torchrun, str(SCRIPTS / "two_ranks.py"))
    assert "PASS 0" in output and "PASS 1" in output


def test_one_process() -> None:
    output = run(
        str(Path(sys.executable).with_name("waybill")), "ascend", str(SCRIPTS / "one_process.py")
    )
    assert "PASS" in output


def test_inductor_sees_the_cpu() -> None:
    assert "PASS" in ascend(str(SCRIPTS / "one_process.py"), "inductor")


def test_torch_without_hooks() -> None:
    script = str(SCRIPTS / "without_hooks.py")
    assert "PASS" in ascend(script, free_port(), TORCH_DEVICE_BACKEND_AUTOLOAD="0")


SMALL: dict[str, str] = {
    "torch_npu first": "import torch_npu, torch; print(torch.ones(1).npu())",
    "waybill first": "import waybill, torch_npu; "
    "assert torch_npu.npu_moe_distribute_dispatch_v2 is waybill.npu_moe_distribute_dispatch_v2",
    "torch only": "import torch; print(torch.ones(1, device='npu'))",
    "from import": "from torch_npu import npu, npu_moe_distribute_combine_v2",
}


@pytest.mark.parametrize("code", SMALL.values(), ids=SMALL)
def test_orders_of_imports(code: str) -> None:
    ascend("-c", code)


def test_an_existing_sitecustomize_runs(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.was_customized = True")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    ascend("-c", "import sys, torch_npu; assert sys.was_customized", PYTHONPATH=path)


def test_arguments_and_exit_code(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys; print(sys.argv[1:], __name__, __file__); sys.exit(7)")
    result = subprocess.run(
        [sys.executable, "-m", "waybill.ascend", str(script), "--help", "-x"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert result.returncode == 7
    assert result.stdout == f"['--help', '-x'] __main__ {script}\n"


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["--help"]) == 0
    assert launch.main([]) == 2
    assert "usage: python -m waybill.ascend" in capsys.readouterr().out


def test_python_path_is_stable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    once = launch.python_path()
    assert once.split(os.pathsep)[0] == str(launch.SITE) and once.endswith("/somewhere")
    monkeypatch.setenv("PYTHONPATH", once)
    assert launch.python_path() == once
