"""The oracle reproduces the golden vectors of tests/golden."""

from __future__ import annotations

from pathlib import Path

import pytest

from golden import FILES, GOLDEN, NUM_FILES, GoldenCase, check_golden
from waybill import reference


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden(path: Path) -> None:
    case = GoldenCase(path)
    check_golden(case, case.run())


def test_every_golden_file_is_there() -> None:
    """A file more or less than the README's groups promise is noticed: new ones are run by the
    glob above.
    """
    assert len(FILES) == NUM_FILES
    stray = [p.name for p in GOLDEN.iterdir() if p not in FILES and p.name != "README.md"]
    assert not stray


def test_every_operator_is_covered() -> None:
    """All operators but the barrier, which computes nothing, appear in some golden file."""
    called = {call["operator"] for path in FILES for call in GoldenCase(path).calls}
    operators = {name for name in reference.__all__ if name.startswith("npu_moe_")}
    assert called == operators


def test_unspecified_parts_are_zero() -> None:
    case = GoldenCase(GOLDEN / "v2_quant_scales_shared.safetensors")
    results = case.run()
    for name in results:
        if name.endswith((".expand_x", ".dynamic_scales", ".assist_info_for_combine")):
            assert not results[name][len(case.tensors[name]) :].any(), name
