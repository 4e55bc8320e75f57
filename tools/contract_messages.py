"""Lists every place of src/contract and src/routing that makes or hands on an error, and whether a
test has produced an error there.

A place is a call of a function that returns Status or Result. The tests of a coverage build leave
the addresses on the stack of every error they make (tests/cpp/support/error_sites.cc); a place
counts when an address lies in it. In `a ? b() : c()` on several lines the compiler gives both calls
the last line: write it with `if`. tools/coverage.py runs this; alone it reads what is there.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "coverage"
SITES = BUILD / "error_sites"
ROOMS = ("contract", "routing")
MACRO = "WAYBILL_RETURN_IF_ERROR"
NOT_CODE = re.compile(r'//[^\n]*|R"\((?:.|\n)*?\)"|"(?:\\.|[^"\\\n])*"' r"|'(?:\\.|[^'\\\n])+'")
FALLIBLE = re.compile(r"\b(?:Status|Result<[^;{}()]*>)\s+(?:\w+::)*(\w+)\(")


@dataclass(frozen=True)
class Place:
    """A call that can fail."""

    path: str
    first_line: int
    last_line: int
    function: str


def code_of(path: Path) -> str:
    """The text with comments and literals blanked, lines and columns kept."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match[0])

    return NOT_CODE.sub(blank, path.read_text())


def closing(code: str, opening: int) -> int:
    depth = 0
    for i in range(opening, len(code)):
        depth += {"(": 1, ")": -1}.get(code[i], 0)
        if depth == 0:
            return i
    raise ValueError("a parenthesis is open at the end of the file")


def places_in(path: Path, names: set[str]) -> list[Place]:
    code = code_of(path)
    declared = {match.start(1) for match in FALLIBLE.finditer(code)}
    # The compiler gives whatever a macro holds the line of the macro.
    macros = [
        (match.start(), closing(code, match.end() - 1))
        for match in re.finditer(MACRO + r"\(", code)
    ]
    places = []
    for match in re.finditer(rf"\b({'|'.join(sorted(names))})(?:<[\w:]+>)?\(", code):
        begin, end = match.start(), closing(code, match.end() - 1)
        if begin in declared:
            continue
        begin = next((first for first, last in macros if first < begin < last), begin)
        lines = [code.count("\n", 0, place) + 1 for place in (begin, end)]
        places.append(Place(str(path.relative_to(ROOT)), lines[0], lines[1], match[1]))
    return places


def all_places() -> list[Place]:
    files = [p for room in ROOMS for p in sorted((ROOT / "src" / room).glob("*.*"))]
    own = {path: set(FALLIBLE.findall(code_of(path))) for path in files}
    shared = {"error", "fail"}.union(*(own[path] for path in files if path.suffix == ".h"))
    return [place for path in files for place in places_in(path, shared | own[path])]


def lines_with_errors() -> dict[str, set[int]]:
    """Lines of every source on which an error was made or handed on, by path."""
    lines: dict[str, set[int]] = defaultdict(set)
    for addresses in sorted(SITES.glob("*")):
        program = BUILD / "tests" / "cpp" / addresses.name
        # An address on the stack is behind the call.
        wanted = "\n".join(hex(int(a) - 1) for a in set(addresses.read_text().split()) if a != "0")
        command = ["addr2line", "-e", str(program)]
        found = subprocess.run(command, input=wanted, capture_output=True, text=True, check=True)
        for line in found.stdout.splitlines():
            name, _, number = line.split(" ")[0].rpartition(":")
            path = Path(name)
            if number.isdigit() and path.is_relative_to(ROOT):
                lines[str(path.relative_to(ROOT))].add(int(number))
    return lines


def report() -> bool:
    """Prints what no test has produced; true when there is nothing."""
    places = all_places()
    lines = lines_with_errors()
    missing = [
        place
        for place in places
        if lines[place.path].isdisjoint(range(place.first_line, place.last_line + 1))
    ]
    texts = (ROOT / place.path for place in missing)
    for place, path in zip(missing, texts, strict=True):
        text = path.read_text().splitlines()[place.first_line - 1].strip()
        print(f"no error at {place.path}:{place.first_line} ({place.function}): {text}")
    made = [place for place in places if place.function in ("error", "fail", "not_yet", "bad")]
    print(
        f"messages of {' and '.join(ROOMS)}: {len(made)} places make an error, "
        f"{len(places) - len(made)} hand one on; {len(places) - len(missing)} of {len(places)} "
        "were seen in a test"
    )
    return not missing


if __name__ == "__main__":
    sys.exit(0 if report() else 1)
