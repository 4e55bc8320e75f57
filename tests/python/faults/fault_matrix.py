"""The fault matrix: faults x points x operators x numbers of ranks, on this machine's processes.

    cd tests/python/faults
    python fault_matrix.py                 # all of it
    python fault_matrix.py --hosts 2       # faults of ranks in groups over two hosts
    python fault_matrix.py --hosts links   # faults of links and of hosts
    python fault_matrix.py --part          # each pair of values of two axes
    python fault_matrix.py --case kill/mid-pull/combine_v2/4

Ends with a table of counts, and with 1 when a case failed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.extend(str(Path(__file__).resolve().parents[1] / room) for room in ("links", "support"))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # no thread may be there when ranks are forked

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import link_cases
from fault_cases import (
    Fault,
    FaultCase,
    Point,
    combinations,
    find,
    matrix,
    stratified,
    stratified_hosts,
    why_not,
)
from fault_runs import CaseRun, Result, run_cases
from link_cases import LINK_POINTS, LinkCase, LinkFault
from link_runs import LinkRun
from links import SwitchedNetwork
from waybill import _library

Case = FaultCase | LinkCase
PARTS: dict[str, tuple[Callable[[], Sequence[Any]], Callable[[], Sequence[Any]]]] = {
    "1": (lambda: matrix([1]), stratified),
    "2": (lambda: matrix([2]), stratified_hosts),
    "links": (link_cases.matrix, link_cases.stratified),
}
"""All cases, and the part of them for --part."""
TITLES = {"1": "One host", "2": "Two hosts", "links": "Links between hosts"}
PROGRESS_CASES = 100  # from line to line where there is no progress bar


def read_options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", action="store_true", help="each pair of values of two axes")
    parser.add_argument("--case", action="append", help="one case by its name; may be repeated")
    parser.add_argument("--hosts", action="append", choices=PARTS, help="a part; may be repeated")
    parser.add_argument("--like", help="cases whose names contain this")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    parser.add_argument("--times", type=int, default=1, help="how often each case is run")
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    return parser.parse_args(argv)


def chosen_cases(options: argparse.Namespace) -> list[Case]:
    if options.case:
        cases = [link_cases.find(name) or find(name) for name in options.case]
    else:
        parts = options.hosts or PARTS
        cases = [case for part in parts for case in PARTS[part][options.part]()]
    like = options.like or ""
    return [case for case in cases if like in case.name] * options.times


def kind_of(case: Case) -> type[CaseRun]:
    return LinkRun if isinstance(case, LinkCase) else CaseRun


def why_no_hosts() -> str:
    """Why groups over hosts cannot be made here. Found out by a process of its own: UCX may start
    threads, and ranks are forked.
    """
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        reason = SwitchedNetwork.available() or _library.machine()["ucx_problem"] or ""
        os.write(writer, str(reason).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        reason = file.read()
    os.waitpid(pid, 0)
    return reason


def table_of(results: Sequence[Result], part: str) -> Table:
    """Counts by fault and point: passed, failed, and combinations that cannot be."""
    counts: Counter[tuple[Any, Point, str]] = Counter()
    for result in results:
        if part_of(result.case) == part:
            kind = "failed" if result.problems else "passed"
            counts[result.case.fault, result.case.point, kind] += 1
    for case, _ in impossible(part):
        counts[case.fault, case.point, "n/a"] += 1
    table = Table(title=f"{TITLES[part]}: passed/failed/not applicable", title_justify="left")
    table.add_column("", no_wrap=True)
    faults: Sequence[Any] = list(LinkFault if part == "links" else Fault)
    for fault in faults:
        table.add_column(fault.value, justify="right")
    for point in LINK_POINTS if part == "links" else Point:
        cells = []
        for fault in faults:
            passed, failed, cannot = (
                counts[fault, point, kind] for kind in ("passed", "failed", "n/a")
            )
            text = f"{passed}/{failed}/{cannot}"
            cells.append(f"[bold red]{text}[/]" if failed else text)
        table.add_row(point.value, *cells)
    return table


def part_of(case: Case) -> str:
    return "links" if isinstance(case, LinkCase) else str(case.hosts)


def impossible(part: str) -> list[tuple[Case, str]]:
    """Combinations that cannot be, and why."""
    if part == "links":
        pairs: list[Any] = [(case, link_cases.why_not(case)) for case in link_cases.combinations()]
    else:
        pairs = [(case, why_not(case)) for case in combinations([int(part)])]
    return [(case, reason) for case, reason in pairs if reason]


def reasons(part: str) -> list[str]:
    """Why combinations are not applicable, with their numbers."""
    counts = Counter(reason for _, reason in impossible(part))
    return [f"not applicable ({count}): {reason}" for reason, count in counts.items()]


def main(argv: Sequence[str] | None = None) -> int:
    options = read_options(argv)
    torch.set_num_threads(1)
    cases = chosen_cases(options)
    if options.list:
        print("\n".join(case.name for case in cases))
        return 0
    console = Console(width=None if sys.stdout.isatty() else 110)
    reason = why_no_hosts() if any(case.hosts > 1 for case in cases) else ""
    if reason:
        skipped = sum(case.hosts > 1 for case in cases)
        cases = [case for case in cases if case.hosts == 1]
        console.print(f"skipped: {skipped} cases over hosts: {reason}", markup=False)
    results = []
    begin = time.monotonic()
    # Progress would start a thread, and forked ranks must not inherit one.
    with Progress(console=console, auto_refresh=False) as progress:
        task = progress.add_task("cases", total=len(cases))
        for result in run_cases(cases, options.jobs, kind_of):
            if result.repeats:
                text = f"repeated, since the machine was busy for {result.busy:.1f} s"
                console.print(f"{result.case.name}: {text}: {result.problems[0]}", markup=False)
                continue
            results.append(result)
            progress.update(task, advance=1, refresh=console.is_terminal)
            if not console.is_terminal and len(results) % PROGRESS_CASES == 0:
                console.print(f"{len(results)} of {len(cases)} cases")
            for problem in result.problems:
                console.print(f"{result.case.name}: {problem}", style="red", markup=False)
    if options.json:
        options.json.write_text(
            json.dumps({result.case.name: result.problems for result in results}, indent=1)
        )
    for part in PARTS:
        if any(part_of(case) == part for case in cases):
            console.print(table_of(results, part))
            for reason in reasons(part):
                console.print(reason, highlight=False)
    return conclude(console, results, time.monotonic() - begin)


def conclude(console: Console, results: Sequence[Result], seconds: float) -> int:
    """The commands that repeat failures, the counts, and the exit status."""
    failed = [result.case for result in results if result.problems]
    for case in sorted(set(failed), key=lambda case: case.name):
        console.print(f"failed: python tests/python/faults/fault_matrix.py --case {case.name}")
    console.print(f"{len(results) - len(failed)} passed, {len(failed)} failed, in {seconds:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
