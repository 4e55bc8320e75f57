"""Checks the order of the rooms, and that every source and test file is in a target.

Rooms of C++ in order: a file may include its own room and those before it. Only bindings/ may
include torch, only src/cuda CUDA. CMake globs whole folders, so a file outside of them would be
forgotten. Folders of Python have no order to keep, but none may need another in a circle.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Folders inside a room that src/CMakeLists.txt knows.
FOLDERS = ["transport/ucx"]
ROOMS = ["base", "numerics", "contract", "routing", "window", "transport", "engine"]
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^">]+)[">]', re.MULTILINE)
TESTS = ROOT / "tests" / "python"
PROGRAMS = TESTS / "ascend" / "scripts"
"""Run by the tests as programs of their own."""
PACKAGE = ROOT / "python" / "waybill"
SHARED = re.compile(r'"tests/python/(\w+)"')
"""An entry of pytest's pythonpath: a folder of modules that tests import by name."""

Graph = dict[str, set[str]]


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


def shared_folders() -> list[str]:
    """Folders of tests/python whose modules every test may import, by pyproject.toml."""
    settings = (ROOT / "pyproject.toml").read_text()
    (line,) = re.findall(r"^pythonpath = .*$", settings, re.MULTILINE)
    return SHARED.findall(line)


def check_tests() -> list[str]:
    """Every module is a test, lies in a shared folder, or is a program of its own."""
    shared, problems = shared_folders(), []
    for path in sorted(TESTS.rglob("*.py")):
        if path.parent == PROGRAMS or path == TESTS / "conftest.py":
            continue
        if path.parent.parent != TESTS:
            problems.append(f"{path}: not directly in a folder of tests/python")
        elif not path.name.startswith("test_") and path.parent.name not in shared:
            problems.append(f"{path}: neither a test nor in one of {shared}")
    return problems


def imports(path: Path) -> Iterator[str]:
    """What a module imports anywhere in it, relative names made absolute below python/."""
    folder = path.parent.relative_to(ROOT / "python").parts if PACKAGE in path.parents else ()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = folder[: len(folder) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{name.name}" for name in node.names)


def folders_of_tests() -> Graph:
    """Which folders of tests/python the modules of each one import."""
    places = {path.stem: path.parent.name for path in TESTS.glob("*/*.py")}
    graph: Graph = defaultdict(set)
    for path in TESTS.glob("*/*.py"):
        names = {name.split(".")[0] for name in imports(path)}
        graph[path.parent.name] |= {places[name] for name in names if name in places}
    return graph


def folders_of_package() -> Graph:
    """Which rooms of the package the modules of each one import.

    A room is a folder, however deep. A module directly in the package is a room of its own: it may
    stand below one folder and above another, like the list of operators.
    """
    graph: Graph = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        room = room_of(path)
        graph[room] |= {found for name in imports(path) if (found := room_of_name(name))}
    return graph


def check_library(graph: Graph) -> list[str]:
    """The library needs no room of tools/; the command line does."""
    users = (room for room in graph if room != "cli.py" and not room.startswith("tools"))
    return [
        f"python/waybill: {room} must not import {needed}"
        for room in sorted(users)
        for needed in sorted(graph[room])
        if needed.startswith("tools")
    ]


def room_of(path: Path) -> str:
    inside = path.relative_to(PACKAGE)
    return inside.as_posix() if inside.parent == Path() else inside.parent.as_posix()


def room_of_name(name: str) -> str | None:
    """The room of a module, or of the module that has a name; None outside of the package."""
    parts = name.split(".")
    if parts[0] != PACKAGE.name:
        return None
    for end in (len(parts), len(parts) - 1):
        place = PACKAGE.joinpath(*parts[1:end])
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.exists():
                return room_of(path)
    return None


def circles(graph: Graph, root: str) -> list[str]:
    """A line for each folder that needs itself by way of another one."""
    problems = []
    for folder in sorted(graph):
        reached: dict[str, list[str]] = {}
        new = [[folder, needed] for needed in sorted(graph[folder] - {folder})]
        while new:
            way = new.pop()
            if way[-1] not in reached:
                reached[way[-1]] = way
                new += [
                    [*way, needed] for needed in sorted(graph.get(way[-1], ())) if needed != way[-1]
                ]
        if folder in reached and (ROOT / root / folder).is_dir():
            problems.append(f"{root}: in a circle: {' needs '.join(reached[folder])}")
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
    problems += check_tests() + circles(folders_of_tests(), "tests/python")
    package = folders_of_package()
    problems += circles(package, "python/waybill") + check_library(package)
    for problem in problems:
        print(problem)
    print(f"rooms: {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
