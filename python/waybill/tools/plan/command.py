"""The command `waybill plan`."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ..workload.grid import Grid
from ..workload.settings import DTYPES, numbers, words
from . import tables
from .check import compare
from .model import FORMAT, Plan, plan
from .settings import Layer, Machine

SWEEP_HOSTS = (1, 2, 4, 8, 16, 32, 64, 128)
FILE_WIDTH = 160


def reals(text: str) -> list[float]:
    """ "100,400" """
    return [float(word) for word in words(text)]


SWEPT: dict[str, tuple[str, Callable[[str], Sequence[Any]], str]] = {
    "--hosts": ("hosts", numbers, "hosts"),
    "--ranks-per-host": ("ranks_per_host", numbers, "ranks of a host"),
    "--bs": ("bs", numbers, "tokens of a rank"),
    "--hidden": ("hidden", numbers, "elements of a row"),
    "--topk": ("topk", numbers, "experts of a token"),
    "--experts": ("experts", numbers, "experts of all ranks"),
    "--quant": ("quant", numbers, "quant_mode of dispatch, 0 or 2"),
    "--comm-quant": ("comm_quant", numbers, "comm_quant_mode of combine, 0 or 2"),
    "--routing": ("routing", words, "uniform, zipf:1.2 or recorded:FILE"),
    "--dtype": ("dtype", words, " or ".join(DTYPES)),
    "--link-gbps": ("link_gbps", reals, "Gbit/s of a host's network card, each direction"),
}
"""Options that take lists: field of Layer or Machine, reader, help."""

SINGLE: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "--shared-experts": ("shared_experts", int, "shared_expert_num"),
    "--shared-ranks": ("shared_ranks", int, "shared_expert_rank_num"),
    "--latency-us": ("latency_us", float, "from a send to its arrival on an idle link"),
    "--mtu": ("mtu", int, "bytes of an IP packet over TCP; 1500, 9000, 65536 where network cards "
              "or veth cut segments, 0 without TCP"),
    "--cores": ("cores", int, "cores of a host for its ranks"),
    "--core-copy-gbs": ("core_copy_gbs", float, "GB/s that a core copies"),
    "--host-copy-gbs": ("host_copy_gbs", float, "GB/s that all cores of a host copy together"),
    "--message-us": ("message_us", float, "of a core for each message, at each end"),
    "--tcp-gbs": ("tcp_gbs", float, "GB/s of a core through the kernel's TCP; 0: not counted"),
    "--compute-us": ("compute_us", float, "other work between setup and teardown"),
}  # fmt: skip

FLAGS = {
    "--smooth": ("smooth", "dispatch gets scales: a row for each (token, expert)"),
    "--expert-scales": ("expert_scales", "dispatch gets expert_scales"),
    "--private-rows": ("private_rows", "combine gets rows that it has to copy"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options; some take lists with commas, and every combination is a line of a table."""
    defaults = asdict(Layer()) | asdict(Machine())
    group = parser.add_argument_group("sizes", "lists with commas, every combination is planned")
    for option, (name, _, text) in SWEPT.items():
        shown = f"{defaults[name]:g}" if isinstance(defaults[name], float) else defaults[name]
        group.add_argument(option, dest=name, default=str(shown), help=f"{text} ({shown})")
    for option, (name, kind, text) in SINGLE.items():
        parser.add_argument(
            option, dest=name, type=kind, default=defaults[name], help=f"{text} ({defaults[name]})"
        )
    for option, (name, text) in FLAGS.items():
        parser.add_argument(option, dest=name, action="store_true", help=text)
    parser.add_argument(
        "--sweep",
        action="store_true",
        help=f"{SWEEP_HOSTS[0]} to {SWEEP_HOSTS[-1]} hosts; where experts are not a multiple of "
        "the ranks that have some, the next one",
    )
    parser.add_argument("--json", metavar="FILE", help="write the numbers to this file")
    parser.add_argument("--markdown", action="store_true", help="print tables as Markdown")
    parser.add_argument(
        "--check",
        metavar="FILE",
        help="model beside a measurement; options stand for settings that it does not have",
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints the plan; 1 for settings that no group can have."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=FILE_WIDTH)
    try:
        document = _run(arguments, console)
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(document, indent=1) + "\n")
    except (ValueError, OSError) as error:
        print(f"waybill plan: {error}", file=sys.stderr)
        return 1
    return 0


def _run(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    settings = list(settings_of(arguments))
    if arguments.check:
        measured = json.loads(Path(arguments.check).read_text())
        one, found = compare(measured, *settings[0])
        console.print(tables.titled(one))
        _print(tables.comparisons(found), arguments, console)
        return {"plan": one.to_json(), "comparisons": [asdict(line) for line in found]}
    plans = [plan(layer, machine) for layer, machine in settings]
    if len(plans) > 1:
        _print(tables.several(plans), arguments, console)
        return {"waybill_plan": FORMAT, "plans": [one.to_json() for one in plans]}
    _show(plans[0], arguments, console)
    return plans[0].to_json()


def settings_of(arguments: argparse.Namespace) -> Iterator[tuple[Layer, Machine]]:
    """Every combination of the lists that the options give."""
    lists = {name: read(getattr(arguments, name)) for name, read, _ in SWEPT.values()}
    if arguments.sweep:
        lists["hosts"] = SWEEP_HOSTS
    given = vars(arguments)
    # The hosts vary fastest: a sweep is read from top to bottom.
    order = [name for name in lists if name != "hosts"] + ["hosts"]
    for values in itertools.product(*(lists[name] for name in order)):
        chosen = given | dict(zip(order, values, strict=True))
        layer = Layer(**{field.name: chosen[field.name] for field in fields(Layer)})
        machine = Machine(**{field.name: chosen[field.name] for field in fields(Machine)})
        yield (_enough_experts(layer) if arguments.sweep else layer), machine


def _enough_experts(layer: Layer) -> Layer:
    """With as many experts as the ranks can share evenly, and no fewer than asked for."""
    ranks = max(layer.ranks - layer.shared_ranks, 1)
    return replace(layer, experts=-(-layer.experts // ranks) * ranks)


def _show(one: Plan, arguments: argparse.Namespace, console: Console) -> None:
    console.print(f"{tables.titled(one)}; rows are {one.traffic.how}")
    for grid in (tables.link_bytes(one), tables.phases(one), tables.memory(one)):
        _print(grid, arguments, console)


def _print(grid: Grid, arguments: argparse.Namespace, console: Console) -> None:
    if arguments.markdown:
        print(grid.markdown())
    else:
        console.print(grid.rich())
