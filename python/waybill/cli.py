"""The command `waybill`."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from . import __version__, _library, _nodes, doctor, group_map, selftest
from .ascend import launch as ascend
from .tools.bench import command as bench
from .tools.plan import command as plan

DEMO = Path("examples", "tiny_moe", "demo.py")
SELFTEST_SECONDS = 50.0


def info(arguments: argparse.Namespace) -> int:
    """Versions, back ends, SIMD level, memory and the environment's settings."""
    if arguments.group:
        return group_map.show()
    machine = _library.machine()
    table = Table("what", "value", title="waybill info")
    table.add_row("waybill", __version__)
    table.add_row("torch", torch.__version__)
    table.add_row("python", platform.python_version())
    table.add_row("back ends", "CPU")
    ucx = machine.pop("ucx")
    missing = machine.pop("ucx_problem")
    between = f"UCX {ucx} (between hosts)" if ucx else f"no UCX: {missing}"
    table.add_row("transports", f"shm (processes of one host), local (threads), {between}")
    table.add_row("host", _library.this_host())
    nodes = _nodes.read()
    for node in nodes:
        table.add_row(f"NUMA node {node.number}", node.describe())
    runs_on = _nodes.of_process(os.getpid(), nodes)
    allowed = os.sched_getaffinity(0)
    table.add_row("this process", _nodes.describe_process(allowed, nodes, runs_on))
    for key, value in machine.items():
        table.add_row(key.replace("_", " "), str(value or "-"))
    Console().print(table)
    return 0


def run_selftest(arguments: argparse.Namespace) -> int:
    """Every operator over processes of this machine against the oracle."""
    console = Console()
    columns = (
        TextColumn("selftest"),
        BarColumn(),
        TextColumn("{task.fields[cases]} cases"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("selftest", total=1.0, cases=0)
        cases, found = selftest.run(
            arguments.seconds,
            lambda done, part: progress.update(task, completed=part, cases=done),
        )
        progress.update(task, completed=1.0)
    for line in found:
        console.print(f"[red]✗[/red] {line}")
    sizes = ", ".join(map(str, selftest.SIZES))
    if not found:
        console.print(
            f"[green]✓[/green] all operators equal the oracle bit for bit: {cases} "
            f"cases over {sizes} processes"
        )
    return 1 if found else 0


def find_demo() -> Path | None:
    """The demo lives in the repository: here, or above the package's sources."""
    for folder in (Path.cwd(), *Path(__file__).resolve().parents):
        if (folder / DEMO).exists():
            return folder / DEMO
    return None


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("waybill_demo", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def demo(rest: Sequence[str]) -> int:
    path = find_demo()
    if path is None:
        print(
            f"waybill demo: expected {DEMO} in this folder or above it, found none: the demo comes "
            "with the repository, not with the package",
            file=sys.stderr,
        )
        return 2
    return int(load(path).main(list(rest)))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="waybill", description="Expert-parallel dispatch and combine for MoE inference"
    )
    parser.add_argument("--version", action="version", version=f"waybill {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("info", help="what this installation and this machine have")
    add.add_argument(
        "--group",
        action="store_true",
        help="who talks with whom how: of the ranks that a launcher started with this command, or "
        "of the groups that run on this host",
    )
    add.set_defaults(run=info)
    add = commands.add_parser(
        "selftest", help="every operator on this machine against the oracle, about a minute"
    )
    add.add_argument("--seconds", type=float, default=SELFTEST_SECONDS)
    add.set_defaults(run=run_selftest)
    add = commands.add_parser(
        "doctor", help="where each rank of a running or stuck group is, and for whom it waits"
    )
    add.add_argument("what", nargs="?", metavar="NAME|PID", help="default: every group")
    add.add_argument("--json", action="store_true")
    add.set_defaults(run=doctor.run)
    add = commands.add_parser(
        "bench", help="the operators beside gloo, checked mode, private rows, int8 and a copy"
    )
    bench.add_arguments(add)
    add.set_defaults(run=bench.run)
    add = commands.add_parser(
        "plan", help="bytes, time and memory of calls over several hosts, from formulas"
    )
    plan.add_arguments(add)
    add.set_defaults(run=plan.run)
    # Its own options are the demo's: `waybill demo --help` shows them.
    commands.add_parser("demo", help="eight processes write text with a small MoE model")
    commands.add_parser("ascend", help="runs a script that was written for the accelerator")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["demo"]:
        return demo(words[1:])
    if words[:1] == ["ascend"]:
        return ascend.main(words[1:])
    arguments = make_parser().parse_args(words)
    return int(arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
