"""Finds references to files, headings, sections and rules that do not exist.

Looked at are the Markdown pages and the comments and docstrings of C++ and Python files:

- a link of a page, with its anchor: [text](page.md#heading);
- a path in the tree, like docs/hosts.md, src/engine/call.h or tests/model/calls.pml;
- the name of a C++ header as it is included, like window/layout.h;
- a heading in quotes behind a page: docs/protocol.md, "Coming back";
- docs/contract/operators.md section 7.2: a heading with this number in the page under docs/ that
  the file named last;
- "rule R14": a rule of docs/protocol.md.

"something" in a name stands for any name. Prints each that is missing as FILE:LINE and exits with 1
when there is one.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

# Not looked at: what another hand wrote (tests/golden), and what tells of former trees.
SKIPPED = ("CHANGELOG.md", "LICENSE", "tests/golden/")
ROOMS = ("base", "numerics", "contract", "routing", "window", "transport", "engine")
SUFFIXES = r"(?:md|h|cc|py|pml|txt|toml|sh|json|safetensors|cmake)"
TOP = r"(?:docs|src|include|bindings|python|tests|tools|bench|examples|cmake)"
PATH = re.compile(rf"(?<![\w/.<-])({TOP}/[\w./-]*\.{SUFFIXES})\b(?![*{{])")
HEADER = re.compile(rf"(?<![\w/.<-])((?:{'|'.join(ROOMS)}|waybill)/[\w/]+\.h)\b")
QUOTED = re.compile(r'(docs/[\w/-]+\.md),? "([^"]+)"')
SECTION = re.compile(
    r"\bsections? (\d+[a-z]?(?:\.\d+)?)((?:(?:, | and | to |, and )\d+[a-z]?(?:\.\d+)?\b)*)", re.I
)
NUMBER = re.compile(r"\d+[a-z]?(?:\.\d+)?")
RULE = re.compile(r"\brules? (R\d+)((?:(?:, | and | to )R\d+)*)", re.I)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s#:]*)(?:#([^)\s]*))?\)")
CPP_COMMENT = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)


class Tree:
    """The files of a checkout, and what their pages have."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._headings: dict[Path, list[str]] = {}

    def files(self) -> list[Path]:
        """Those that git knows or could add."""
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=True)
        found = [name for name in names.stdout.splitlines() if not name.startswith(SKIPPED)]
        return [self.root / name for name in found if (self.root / name).is_file()]

    def headings(self, page: Path) -> list[str]:
        if page not in self._headings:
            text = FENCE.sub("", page.read_text())
            self._headings[page] = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        return self._headings[page]

    def anchors(self, page: Path) -> set[str]:
        """The names that links may use for the headings of a page."""
        return {
            re.sub(r"[^\w -]", "", line).lower().replace(" ", "-") for line in self.headings(page)
        }

    def has_section(self, page: Path, number: str) -> bool:
        return any(re.match(rf"{re.escape(number)}\.? ", line) for line in self.headings(page))

    def rules(self) -> set[str]:
        page = self.root / "docs" / "protocol.md"
        return set(re.findall(r"^- \*\*(R\d+)", page.read_text(), re.M)) if page.exists() else set()


def blank(text: str) -> str:
    """Keeps the lines of what is left out."""
    return "\n" * text.count("\n")


def comments_of_cpp(text: str) -> str:
    """The comments at their lines; everything else is blank."""
    kept, end = [], 0
    for found in CPP_COMMENT.finditer(text):
        kept.append(blank(text[end : found.start()]))
        is_comment = not found[0].startswith('"')
        kept.append(found[0] if is_comment else blank(found[0]))
        end = found.end()
    return "".join(kept)


