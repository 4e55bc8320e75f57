"""Line coverage of src/ by the C++ tests: builds the preset coverage, runs its tests, and prints a
table by room and file. Fails below 95 % of all lines or 90 % of a room, and where an error of the
contract is made that no test has produced (tools/contract_messages.py).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import contract_messages

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "coverage"
LEAST = 95.0
LEAST_OF_A_ROOM = 90.0

Lines = dict[str, Counter[int]]


def run_tests() -> bool:
    """Builds, forgets what earlier runs counted, and runs the tests."""
    quiet = ["--log-level=WARNING"]
    for command in (["--preset", "coverage", *quiet], ["--build", "--preset", "coverage"]):
        if subprocess.run(["cmake", *command], cwd=ROOT).returncode != 0:
            return False
    for counts in BUILD.rglob("*.gcda"):
        counts.unlink()
    shutil.rmtree(contract_messages.SITES, ignore_errors=True)
    contract_messages.SITES.mkdir()
    environment = {**os.environ, "WAYBILL_ERROR_SITES": str(contract_messages.SITES)}
    # Two at a time: much of the tests of processes is waiting.
    tests = ["ctest", "--preset", "coverage", "--parallel", "2"]
    return subprocess.run(tests, cwd=ROOT, env=environment).returncode == 0


def counts_of(notes: Path) -> Lines:
    """What one object file has counted."""
    command = ["gcov", "--json-format", "--stdout", str(notes)]
    found = subprocess.run(command, cwd=BUILD, capture_output=True, text=True, check=True)
    lines: Lines = defaultdict(Counter)
    for file in json.loads(found.stdout)["files"]:
        path = Path(file["file"])
        if path.is_relative_to(ROOT / "src"):
            for line in file["lines"]:
                lines[str(path.relative_to(ROOT / "src"))][line["line_number"]] += line["count"]
    return lines


def collect() -> Lines:
    """The sum over all objects: lines of headers are counted where they are used."""
    total: Lines = defaultdict(Counter)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for lines in pool.map(counts_of, sorted(BUILD.rglob("*.gcno"))):
            for path, counts in lines.items():
                for number, count in counts.items():
                    total[path][number] += count
    return total


def ranges(numbers: list[int]) -> str:
    """1-3, 7"""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def row(name: str, covered: int, lines: int, note: str = "") -> float:
    percent = 100 * covered / max(lines, 1)
    print(f"{name:<38}{covered:>6} of {lines:>5}  {percent:5.1f} %  {note}".rstrip())
    return percent


def report(total: Lines, with_lines: bool) -> bool:
    """Prints the table; true when it is good enough."""
    rooms: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for path, counts in sorted(total.items()):
        missed = sorted(number for number, count in counts.items() if count == 0)
        covered = len(counts) - len(missed)
        row(f"  {path}", covered, len(counts), ranges(missed) if with_lines else "")
        for name in (path.split("/")[0], "src"):
            rooms[name][0] += covered
            rooms[name][1] += len(counts)
    good = True
    for name, (covered, lines) in rooms.items():
        percent = row(name, covered, lines)
        good = good and percent >= (LEAST if name == "src" else LEAST_OF_A_ROOM)
    if not good:
        print(f"expected {LEAST} % of src and {LEAST_OF_A_ROOM} % of each room")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", action="store_true", help="print the lines that were not run")
    parser.add_argument("--no-run", action="store_true", help="read the counts that are there")
    arguments = parser.parse_args()
    if not arguments.no_run and not run_tests():
        return 1
    good = report(collect(), arguments.lines)
    return 0 if contract_messages.report() and good else 1


if __name__ == "__main__":
    sys.exit(main())
