"""The command `waybill bench`."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from . import machine, overhead, tables
from .measure import WARM_UP, Effort, measure
from .methods import NAMES
from .ranks import RankFailed, is_pinned
from .settings import DTYPES, Case, numbers, sweep, words

OVERHEAD_RANKS = (1, 2)
SWEPT: dict[
    str, tuple[str, Callable[[str], Sequence[Any]], str, str]
] = {  # option -> (field of Case, reader of its list, default, help)
    "--ranks": ("ranks", numbers, "2,8", "processes"),
    "--bs": ("bs", numbers, "8,128", "tokens of a rank"),
    "--hidden": ("hidden", numbers, "7168", "elements of a row"),
    "--topk": ("topk", numbers, "8", "experts of a token"),
    "--experts-per-rank": ("experts_per_rank", numbers, "8", "experts of a rank"),
    "--quant": ("quant", numbers, "0", "quant_mode of dispatch, 0 or 2"),
    "--threads": ("threads", numbers, "1", "cores that a rank may use"),
    "--routing": ("routing", words, "uniform", "uniform, zipf:1.2 or recorded:FILE"),
    "--dtype": ("dtype", words, "bfloat16", " or ".join(DTYPES)),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options; those that are swept take lists with commas."""
    for option, (name, _, default, text) in SWEPT.items():
        parser.add_argument(option, dest=name, default=default, help=f"{text} ({default})")
    parser.add_argument("--rounds", type=int, default=30, help="that count (30)")
    parser.add_argument("--warm-up", type=int, default=WARM_UP, help=f"rounds before ({WARM_UP})")
    parser.add_argument(
        "--case-seconds", type=float, default=math.inf, help="fewer rounds where they take longer"
    )
    parser.add_argument("--methods", default=",".join(NAMES), help=f"of {','.join(NAMES)}")
    parser.add_argument(
        "--overhead",
        choices=("no", "also", "only"),
        nargs="?",
        const="only",
        default="no",
        help="measure what PyTorch adds to a call",
    )
    parser.add_argument("--details", action="store_true", help="percentiles too")
    parser.add_argument("--json", metavar="FILE", help="write the numbers to this file")
    parser.add_argument("--plot", metavar="DIR", help="write plots to this folder")
    parser.add_argument(
        "--plot-from",
        metavar="FILE",
        nargs="+",
        help="measure nothing: plot these files, which may be waybill-bench's",
    )


def run(arguments: argparse.Namespace) -> int:
    console = Console()
    try:
        if arguments.plot_from:
            return plot_files(arguments.plot_from, arguments.plot, console)
        document = run_sweep(arguments, console)
    except (ValueError, RankFailed, OSError) as error:
        print(f"waybill bench: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(document, indent=1) + "\n")
    if arguments.plot:
        _plot({"operators": document}, arguments.plot, console)
    return 0


def run_sweep(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Measures what the options say, shows it, and returns what goes to a file."""
    cases = list(
        sweep({name: read(getattr(arguments, name)) for name, read, _, _ in SWEPT.values()})
    )
    methods = tuple(words(arguments.methods))
    if unknown := set(methods) - set(NAMES):
        raise ValueError(f"methods: expected some of {', '.join(NAMES)}, got {unknown}")
    if arguments.rounds < 1 or arguments.warm_up < 1:
        raise ValueError("rounds, warm-up: expected 1 or more")
    document: dict[str, Any] = {
        "machine": machine.describe(),
        "settings": {
            "rounds": arguments.rounds,
            "warm_up": arguments.warm_up,
            "pinned": all(is_pinned(case.ranks, case.threads) for case in cases),
            "launch": "processes",
        },
        "records": [],
    }
    if arguments.overhead != "only":
        document["records"] = _measure_all(cases, methods, arguments, console)
        _show(document["records"], arguments.details, console)
    if arguments.overhead != "no":
        document["overhead"] = [
            asdict(entry) for ranks in OVERHEAD_RANKS for entry in overhead.measure(ranks)
        ]
        console.print(tables.overhead(document["overhead"]).rich())
    return document


def _measure_all(
    cases: Sequence[Case], methods: tuple[str, ...], arguments: argparse.Namespace, console: Console
) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    effort = Effort(arguments.rounds, arguments.warm_up, arguments.case_seconds)
    for number, case in enumerate(cases, 1):
        if console.is_terminal:
            console.print(f"{number}/{len(cases)}: {case.ranks} ranks, BS {case.bs}", style="dim")
        records += measure(case, methods, effort)
    return records


def _show(records: Sequence[dict[str, Any]], details: bool, console: Console) -> None:
    console.print(tables.times(records).rich())
    ratios = tables.ratios(records)
    if ratios is not None:
        console.print(ratios.rich())
    if details:
        console.print(tables.details(records).rich())


def plot_files(files: Sequence[str], folder: str | None, console: Console) -> int:
    documents = {Path(file).stem: json.loads(Path(file).read_text()) for file in files}
    return _plot(documents, folder or ".", console)


def _plot(documents: dict[str, dict[str, Any]], folder: str, console: Console) -> int:
    try:
        from . import plots
    except ImportError as error:
        print(f"waybill bench: plots need matplotlib: {error}", file=sys.stderr)
        return 2
    for name, document in documents.items():
        for path in plots.draw(name, document, Path(folder)):
            console.print(str(path))
    return 0
