"""Checks that no inline function compiled for AVX can end up in the generic program.

An inline function is emitted, weak, in every object that uses it, and the linker keeps one: if it
kept one compiled for AVX-512, other code would run it on machines without.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOURCES = Path("src", "numerics")
OBJECTS = Path("build", "release", "src", "CMakeFiles", "waybill.dir", "numerics")


def weak_functions(path: Path) -> list[str]:
    output = subprocess.run(
        ["nm", "--defined-only", "-C", str(path)], capture_output=True, text=True, check=True
    ).stdout
    return [line for line in output.splitlines() if line.split()[1] in "WwVu"]


def main() -> int:
    objects = sorted(OBJECTS.glob("kernels_avx*.o"))
    found = [f"{path.name}: {line}" for path in objects for line in weak_functions(path)]
    for line in found:
        print(line)
    print(f"simd symbols: {len(objects)} objects, {len(found)} weak functions")
    built = [path.stem for path in objects]  # x.cc of x.cc.o
    sources = [path.name for path in sorted(SOURCES.glob("kernels_avx*.cc"))]
    return 1 if found or not sources or built != sources else 0


if __name__ == "__main__":
    sys.exit(main())
