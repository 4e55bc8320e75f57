"""Writes tests/parameters.md: which test fails when a parameter of an operator is ignored.

Tests say so themselves, with @pytest.mark.covers(operator, parameter). With --check nothing is
written: the exit status tells whether the page is up to date and no parameter is without a test.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict

import pytest
from made_pages import ROOT, is_stale, only_checks, report

PAGE = ROOT / "tests" / "parameters.md"
TESTS = ROOT / "tests" / "python"

Tests = dict[tuple[str, str], set[str]]

HEAD = """# Parameters and their tests

For every parameter of every operator the tests that fail when it is ignored: a call with another
value gives another result, the one of the oracle, or an error that names the parameter. Made by
`tools/parameter_table.py` from the marks `covers(operator, parameter)` in `tests/python`.
"""


class Collector:
    """A pytest plugin that keeps the marks of what was collected."""

    def __init__(self) -> None:
        self.tests: Tests = defaultdict(set)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            file = item.path.relative_to(TESTS).as_posix()
            for mark in item.iter_markers("covers"):
                operator, parameter = mark.args
                self.tests[operator, parameter].add(f"{file}::{item.name}")


def collect() -> Tests:
    collector = Collector()
    sys.stdout.flush()
    quiet = os.open(os.devnull, os.O_WRONLY)
    kept = os.dup(1)
    os.dup2(quiet, 1)
    try:
        os.chdir(ROOT)
        status = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider"], [collector])
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
    if status != 0:
        raise SystemExit(f"parameter_table: the tests cannot be collected (pytest: {status})")
    return collector.tests


def schemas() -> dict[str, list[str]]:
    """The parameters of every operator, as torch has them."""
    import torch

    from waybill.operators import OPERATORS

    found = {}
    for operator in OPERATORS:
        schema = getattr(torch.ops.waybill, operator.name).default._schema
        found[operator.name] = [argument.name for argument in schema.arguments]
    return found


def page(operators: dict[str, list[str]], tests: Tests) -> str:
    lines = [HEAD]
    for operator, parameters in operators.items():
        lines += [f"## {operator}", "", "| parameter | tests |", "|---|---|"]
        for parameter in parameters:
            names = ", ".join(f"`{test}`" for test in sorted(tests[operator, parameter]))
            lines.append(f"| {parameter} | {names or 'none'} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def problems(operators: dict[str, list[str]], tests: Tests) -> list[str]:
    known = {(operator, name) for operator, names in operators.items() for name in names}
    bare = [f"no test covers {name} of {op}" for op, name in sorted(known) if not tests[op, name]]
    stray = [
        f"{sorted(tests[key])} cover {key}, which no schema has" for key in tests.keys() - known
    ]
    return bare + stray


def main() -> int:
    check = only_checks(__doc__)
    tests, operators = collect(), schemas()
    found = problems(operators, tests)
    if is_stale(PAGE, page(operators, tests), check):
        found.append(f"{PAGE.relative_to(ROOT)} is stale: run tools/parameter_table.py")
    count = sum(len(names) for names in operators.values())
    summary = f"{count} parameters of {len(operators)} operators, each has a test"
    return report("parameter_table", found, summary)


if __name__ == "__main__":
    raise SystemExit(main())
