"""tools/check_references.py finds what is named and does not exist, and nothing else."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = next(path for path in Path(__file__).resolve().parents if (path / "CMakeLists.txt").exists())
_spec = importlib.util.spec_from_file_location(
    "check_references", ROOT / "tools" / "check_references.py"
)
assert _spec is not None and _spec.loader is not None
references = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(references)

PAGE = """# Page

## 7. Numbers

### 7.2 Sums

## Coming back

- **R1, first.** A rule.
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for folder in ("docs", "src/window", "python"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "docs/protocol.md").write_text(PAGE)
    (tmp_path / "src/window/layout.h").write_text("// The layout.\n")
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    return tmp_path


def found(tree: Path, name: str, text: str) -> list[str]:
    (tree / name).write_text(text)
    return references.check(tree)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("docs/a.md", "[page](protocol.md#72-sums), [this](#top), src/window/layout.h\n\n# Top\n"),
        (
            "src/window/a.h",
            "// docs/protocol.md section 7.2, then sections 7 and\n// 7.2, rule R1.\n",
        ),
        ("src/window/a.h", '// See docs/protocol.md, "Coming\n// back", and window/layout.h.\n'),
        ("src/window/a.h", 'const char* name = "docs/none.md";\nint x;  // docs/protocol.md\n'),
        ("python/a.py", '"""See docs/protocol.md section 7."""\nNAME = "docs/none.md"\n'),
        ("docs/a.md", "```\ndocs/none.md\n```\n"),
    ],
)
def test_right_ones_pass(tree: Path, name: str, text: str) -> None:
    assert found(tree, name, text) == []


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("docs/a.md", "\n[page](none.md)\n", "docs/a.md:2: no file none.md"),
        ("docs/a.md", "[p](protocol.md#sums)\n", "docs/a.md:1: no heading #sums in protocol.md"),
        ("docs/a.md", "[p](#sums)\n", "docs/a.md:1: no heading #sums in this page"),
        ("docs/a.md", "`src/window/none.h`\n", "docs/a.md:1: no file src/window/none.h"),
        (
            "src/window/a.h",
            "int x;\n/// window/none.h\n",
            "src/window/a.h:2: no header window/none.h",
        ),
        (
            "src/window/a.h",
            "// docs/protocol.md\n// section 7.3\n",
            "src/window/a.h:2: no section 7.3 in docs/protocol.md",
        ),
        (
            "src/window/a.h",
            "// section 7\n",
            "src/window/a.h:1: section 7: no page under docs/ is named before it",
        ),
        (
            "python/a.py",
            '"""See docs/protocol.md, "Going away"."""\n',
            'python/a.py:1: no heading "Going away" in docs/protocol.md',
        ),
        (
            "python/a.py",
            "x = 1  # rules R1 and R2\n",
            "python/a.py:1: no rule R2 in docs/protocol.md",
        ),
    ],
)
def test_wrong_ones_are_named(tree: Path, name: str, text: str, problem: str) -> None:
    assert found(tree, name, text) == [problem]


def test_this_tree_names_what_exists() -> None:
    command = [sys.executable, str(ROOT / "tools" / "check_references.py")]
    program = subprocess.run(command, capture_output=True, text=True)
    assert program.returncode == 0, program.stdout
