"""tools/signature_blocks.py writes the signatures on the pages, and finds what is not true."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from waybill.operators import named

ROOT = next(path for path in Path(__file__).resolve().parents if (path / "CMakeLists.txt").exists())
sys.path.append(str(ROOT / "tools"))

import signature_blocks as tool  # noqa: E402


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the pages, on which the tool works."""
    copy = tmp_path / "operators"
    shutil.copytree(ROOT / "docs" / "operators", copy)
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "PAGES", copy)
    return copy


def run(monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(sys, "argv", ["signature_blocks", *options])
    return int(tool.main())


def test_pages_are_true(pages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "--check") == 0


@pytest.mark.parametrize(
    ("true", "false"),
    [
        ("world_size: int,", "world_size: int, more: int,"),
        ("time_out: Tensor | None = None, ", ""),
        (" | None", ""),
        ("-> x_ref", "-> x"),
    ],
)
def test_stale_page(
    pages: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    true: str,
    false: str,
) -> None:
    page = pages / "barrier.md"
    text = page.read_text()
    page.write_text(text.replace(true, false, 1))
    assert run(monkeypatch, "--check") == 1
    assert "barrier.md is stale" in capsys.readouterr().out
    assert run(monkeypatch) == 0
    assert page.read_text() == text


def test_page_without_a_signature(
    pages: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = pages / "barrier.md"
    page.write_text(page.read_text().replace("## Signature", "## Call"))
    assert run(monkeypatch) == 1
    assert "barrier.md has 0 signatures" in capsys.readouterr().out


def test_tables_of_inputs() -> None:
    head, line = "## Inputs\n\n| input | |\n|---|---|\n", "| `x_ref`, `world_size` | any |\n"
    barrier = named("_npu_distribute_barrier")
    assert tool.problems_of(barrier, f"{head}{line}\n## Output\n") == []
    bad = f"{head}{line}| `x_ref` | |\n| `size` | |\n\n## Output\n"
    assert tool.problems_of(barrier, bad) == [
        "names x_ref twice",
        "names size, which no schema has",
    ]
