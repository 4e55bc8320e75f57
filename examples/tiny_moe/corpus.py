"""Training text that every Python installation carries: the sources of the standard library."""

from __future__ import annotations

import hashlib
import sysconfig
from pathlib import Path

import torch

# Tables, generated modules and machine-made text teach a language model nothing readable.
SKIPPED_FOLDERS = {
    "__pycache__",
    "encodings",
    "ensurepip",
    "idlelib",
    "idle_test",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "turtledemo",
}
HELD_OUT_ONE_IN = 24
MAX_FILE_BYTES = 200_000


def _held_out(relative: str) -> bool:
    """Chosen by name alone, so that every Python version holds out the same modules."""
    digest = hashlib.sha256(relative.encode()).digest()
    return int.from_bytes(digest[:4], "big") % HELD_OUT_ONE_IN == 0


def files(held_out: bool) -> list[Path]:
    """The source files of one part of the corpus, in the order of their paths."""
    root = Path(sysconfig.get_path("stdlib"))
    chosen = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if SKIPPED_FOLDERS.intersection(relative.parts[:-1]):
            continue
        # _sysconfigdata and its like are dumps of the machine Python was built on.
        if relative.name.startswith("_sysconfigdata") or path.stat().st_size > MAX_FILE_BYTES:
            continue
        if _held_out(relative.as_posix()) == held_out:
            chosen.append(path)
    return chosen


def load(held_out: bool = False, max_bytes: int | None = None) -> torch.Tensor:
    """One part of the corpus as a uint8 tensor; files are separated by a zero byte."""
    parts = []
    total = 0
    for path in files(held_out):
        text = path.read_bytes().replace(b"\r\n", b"\n")
        if not text.isascii():
            continue
        parts.append(text + b"\0")
        total += len(parts[-1])
        if max_bytes is not None and total >= max_bytes:
            break
    return torch.frombuffer(bytearray(b"".join(parts)[:max_bytes]), dtype=torch.uint8)
