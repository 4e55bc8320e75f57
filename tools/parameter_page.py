"""Writes docs/parameters.md: every parameter, what it means, and the operators that have it.

Types and defaults are those of torch's schemas, meanings those of the docstrings: a page that says
something else than `help()` cannot be written. With --check nothing is written: the exit status
tells whether the page is up to date and every parameter has a meaning.
"""

from __future__ import annotations

import inspect
import re
from typing import NamedTuple

import torch
from made_pages import ROOT, is_stale, only_checks, report

import waybill
from waybill.operators import OPERATORS

PAGE = ROOT / "docs" / "parameters.md"
HEAD = """# Parameters

Every parameter, what it means, and the operators that have it. Letters are those of
[the contract](contract/operators.md); what another operator takes by the same name has a line of
its own where it differs. Made by `tools/parameter_page.py` from the operators' schemas and
docstrings.

| parameter | type | meaning | operators |
|---|---|---|---|
"""
ENTRY = re.compile(r"^    (\w+(?:, *\w+)*): (.*(?:\n {8}.*)*)", re.MULTILINE)
"""One entry of a docstring's Args, after its continued names were joined."""
REFERENCE = re.compile(r"as in (\w+)\.?")
SAME = {"dispatch": "npu_moe_distribute_dispatch_v2"}
"""What a docstring calls an operator for short."""

Meanings = dict[str, str]


class Use(NamedTuple):
    """What a parameter is in one operator, or in several that agree."""

    type: str
    meaning: str


def arguments_of(docstring: str) -> Meanings:
    """The entries of a docstring's Args."""
    found = re.search(r"^Args:\n((?:    .*\n|\n)*)", docstring + "\n", re.MULTILINE)
    meanings = {}
    if found:
        # Names that go on in the next line stand deeper, like text does.
        text = re.sub(r"^(    \w+(?:, \w+)*,)\n +", r"\1 ", found[1], flags=re.MULTILINE)
        while text != (joined := re.sub(r"^(    (?:\w+, )+\w+,)\n +", r"\1 ", text, flags=re.M)):
            text = joined
        for names, meaning in ENTRY.findall(text):
            words = " ".join(meaning.split())
            meanings |= {name: words for name in re.split(r", *", names)}
    return meanings


def resolved(operator: str, name: str, documented: dict[str, Meanings]) -> str:
    """What a parameter means; "as in another operator" is followed to that one's words."""
    meaning = documented[operator].get(name, "")
    found = REFERENCE.fullmatch(meaning)
    return resolved(SAME.get(found[1], found[1]), name, documented) if found else meaning


def type_of(argument: torch.Argument) -> str:
    """As Python writes it, with the default."""
    kind = str(argument.type)
    if kind.startswith("Optional["):
        return "Tensor or None" if "Tensor" in kind else f"{kind[9:-1]} or None"
    default = f" = {argument.default_value!r}" if argument.has_default_value() else ""
    return kind + default.replace("''", '""')


def all_uses(documented: dict[str, Meanings]) -> dict[str, dict[Use, list[str]]]:
    """By parameter: its uses, each with the operators that have it so."""
    found: dict[str, dict[Use, list[str]]] = {}
    for operator in OPERATORS:
        schema = getattr(torch.ops.waybill, operator.name).default._schema
        for argument in schema.arguments:
            use = Use(type_of(argument), resolved(operator.name, argument.name, documented))
            found.setdefault(argument.name, {}).setdefault(use, []).append(operator.name)
    return found


def joined(uses: dict[Use, list[str]]) -> dict[Use, list[str]]:
    """Uses of which one only says less than another ("E." and "E, the size") become one."""
    kept: dict[Use, list[str]] = {}
    for use, operators in sorted(uses.items(), key=lambda item: -len(item[0].meaning)):
        longer = (
            other
            for other in kept
            if other.type == use.type and other.meaning.startswith(use.meaning.rstrip(".") + ",")
        )
        kept.setdefault(next(longer, use), []).extend(operators)
    return kept


def pages() -> dict[str, str]:
    """The page of each operator, by its heading."""
    found = {}
    for path in (ROOT / "docs" / "operators").glob("*.md"):
        heading = path.read_text().splitlines()[0].removeprefix("# ").strip("`")
        found[heading] = f"[{path.stem}](operators/{path.name})"
    return found


def page(uses: dict[str, dict[Use, list[str]]]) -> str:
    links, order = pages(), [operator.name for operator in OPERATORS]
    lines = []
    for name in sorted(uses):
        rows = [
            (use, sorted(operators, key=order.index))
            for use, operators in joined(uses[name]).items()
        ]
        shown = f"`{name}`"
        for use, operators in sorted(rows, key=lambda row: order.index(row[1][0])):
            meaning = use.meaning.replace("|", "\\|")
            where = ", ".join(links[operator] for operator in operators)
            lines.append(f"| {shown} | {use.type} | {meaning} | {where} |")
            shown = ""
    return HEAD + "\n".join(lines) + "\n"


def main() -> int:
    check = only_checks(__doc__)
    documented = {
        operator.name: arguments_of(inspect.getdoc(getattr(waybill, operator.name)) or "")
        for operator in OPERATORS
    }
    uses = all_uses(documented)
    problems = [
        f"the docstring of {operator} says nothing of {name}"
        for name, of_name in uses.items()
        for use, operators in of_name.items()
        for operator in operators
        if not use.meaning
    ]
    if is_stale(PAGE, page(uses), check):
        problems.append(f"{PAGE.relative_to(ROOT)} is stale: run tools/parameter_page.py")
    return report("parameter_page", problems, f"{len(uses)} parameters")


if __name__ == "__main__":
    raise SystemExit(main())
