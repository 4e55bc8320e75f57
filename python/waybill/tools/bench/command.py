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

from ..namespaces import Network, NetworkError
from ..workload.settings import DTYPES, Case, numbers, sweep, words
from . import hosts, machine, overhead, tables
from .limits import Limit, measure_limits
from .measure import WARM_UP, Effort, Measured, measure
from .methods import NAMES
from .ranks import RankFailed, is_pinned

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
    "--hosts": ("hosts", numbers, "1", "network namespaces of this machine, which share the ranks"),
}
HOSTS_METHODS = ("operators", "gloo")
"""Over several hosts, where nothing else is asked for."""
MPI_CASE_SECONDS = 8.0
RATES = {"G": 1e9, "M": 1e6, "K": 1e3}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options; those that are swept take lists with commas."""
    for option, (name, _, default, text) in SWEPT.items():
        parser.add_argument(option, dest=name, default=default, help=f"{text} ({default})")
    parser.add_argument("--rounds", type=int, default=30, help="that count (30)")
    parser.add_argument("--warm-up", type=int, default=WARM_UP, help=f"rounds before ({WARM_UP})")
    parser.add_argument(
        "--case-seconds", type=float, default=math.inf, help="fewer rounds where they take longer"
    )
    parser.add_argument(
        "--methods",
        help=f"of {','.join(NAMES)} (all of them; with several hosts {','.join(HOSTS_METHODS)})",
    )
    parser.add_argument(
        "--overhead",
        choices=("no", "also", "only"),
        nargs="?",
        const="only",
        default="no",
        help="measure what PyTorch adds to a call",
    )
    over = parser.add_argument_group(
        "several hosts",
        "Each host is a network namespace; ranks of different ones talk through veth links, over "
        "UCX. Measured beside the times: the bytes on the links, what the links carry at most "
        "(iperf3, ucx_perftest), how much of a transfer setup and teardown hide, and the C++ "
        "library beside OpenMPI. On real hosts: mpirun ... waybill-bench --device DEVICE.",
    )
    over.add_argument(
        "--ranks-per-host", metavar="LIST", help="ranks of each host, in place of --ranks"
    )
    over.add_argument(
        "--rate", metavar="BITS", help="limit of each link each way, bits per second: 1G, 10G, 500M"
    )
    over.add_argument(
        "--program",
        metavar="PATH",
        help="waybill-bench (that in PATH): compares with OpenMPI, where mpirun is installed",
    )
    over.add_argument(
        "--plan-json",
        metavar="FILE",
        help="write what `waybill plan --check` reads; with several cases each to a file",
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
    except (ValueError, RankFailed, OSError, NetworkError) as error:
        print(f"waybill bench: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(document, indent=1) + "\n")
    if arguments.plot:
        _plot({"operators": document}, arguments.plot, console)
    return 0


def run_sweep(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Measures what the options say, shows it, and returns what goes to a file."""
    cases = cases_of(arguments)
    several = any(case.hosts > 1 for case in cases)
    methods = tuple(words(arguments.methods or ",".join(HOSTS_METHODS if several else NAMES)))
    if unknown := set(methods) - set(NAMES):
        raise ValueError(f"methods: expected some of {', '.join(NAMES)}, got {unknown}")
    if arguments.rounds < 1 or arguments.warm_up < 1:
        raise ValueError("rounds, warm-up: expected 1 or more")
    document: dict[str, Any] = {
        "machine": {},
        "settings": {
            "rounds": arguments.rounds,
            "warm_up": arguments.warm_up,
            "pinned": all(is_pinned(case.ranks, case.threads) for case in cases),
            "launch": "processes",
        },
        "records": [],
    }
    if arguments.overhead != "only":
        reports: list[dict[str, Any]] = []
        document["records"] = _measure_all(cases, methods, arguments, console, reports)
        _show(document["records"], arguments.details, console)
        if reports:
            document["hosts"] = reports
        for found in reports:
            for grid in hosts.tables(found):
                console.print(grid.rich())
    if arguments.overhead != "no":
        document["overhead"] = [
            asdict(entry) for ranks in OVERHEAD_RANKS for entry in overhead.measure(ranks)
        ]
        console.print(tables.overhead(document["overhead"]).rich())
    # It asks for UCX, which ranks that are forked afterwards could not use.
    document["machine"] = machine.describe()
    return document


def cases_of(arguments: argparse.Namespace) -> list[Case]:
    """Every combination; --ranks-per-host counts ranks by the number of hosts."""
    options = {name: read(getattr(arguments, name)) for name, read, _, _ in SWEPT.values()}
    if arguments.ranks_per_host is None:
        return list(sweep(options))
    counts = numbers(arguments.ranks_per_host)
    found: list[Case] = []
    for num_hosts in options.pop("hosts"):
        ranks = [count * num_hosts for count in counts]
        found += sweep({**options, "ranks": ranks, "hosts": [num_hosts]})
    return found


def bits_per_second(text: str) -> float:
    """ "10G" """
    unit = RATES.get(text[-1:].upper())
    try:
        rate = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        rate = 0.0
    if not rate > 0:
        raise ValueError(f"--rate: expected bits per second such as 1G, got {text!r}")
    return rate


def _measure_all(
    cases: Sequence[Case],
    methods: tuple[str, ...],
    arguments: argparse.Namespace,
    console: Console,
    reports: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """The records; what is known of cases over several hosts is added to `reports`."""
    records: list[dict[str, Any]] = []
    effort = Effort(arguments.rounds, arguments.warm_up, arguments.case_seconds)
    for number, case in enumerate(cases, 1):
        if console.is_terminal:
            console.print(f"{number}/{len(cases)}: {case.ranks} ranks, BS {case.bs}", style="dim")
        if case.hosts == 1:
            records += measure(case, methods, effort).records
            continue
        rate = bits_per_second(arguments.rate) if arguments.rate else None
        with Network(case.hosts, rate) as network:
            measured = measure(case, methods, effort, network)
            limits = measure_limits(network)
            program = hosts.find_program(arguments.program)
            seconds = min(arguments.case_seconds, MPI_CASE_SECONDS)
            openmpi = (
                hosts.compare_openmpi(network, case, program, seconds)
                if program and case.quant == 0
                else None
            )
        found = hosts.report(case, measured, rate, limits, openmpi)
        reports.append(found)
        records += measured.records
        if arguments.plan_json:
            _write_plan(arguments.plan_json, case, found, measured, limits, len(cases) > 1)
    return records


def _write_plan(
    file: str,
    case: Case,
    found: dict[str, Any],
    measured: Measured,
    limits: Sequence[Limit],
    named: bool,
) -> None:
    """`named`: the file's name says which case it is."""
    path = Path(file)
    if named:
        path = path.with_stem(f"{path.stem}-{case.hosts}x{case.ranks_per_host}-bs{case.bs}")
    document = hosts.plan_document(case, found, measured, limits)
    path.write_text(json.dumps(document, indent=1) + "\n")


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
