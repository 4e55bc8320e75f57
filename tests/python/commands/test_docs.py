"""The pages of the operators: their examples print what they show, and no page is missing."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import waybill
from waybill import _library, ops

DOCS = Path(__file__).resolve().parents[3] / "docs"
OPERATORS = DOCS / "operators"
PAGES = [*sorted(OPERATORS.glob("*.md")), DOCS / "recipes.md", DOCS / "strict.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:\s]*)(?:#([^)\s]*))?\)")
SECONDS = "15"  # an operator of an example waits no longer


class Block(NamedTuple):
    language: str
    text: str
    line: int  # of the page, of the block's first line


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start(2)) + 1)
        for found in FENCE.finditer(text)
    ]


def page_of(operator: str) -> Path:
    short = re.sub("^(npu_moe_distribute_|npu_moe_|_npu_distribute_)", "", operator)
    return OPERATORS / f"{short}.md"


@pytest.fixture
def example_groups(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Releases the groups that an example leaves."""
    monkeypatch.setenv("WAYBILL_TIMEOUT", SECONDS)
    monkeypatch.setenv("WAYBILL_THREADS", "1")
    monkeypatch.delenv("WAYBILL_STRICT", raising=False)
    monkeypatch.delenv("HCCL_BUFFSIZE", raising=False)
    before = set(_library.group_names())
    yield
    for name in set(_library.group_names()) - before:
        waybill.release(name, timeout=0.1)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples(page: Path, example_groups: None) -> None:
    blocks = blocks_of(page)
    namespace: dict[str, object] = {"__name__": "example"}
    for number, block in enumerate(blocks):
        if block.language != "python":
            continue
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, namespace)
        for shown in blocks[number + 1 : number + 2]:
            if shown.language == "text":
                assert printed.getvalue() == shown.text, f"{page}:{shown.line}"


@pytest.mark.parametrize("operator", ops.__all__)
def test_page(operator: str) -> None:
    page = page_of(operator)
    blocks = blocks_of(page)
    assert page.read_text().startswith(f"# {operator}\n")
    assert any(block.language == "python" for block in blocks)


def test_operators_are_listed() -> None:
    index = (OPERATORS / "index.md").read_text()
    pages = {page_of(operator).name for operator in ops.__all__}
    assert {page.name for page in OPERATORS.glob("*.md")} == pages | {"index.md"}
    assert pages <= {target for target, _ in LINK.findall(index)}
