"""The ladder of examples: each runs with one command and prints what its docstring says."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent
while not (ROOT / "CMakeLists.txt").exists() or not (ROOT / "examples").exists():
    ROOT = ROOT.parent
RUNGS = [
    "01_there_and_back",
    "02_layer",
    "03_masks_and_padding",
    "04_setup_and_teardown",
    "05_lost_rank",
    "06_two_hosts",
]
LINES = range(20, 61)
SECONDS = 100


def docstring(rung: str) -> str:
    text = ast.get_docstring(ast.parse((ROOT / "examples" / f"{rung}.py").read_text()))
    assert text is not None
    return text


def has_ucx() -> bool:
    waybill = [sys.executable, "-m", "waybill", "info"]
    shown = subprocess.run(waybill, capture_output=True, text=True, check=True).stdout
    return re.search(r"UCX\W+\d+\.\d+", shown) is not None


@pytest.mark.parametrize("rung", RUNGS)
def test_prints_what_it_says(rung: str) -> None:
    if rung == "06_two_hosts" and not has_ucx():
        pytest.skip("UCX is not installed")
    text = docstring(rung)
    command, _, printed = text.partition("\n\nPrints:\n")
    assert command.endswith(f"\n\nRun: .venv/bin/python examples/{rung}.py")
    program = subprocess.run(
        [sys.executable, f"examples/{rung}.py"],
        cwd=ROOT,
        env={**os.environ, "WAYBILL_TIMEOUT": "60"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert program.returncode == 0, program.stderr
    assert program.stdout == "".join(f"{line.strip()}\n" for line in printed.splitlines())
    assert program.stdout


@pytest.mark.parametrize("rung", RUNGS)
def test_is_a_page_long(rung: str) -> None:
    assert len((ROOT / "examples" / f"{rung}.py").read_text().splitlines()) in LINES


def test_ladder_is_complete_and_listed() -> None:
    found = sorted(path.stem for path in (ROOT / "examples").glob("[0-9]*.py"))
    assert found == RUNGS
    index = (ROOT / "docs" / "index.md").read_text()
    assert all(f"../examples/{rung}.py" in index for rung in RUNGS)
    assert f"examples/{RUNGS[0]}.py" in (ROOT / "README.md").read_text()
