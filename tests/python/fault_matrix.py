"""The fault matrix: faults x points x operators x numbers of ranks, on this machine's processes.

    python tests/python/fault_matrix.py                 # all of it
    python tests/python/fault_matrix.py --part          # each pair of values of two axes
    python tests/python/fault_matrix.py --case kill/mid-pull/combine_v2/4

Ends with a table of counts, and with 1 when a case failed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # no thread may be there when ranks are forked

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from fault_cases import (
    Fault,
    FaultCase,
    Point,
    combinations,
    find,
    matrix,
    stratified,
    why_not,
)
from fault_runs import Result, run_cases

PROGRESS_CASES = 100  # from line to line where there is no progress bar


def read_options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", action="store_true", help="each pair of values of two axes")
    parser.add_argument("--case", action="append", help="one case by its name; may be repeated")
    parser.add_argument("--like", help="cases whose names contain this")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    parser.add_argument("--times", type=int, default=1, help="how often each case is run")
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    return parser.parse_args(argv)


def chosen_cases(options: argparse.Namespace) -> list[FaultCase]:
    if options.case:
        cases = [find(name) for name in options.case]
    else:
        cases = stratified() if options.part else matrix()
    like = options.like or ""
    return [case for case in cases if like in case.name] * options.times


def table_of(results: Sequence[Result], cases: Sequence[FaultCase]) -> Table:
    """Counts by fault and point: passed, failed, and combinations that cannot be."""
    counts: Counter[tuple[Fault, Point, str]] = Counter()
    for result in results:
        counts[result.case.fault, result.case.point, "failed" if result.problems else "passed"] += 1
    for case in combinations():
        if why_not(case):
            counts[case.fault, case.point, "n/a"] += 1
    table = Table(title="Cases: passed/failed/not applicable", title_justify="left")
    table.add_column("", no_wrap=True)
    for fault in Fault:
        table.add_column(fault.value, justify="right")
    for point in Point:
        cells = []
        for fault in Fault:
            passed, failed, cannot = (
                counts[fault, point, kind] for kind in ("passed", "failed", "n/a")
            )
            text = f"{passed}/{failed}/{cannot}"
            cells.append(f"[bold red]{text}[/]" if failed else text)
        table.add_row(point.value, *cells)
    return table


def reasons() -> list[str]:
    """Why combinations are not applicable, with their numbers."""
    counts = Counter(
        f"{case.point.value}, {case.operator}: {why_not(case)}"
        for case in combinations()
        if why_not(case)
    )
    return [f"not applicable ({count}): {reason}" for reason, count in counts.items()]


def main(argv: Sequence[str] | None = None) -> int:
    options = read_options(argv)
    torch.set_num_threads(1)
    cases = chosen_cases(options)
    if options.list:
        print("\n".join(case.name for case in cases))
        return 0
    console = Console(width=None if sys.stdout.isatty() else 110)
    results = []
    begin = time.monotonic()
    # Progress would start a thread, and forked ranks must not inherit one.
    with Progress(console=console, auto_refresh=False) as progress:
        task = progress.add_task("cases", total=len(cases))
        for result in run_cases(cases, options.jobs):
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
    console.print(table_of(results, cases))
    for reason in reasons():
        console.print(reason, highlight=False)
    return conclude(console, results, time.monotonic() - begin)


def conclude(console: Console, results: Sequence[Result], seconds: float) -> int:
    """The commands that repeat failures, the counts, and the exit status."""
    failed = [result.case for result in results if result.problems]
    for case in sorted(set(failed), key=lambda case: case.name):
        console.print(f"failed: python tests/python/fault_matrix.py --case {case.name}")
    console.print(f"{len(results) - len(failed)} passed, {len(failed)} failed, in {seconds:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
