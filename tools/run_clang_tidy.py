"""Runs clang-tidy over the library's sources, as many at a time as there are cores."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def tidy(path: Path) -> tuple[Path, int, str]:
    done = subprocess.run(
        [
            "clang-tidy-19",
            "--quiet",
            "--extra-arg=-Wno-unknown-warning-option",  # the database holds g++'s options
            "-p",
            str(ROOT / "build" / "release"),
            str(path),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return path, done.returncode, done.stdout


def main() -> int:
    sources = sorted((ROOT / "src").rglob("*.cc"))
    failed = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, code, output in pool.map(tidy, sources):
            if code != 0:
                failed += 1
                print(path.relative_to(ROOT), output, sep="\n")
    print(f"clang-tidy: {len(sources) - failed} files clean, {failed} with findings")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
