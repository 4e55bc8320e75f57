"""NUMA nodes of this machine, as /sys/devices/system/node describes them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

SYSFS = Path("/sys/devices/system/node")
PROC = Path("/proc")
LAST_CORE = 38
"""Place of the core that a process last ran on in /proc/PID/stat, from 0."""


@dataclass(frozen=True)
class Node:
    number: int
    cores: frozenset[int]
    memory_bytes: int

    def describe(self) -> str:
        memory = f"{self.memory_bytes / 2**30:.1f} GiB" if self.memory_bytes else "no memory"
        return f"{name_cores(self.cores)}, {memory}"


def parse_cores(text: str) -> frozenset[int]:
    """ "0-3,8": the kernel's form of a list."""
    cores: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return frozenset(cores)


def name_cores(cores: Collection[int]) -> str:
    """The inverse, for people."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][1] + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    if not runs:
        return "no cores"
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
    return f"core {text}" if len(cores) == 1 else f"{len(cores)} cores ({text})"


def read(sysfs: Path = SYSFS) -> list[Node]:
    """The nodes in order; none where the kernel knows of none."""
    nodes = []
    for folder in sysfs.glob("node[0-9]*"):
        try:
            cores = parse_cores((folder / "cpulist").read_text())
            meminfo = (folder / "meminfo").read_text()
        except OSError:  # taken offline meanwhile
            continue
        # "Node 0 MemTotal:       24684096 kB"
        totals = [line.split() for line in meminfo.splitlines() if " MemTotal:" in line]
        nodes.append(Node(int(folder.name[4:]), cores, int(totals[0][3]) << 10 if totals else 0))
    return sorted(nodes, key=lambda node: node.number)


def describe_process(allowed: Collection[int], nodes: list[Node], runs_on: int | None) -> str:
    """The cores a process may run on, and whether that ties it to a node."""
    cores = name_cores(allowed)
    online = frozenset[int]().union(*(node.cores for node in nodes))
    if not online or online <= frozenset(allowed):
        return f"{cores}, not pinned" + (f", now on node {runs_on}" if runs_on is not None else "")
    used = [str(node.number) for node in nodes if node.cores & frozenset(allowed)]
    return f"{cores}, pinned to node{'s' * (len(used) > 1)} {', '.join(used)}"


def of_process(pid: int, nodes: list[Node], proc: Path = PROC) -> int | None:
    """The node of the core that a process's first thread last ran on; None: not known."""
    try:
        text = (proc / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The name, in parentheses, may contain anything; what follows begins with field 3.
    core = int(text.rpartition(")")[2].split()[LAST_CORE - 2])
    return next((node.number for node in nodes if core in node.cores), None)
