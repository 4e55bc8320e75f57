"""Checks the one-way includes of the rooms, and that every source and test file is in a target.

Rooms in order; a file may include its own room and those before it. Only bindings/ may include
torch, only src/cuda CUDA. CMake globs whole folders, so a file outside of them would be forgotten.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Folders inside a room that src/CMakeLists.txt knows.
FOLDERS = ["transport/ucx"]
ROOMS = ["base", "numerics", "contract", "routing", "window", "transport", "engine"]
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^">]+)[">]', re.MULTILINE)
TEST_NAME = re.compile(r"test_.*\.py|conftest\.py")
TEST_HELPERS = {
    "bad_arguments.py",
    "case_draws.py",
    "cases.py",
    "comparisons.py",
    "compiled_layers.py",
    "family.py",
    "fault_board.py",
    "fault_cases.py",
    "fault_hosts.py",
    "fault_judge.py",
    "fault_layers.py",
    "fault_matrix.py",
    "fault_ranks.py",
    "fault_runs.py",
    "forms.py",
    "golden.py",
    "host_ranks.py",
    "host_sockets.py",
    "link_cases.py",
    "link_judge.py",
    "link_ranks.py",
    "link_runs.py",
    "link_switch.py",
    "links.py",
    "local_groups.py",
    "pairs.py",
    "parameter_cases.py",
    "ranks.py",
    "samples.py",
    "signatures.py",
}
PROGRAMS = "ascend_scripts"  # run by the tests as programs of their own


def includes(path: Path) -> list[str]:
    return INCLUDE.findall(path.read_text())


def check_source(path: Path, room: str) -> list[str]:
    problems = []
    allowed = ROOMS[: ROOMS.index(room) + 1]
    for include in includes(path):
        first = include.split("/")[0]
        if first in ROOMS and first not in allowed:
            problems.append(f"{path}: {room} must not include {include}")
        if first in ("torch", "ATen", "c10", "Python.h", "cuda_runtime.h"):
            problems.append(f"{path}: only bindings/ may include {include}")
    return problems


def main() -> int:
    problems: list[str] = []
    for path in sorted((ROOT / "src").rglob("*")):
        if path.suffix in (".h", ".cc"):
            folder = path.relative_to(ROOT / "src").parent
            room = folder.parts[0] if folder.parts else ""
            if room not in ROOMS or folder.as_posix() not in [room, *FOLDERS]:
                problems.append(f"{path}: not directly in one of the rooms {ROOMS}")
            else:
                problems += check_source(path, room)
    for path in sorted((ROOT / "include").rglob("*.h")):
        for include in includes(path):
            if include.split("/")[0] in [*ROOMS, "torch"]:
                problems.append(f"{path}: public headers must not include {include}")
    for path in sorted((ROOT / "tests" / "cpp").rglob("*.cc")):
        if len(path.relative_to(ROOT / "tests" / "cpp").parts) != 2:
            problems.append(f"{path}: not in a folder that tests/cpp/CMakeLists.txt globs")
    for path in sorted((ROOT / "tests" / "fuzz").rglob("*.cc")):
        if path.parent != ROOT / "tests" / "fuzz":
            problems.append(f"{path}: not in the folder that tests/fuzz/CMakeLists.txt globs")
    for path in sorted((ROOT / "tests" / "python").rglob("*.py")):
        if path.parent.name == PROGRAMS:
            continue
        nested = path.parent != ROOT / "tests" / "python"
        if nested or not (TEST_NAME.fullmatch(path.name) or path.name in TEST_HELPERS):
            problems.append(f"{path}: pytest would not collect it")
    for problem in problems:
        print(problem)
    print(f"rooms: {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
