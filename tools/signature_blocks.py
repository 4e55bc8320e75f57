"""Writes the signature on each page of docs/operators/ from the schema of the library.

What the tables under the page's Inputs name has to be a parameter, and each only once. With --check
nothing is written: the exit status tells whether the pages are up to date.
"""

from __future__ import annotations

import re
from pathlib import Path

from made_pages import ROOT, is_stale, only_checks, report

from waybill._forwarding import signature_of
from waybill.operators import OPERATORS, Operator

PAGES = ROOT / "docs" / "operators"
WIDTH = 100
BLOCK = re.compile(r"(^## Signature\n\n```\n).*?(^```$)", re.MULTILINE | re.DOTALL)
INPUTS = re.compile(r"^## Inputs\n(.*?)^## ", re.MULTILINE | re.DOTALL)
FIRST_CELL = re.compile(r"^\| (`[^|]*`) \|", re.MULTILINE)


def filled(entries: list[str]) -> list[str]:
    """The entries, each with a comma, in lines that are as full as can be."""
    lines = [""]
    for entry in entries:
        if lines[-1] and len(lines[-1]) + len(entry) + 2 > WIDTH:
            lines.append("")
        lines[-1] += f" {entry}," if lines[-1] else f"    {entry},"
    return lines


def results_of(operator: Operator) -> list[str]:
    names = [result.name for result in operator.overload._schema.returns]
    if operator.gives_input_back:
        names = [operator.arguments[0].name]
    elif len(names) == 1:
        names = ["Tensor"]
    single = names[0] if len(names) == 1 else f"({', '.join(names)})"
    last = f") -> {single}"
    return [last] if len(last) <= WIDTH else [") -> (", *filled(names), ")"]


def block_of(operator: Operator) -> str:
    parameters = signature_of(operator)[:-1]
    star = parameters.index("*")
    lines = [f"{operator.name}(", *filled(parameters[:star]), "    *,"]
    lines += [*filled(parameters[star + 1 :]), *results_of(operator)]
    return "\n".join(lines) + "\n"


def page_of(operator: Operator) -> Path:
    short = re.sub("^(npu_moe_distribute_|npu_moe_|_npu_distribute_)", "", operator.name)
    return PAGES / f"{short}.md"


def problems_of(operator: Operator, text: str) -> list[str]:
    """What is wrong with the tables of inputs on a page."""
    found = INPUTS.search(text)
    cells = FIRST_CELL.findall(found[1]) if found else []
    named = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    known = [argument.name for argument in operator.arguments]
    twice = [f"names {name} twice" for name in sorted(set(named)) if named.count(name) > 1]
    return twice + [f"names {name}, which no schema has" for name in named if name not in known]


def main() -> int:
    check = only_checks(__doc__)
    problems = []
    for operator in OPERATORS:
        path = page_of(operator)
        shown = path.relative_to(ROOT)
        text = path.read_text()
        head, count = BLOCK.subn(
            lambda found, own=operator: found[1] + block_of(own) + found[2], text
        )
        problems += [f"{shown} {problem}" for problem in problems_of(operator, text)]
        if count != 1:
            problems.append(f"{shown} has {count} signatures")
        elif is_stale(path, head, check):
            problems.append(f"{shown} is stale: run tools/signature_blocks.py")
    return report("signature_blocks", problems, f"{len(OPERATORS)} pages")


if __name__ == "__main__":
    raise SystemExit(main())
