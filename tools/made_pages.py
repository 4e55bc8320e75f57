"""What the tools that make pages of docs/ and tests/ share: options, the page, and the report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def only_checks(description: str | None) -> bool:
    """Reads the command line: true with --check, where nothing is written."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="write nothing")
    return bool(parser.parse_args().check)


def is_stale(path: Path, text: str, check: bool) -> bool:
    """Writes the page, or with `check` tells whether it says something else."""
    if not check:
        path.write_text(text)
        return False
    return not path.exists() or path.read_text() != text


def report(tool: str, problems: Sequence[str], summary: str) -> int:
    """Prints the problems, or the summary where there are none; returns the exit status."""
    for line in problems or [summary]:
        print(f"{tool}: {line}")
    return 1 if problems else 0
