#!/usr/bin/env python3
"""Prints what a review of the code looks at first, for one or several states of it.

    tools/house_numbers.py                    # this checkout
    tools/house_numbers.py e7a0642 main       # two commits, side by side
    tools/house_numbers.py /some/checkout -v  # with the places behind the numbers

It reads text and knows no C++: numbers are for comparing one state with another. It judges nothing.

- copies of an operator's signature: places where the options of dispatch_v2 from tp_world_size to
  const_expert_num stand in their order, each at most 400 characters behind the one before;
- public data members: those of classes (not structs) in src/engine;
- verbs that end a call: public functions of class Call whose name is in ENDINGS;
- files of more than 400 lines and repeated places: all C++ and Python; the longest function: not
  those of tests, whose tables are functions, too;
- repeated places: pairs that share six or more lines of code, alike to the letter but for the
  white space. Comments, imports and lone punctuation do not count, nor what stands in more than
  eight places.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent.parent
FOLDERS = ("include", "src", "bindings", "python", "tests", "bench", "examples", "tools")
SIGNATURE = (
    *("tp_world_size", "tp_rank_id", "expert_shard_type", "shared_expert_num"),
    *("shared_expert_rank_num", "quant_mode", "global_bs", "expert_token_nums_type", "comm_alg"),
    *("zero_expert_num", "copy_expert_num", "const_expert_num"),
)
WITH_SIGNATURES = ("include/", "src/", "bindings/", "python/", "tests/", "docs/")
# Functions of Call that end it, under this and former names.
ENDINGS = (
    *("abandon", "close", "drop", "end", "end_reading", "fail", "fail_alone", "fail_together"),
    *("finish", "give_up", "leave_after", "poison", "refuse", "withdraw"),
)
LONG_FILE = 400
REPEATED_LINES = 6
MOST_PLACES = 8
COMMENT = re.compile(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'|//[^\n]*|/\*.*?\*/', re.DOTALL)
TYPE_BLOCK = re.compile(r"\b(namespace|class|struct|enum|union|extern)\b")


class Number(NamedTuple):
    name: str
    value: int
    places: list[str]  # behind it, for -v


def files(root: Path, *suffixes: str) -> list[Path]:
    return sorted(
        path for folder in FOLDERS for path in (root / folder).rglob("*") if path.suffix in suffixes
    )


def read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def without_comments(text: str) -> str:
    """C++ without comments and with empty strings, line by line as before."""

    def empty(found: re.Match[str]) -> str:
        is_text = found[0][0] in "\"'"
        return found[0][0] * 2 if is_text else "\n" * found[0].count("\n")

    return COMMENT.sub(empty, text)


def place(root: Path, path: Path, line: int) -> str:
    return f"{path.relative_to(root)}:{line}"


def signature_copies(root: Path) -> Number:
    between = r"\b(?:(?!\btp_world_size\b).){0,400}?\b"
    pattern = re.compile(r"\b" + between.join(SIGNATURE) + r"\b", re.DOTALL)
    found = []
    pages = sorted((root / "docs").rglob("*.md"))
    for path in [*files(root, ".h", ".cc", ".py"), *pages]:
        if not path.relative_to(root).as_posix().startswith(WITH_SIGNATURES):
            continue
        text = read(path)
        for copy in pattern.finditer(text):
            found.append(place(root, path, text.count("\n", 0, copy.start()) + 1))
    return Number("copies of dispatch_v2's signature", len(found), found)


def body_of(text: str, name: str) -> str:
    """What is between the braces of a class; empty where there is none."""
    head = re.search(rf"\b(?:class|struct) {name}\b[^;{{]*{{", text)
    if head is None:
        return ""
    depth, at = 1, head.end()
    while depth and at < len(text):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        at += 1
    return text[head.end() : at - 1]


def flat(body: str) -> str:
    """A class body with all that is in braces of its own left out."""
    kept, depth = [], 0
    for letter in body:
        depth -= letter == "}"
        if depth == 0:
            kept.append("{};" if letter == "}" else letter if letter != "{" else "")
        depth += letter == "{"
    return "".join(kept)


def without_angles(text: str) -> str:
    while (shorter := re.sub(r"<[^<>;]*>", "", text)) != text:
        text = shorter
    return text


def public_data(root: Path) -> Number:
    found = []
    for path in sorted((root / "src" / "engine").glob("*.h")):
        text = without_comments(read(path))
        for name in re.findall(r"\bclass (\w+)[^;{(]*{", text):
            parts = re.split(r"\b(public|protected|private):", flat(body_of(text, name)))
            for access, part in zip(parts[1::2], parts[2::2], strict=True):
                if access == "public":
                    found += [f"{path.relative_to(root)}: {name}::{m}" for m in members_in(part)]
    return Number("public data members in engine classes", len(found), found)


def members_in(part: str) -> list[str]:
    other = (
        r"\s*(using|friend|static|constexpr|typedef|enum|struct|class|template|explicit|virtual)\b"
    )
    found = []
    for statement in without_angles(part).split(";"):
        declared = re.split(r"=|{", statement)[0].strip()
        is_function = "(" in declared or "operator" in declared
        if declared and not is_function and not re.match(other, declared):
            name = re.search(r"(\w+)(\[\w*\])?$", declared)
            if name is not None and " " in declared:
                found.append(name[1])
    return found


def virtual_functions(root: Path) -> Number:
    text = without_comments(read(root / "src" / "transport" / "transport.h"))
    found = re.findall(r"\bvirtual\b[^;(]*?(~?\w+)\(", body_of(text, "Transport"))
    return Number("virtual functions of Transport", len(found), found)


def endings(root: Path) -> Number:
    body = flat(body_of(without_comments(read(root / "src" / "engine" / "call.h")), "Call"))
    public = body.partition("private:")[0]
    found = [name for name in ENDINGS if re.search(rf"(?<!\.)\b{name}\(", public)]
    return Number("verbs that end a call", len(found), found)


def long_files(root: Path) -> Number:
    sizes = {path: read(path).count("\n") for path in files(root, ".h", ".cc", ".py")}
    found = [place(root, path, size) for path, size in sizes.items() if size > LONG_FILE]
    return Number(f"files of more than {LONG_FILE} lines", len(found), found)


def comment_lines(root: Path) -> Number:
    found, total, everything = [], 0, 0
    for room in ("engine", "transport"):
        lines = [
            line.strip()
            for path in (root / "src" / room).rglob("*")
            if path.suffix in (".h", ".cc")
            for line in read(path).splitlines()
        ]
        comments = sum(line.startswith(("//", "/*", "*/")) for line in lines)
        found.append(f"{room}: {comments} of {len(lines)}")
        total, everything = total + comments, everything + len(lines)
    return Number("lines of comment in engine and transport", total, found)


def functions_of_cpp(text: str) -> Iterator[tuple[int, int]]:
    """First and last line of each function that has a body."""
    text = re.sub(r"(?m)^\s*#.*$", "", without_comments(text))
    inside: list[bool] = []  # of each open brace: it is, or lies in, a function
    begin = statement = 0
    for at, letter in enumerate(text):
        if letter == "{":
            head = text[statement:at]
            before = head.split("(")[0]
            is_value = "=" in before and "operator" not in before
            is_function = "(" in head and not is_value and not TYPE_BLOCK.search(before)
            if is_function and not any(inside):
                begin = statement + len(head) - len(head.lstrip())
            inside.append(is_function or any(inside))
        elif letter == "}" and inside:
            ended = inside.pop()
            if ended and not any(inside):
                yield text.count("\n", 0, begin) + 1, text.count("\n", 0, at) + 1
        if letter in "{};" and not any(inside):
            statement = at + 1


def functions_of_python(text: str) -> Iterator[tuple[int, int]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.end_lineno or node.lineno


def longest(root: Path, what: str, suffixes: tuple[str, ...]) -> Number:
    best, where = 0, ""
    for path in files(root, *suffixes):
        if path.relative_to(root).parts[0] == "tests":
            continue
        in_python = path.suffix == ".py"
        functions = functions_of_python if in_python else functions_of_cpp
        for first, last in functions(read(path)):
            if last - first + 1 > best:
                best, where = last - first + 1, place(root, path, first)
    return Number(f"lines of the longest function, {what}", best, [where])


def code_lines(path: Path) -> list[tuple[int, str]]:
    """Number and text of each line that counts for repeated places."""
    text = read(path)
    if path.suffix == ".py":
        docstrings = re.compile(r'"""(?:.*?)"""', re.DOTALL)
        text = docstrings.sub(lambda found: "\n" * found[0].count("\n"), text)
    else:
        text = re.sub(r"/\*.*?\*/", lambda found: "\n" * found[0].count("\n"), text, flags=re.S)
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        line = " ".join(re.sub(r"(\s|^)(//|#(?!include)).*", "", line).split())
        if re.search(r"\w", line) and not re.match(r"#include|import |from \w", line):
            lines.append((number, line))
    return lines


def repeated_places(root: Path) -> Number:
    lines = {path: code_lines(path) for path in files(root, ".h", ".cc", ".py")}
    starts: dict[tuple[str, ...], list[tuple[Path, int]]] = defaultdict(list)
    for path, of_file in lines.items():
        texts = [text for _, text in of_file]
        for at in range(len(texts) - REPEATED_LINES + 1):
            starts[tuple(texts[at : at + REPEATED_LINES])].append((path, at))
    same = set()
    for places in starts.values():
        if len(places) <= MOST_PLACES:
            for (one, i), (other, j) in combinations(places, 2):
                if one != other or abs(i - j) >= REPEATED_LINES:
                    same.add((one, i, other, j))
    runs = [run for run in same if (run[0], run[1] - 1, run[2], run[3] - 1) not in same]
    found = [
        f"{place(root, one, lines[one][i][0])} ~ {place(root, other, lines[other][j][0])}"
        for one, i, other, j in sorted(runs)
    ]
    return Number("pairs of repeated places", len(found), found)


def numbers_of(root: Path) -> list[Number]:
    return [
        signature_copies(root),
        public_data(root),
        virtual_functions(root),
        endings(root),
        long_files(root),
        comment_lines(root),
        longest(root, "C++", (".h", ".cc")),
        longest(root, "Python", (".py",)),
        repeated_places(root),
    ]


def numbers_at(state: str) -> list[Number]:
    """Of a folder, or of a commit of this repository."""
    if Path(state).is_dir():
        return numbers_of(Path(state).resolve())
    archive = subprocess.run(["git", "archive", state], cwd=HERE, capture_output=True)
    if archive.returncode != 0:
        sys.exit(f"{state}: neither a folder nor a commit: {archive.stderr.decode().strip()}")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        return numbers_of(Path(folder).resolve())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("states", nargs="*", default=[str(HERE)], metavar="ROOT|REVISION")
    parser.add_argument("-v", "--verbose", action="store_true", help="the places, too")
    arguments = parser.parse_args()
    columns = [numbers_at(state) for state in arguments.states]
    names = [
        (Path(state).resolve().name if Path(state).is_dir() else state)[:10]
        for state in arguments.states
    ]
    print(" " * 44 + "".join(f"{name:>12}" for name in names))
    for row in zip(*columns, strict=True):
        print(f"{row[0].name:44}" + "".join(f"{number.value:12}" for number in row))
        if arguments.verbose:
            for name, number in zip(names, row, strict=True):
                for where in number.places:
                    print(f"    {name}  {where}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