def comments_of_python(text: str) -> str:
    """Comments and texts in triple quotes at their lines; everything else is blank."""
    lines = [""] * (text.count("\n") + 2)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        is_docstring = token.type == tokenize.STRING and token.string.startswith('"""')
        if token.type == tokenize.COMMENT or is_docstring:
            for number, line in enumerate(token.string.split("\n"), token.start[0] - 1):
                lines[number] += line
    return "\n".join(lines)


def prose_of(path: Path) -> str | None:
    """What of a file is looked at, line by line as in the file."""
    if path.suffix == ".md":
        return FENCE.sub(lambda found: blank(found[0]), path.read_text())
    if path.suffix in (".h", ".cc"):
        return comments_of_cpp(path.read_text())
    if path.suffix == ".py":
        return comments_of_python(path.read_text())
    return None


def joined(text: str) -> str:
    """A sentence that runs over lines of a comment as one line of the same length."""
    return re.sub(r"\n[ \t]*(?:///?<?|#|\*)?", lambda found: " " * len(found[0]), text)


def numbers_in(found: re.Match[str], pattern: re.Pattern[str]) -> list[str]:
    return [found[1], *pattern.findall(found[2])]


def missing_in(tree: Tree, path: Path, text: str) -> Iterator[tuple[int, str]]:
    """Offset in the text, and what is missing."""
    root = tree.root
    flat = joined(text)
    for found in PATH.finditer(flat):
        here = (root / found[1]).exists() or (path.parent / found[1]).exists()
        if not here and "something" not in found[1]:
            yield found.start(), f"no file {found[1]}"
    for found in HEADER.finditer(flat):
        if not any((root / top / found[1]).exists() for top in ("src", "include")):
            yield found.start(), f"no header {found[1]}"
    for found in QUOTED.finditer(flat):
        page = root / found[1]
        title = re.sub(" +", " ", found[2])
        if page.exists() and title not in tree.headings(page):
            yield found.start(), f'no heading "{title}" in {found[1]}'
    yield from missing_sections(tree, flat)
    for found in RULE.finditer(flat):
        for rule in numbers_in(found, re.compile(r"R\d+")):
            if rule.upper() not in tree.rules():
                yield found.start(), f"no rule {rule} in docs/protocol.md"
    if path.suffix == ".md":
        yield from missing_links(tree, path, text)


def missing_sections(tree: Tree, flat: str) -> Iterator[tuple[int, str]]:
    pages = [
        (found.end(), tree.root / found[1])
        for found in PATH.finditer(flat)
        if found[1].startswith("docs/") and found[1].endswith(".md")
    ]
    for found in SECTION.finditer(flat):
        named = [page for end, page in pages if end <= found.start()]
        for number in numbers_in(found, NUMBER):
            if not named:
                yield found.start(), f"section {number}: no page under docs/ is named before it"
            elif named[-1].exists() and not tree.has_section(named[-1], number):
                page = named[-1].relative_to(tree.root)
                yield found.start(), f"no section {number} in {page}"


def missing_links(tree: Tree, page: Path, text: str) -> Iterator[tuple[int, str]]:
    for found in LINK.finditer(text):
        target, anchor = found[1], found[2]
        file = (page.parent / target).resolve() if target else page
        if not file.exists():
            yield found.start(), f"no file {target}"
        elif anchor and file.suffix == ".md" and anchor not in tree.anchors(file):
            yield found.start(), f"no heading #{anchor} in {target or 'this page'}"


def check(root: Path) -> list[str]:
    """A line for each reference that is missing."""
    tree = Tree(root.resolve())
    problems = []
    for path in tree.files():
        text = prose_of(path)
        if text is None:
            continue
        for offset, what in missing_in(tree, path, text):
            line = text.count("\n", 0, offset) + 1
            problems.append(f"{path.relative_to(tree.root)}:{line}: {what}")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    default = Path(__file__).resolve().parent.parent
    parser.add_argument("root", nargs="?", type=Path, default=default)
    problems = check(parser.parse_args().root)
    for problem in problems:
        print(problem)
    print(f"references: {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
