"""`waybill doctor`: where each rank of a group is, read from outside while it runs or is stuck."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

from rich.console import Console
from rich.table import Table

from . import _library, _nodes

FILE_WIDTH = 160


def find(what: str | None) -> list[dict[str, Any]]:
    """The groups of this name, or of the process with this pid; all without either."""
    groups = _library.inspect()
    if what is None:
        return groups
    named = [group for group in groups if group["name"] == what]
    if named or not what.isdecimal():
        return named
    return [g for g in groups if any(r["pid"] == int(what) for r in g["ranks"])]


def _waits_for(rank: dict[str, Any]) -> str:
    return ", ".join(str(other) for other in rank["waits_for"]) or "-"


def _node(rank: dict[str, Any], nodes: list[_nodes.Node]) -> str:
    memory, runs_on = rank["memory_node"], _nodes.of_process(rank["pid"], nodes)
    if memory < 0 or runs_on is None or memory == runs_on:
        return str(memory) if memory >= 0 else "-"
    return f"{memory}, runs on {runs_on}"


def _state(rank: dict[str, Any]) -> str:
    if rank["rejoining"]:
        return "comes back"
    return "needs a reset" if rank["needs_reset"] else "good"


def _table(group: dict[str, Any], nodes: list[_nodes.Node]) -> Table:
    table = Table(
        "rank",
        "pid",
        "operator",
        "phase",
        "call",
        "epoch",
        "for",
        "waits for",
        "state",
        "node",
        title=f"{group['name'] or '(no name)'}: {group['world_size']} ranks, id {group['id']}",
    )
    for rank in group["ranks"]:
        if not rank["pid"]:
            table.add_row(str(rank["rank"]), "[red]no process[/red]", *["-"] * 8)
            continue
        table.add_row(
            str(rank["rank"]),
            str(rank["pid"]),
            rank["operator"] or "-",
            rank["phase"],
            str(rank["call"]),
            str(rank["epoch"]),
            f"{rank['seconds']:.1f} s",
            _waits_for(rank),
            _state(rank),
            _node(rank, nodes),
        )
    return table


def run(arguments: Namespace) -> int:
    """Prints the groups; 1 when there is none."""
    groups = find(arguments.what)
    if arguments.json:
        print(json.dumps(groups, indent=2))
        return 0 if groups else 1
    nodes = _nodes.read()
    console = Console()
    if not console.is_terminal:
        console = Console(width=FILE_WIDTH)
    for group in groups:
        if not group["ranks"]:
            console.print(
                f"{group['name']}: made by Waybill {group['version']}, not by this version"
            )
            continue
        console.print(_table(group, nodes))
    if not groups:
        wanted = f"of {arguments.what!r} " if arguments.what else ""
        console.print(
            f"waybill doctor: no group {wanted}among the processes that this user may look into"
        )
    return 0 if groups else 1
