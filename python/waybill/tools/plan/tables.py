"""Plans as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..workload.grid import Grid
from ..workload.routing import shown
from .check import Comparison
from .model import Memory, OperatorPlan, Plan
from .settings import Layer

BOUND_SHORT = {"latency": "latency", "link": "link", "memory": "memory", "cpu": "cores"}
PARTS = ("link", "memory", "cpu", "latency")
MEMORY_LINES = {
    "window": "windows of a rank",
    "window_worst": "windows of a rank, at most",
    "pool": "outputs of a rank",
    "mirror": "mirrors of a host, after one dispatch and one combine",
    "mirror_most": "mirrors of a host, at most",
    "host": "a host together",
}


def shown_bytes(value: float) -> str:
    """With a unit; 10^3 bytes are a kB."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if value >= 99.5 or unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def shown_us(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.3g}"


def titled(one: Plan) -> str:
    """The settings in a line."""
    layer, machine = one.layer, one.machine
    quant = f", int8 {'' if not layer.smooth else 'with smooth scales '}rows" if layer.quant else ""
    back = ", int8 back" if layer.comm_quant else ""
    return (
        f"{layer.hosts} hosts x {layer.ranks_per_host} ranks, BS {layer.bs}, H {layer.hidden}, "
        f"K {layer.topk}, M {layer.experts}, {layer.dtype}{quant}{back}, {machine.link_gbps:g} "
        f"Gbit/s"
    )


def link_bytes(one: Plan) -> Grid:
    """What the busiest host sends and receives."""
    rows = []
    for operator in one.operators:
        host = int(operator.sent().argmax())
        parts = [float(part.sum(axis=1)[host]) for part in operator.links.parts.values()]
        rows.append(
            [
                operator.name,
                *(shown_bytes(part) for part in parts),
                shown_bytes(float(operator.sent()[host])),
                shown_bytes(float(operator.received().max())),
                f"{float(operator.links.messages.sum(axis=1)[host]):,.0f}",
            ]
        )
    header = ["", *one.dispatch.links.parts, "sent", "received", "messages"]
    return Grid("Bytes of one call on the link of the host that sends most", header, rows)


def phases(one: Plan) -> Grid:
    """Time by phase, and what each resource needs."""
    rows = []
    for operator in one.operators:
        for phase in operator.phases:
            parts = [shown_us(phase.parts[name]) if name in phase.parts else "" for name in PARTS]
            name = f"{operator.name}: {phase.name}"
            rows.append([name, shown_us(phase.us), BOUND_SHORT.get(phase.bound, "-"), *parts])
        hidden = f"{shown_us(operator.hidden_us)} hidden" if operator.compute_us else ""
        rows.append([f"{operator.name}: all", shown_us(operator.us), hidden, "", "", "", ""])
    header = ["phase", "us", "bound by", "link", "memory", "cores", "latency"]
    return Grid("Microseconds of one call", header, rows)


def memory(one: Plan) -> Grid:
    """Memory of the rank and the host that need most."""
    lines = [name for name in Memory.__dataclass_fields__ if name in MEMORY_LINES]
    rows = [[MEMORY_LINES[name], shown_bytes(getattr(one.memory, name))] for name in lines]
    return Grid("Memory", ["", "bytes"], rows)


SETTINGS: dict[str, Callable[[Layer], object]] = {
    "hosts": lambda layer: layer.hosts,
    "ranks": lambda layer: layer.ranks,
    "M": lambda layer: layer.experts,
    "BS": lambda layer: layer.bs,
    "H": lambda layer: layer.hidden,
    "K": lambda layer: layer.topk,
    "dtype": lambda layer: layer.dtype,
    "quant": lambda layer: layer.quant,
    "back": lambda layer: layer.comm_quant,
    "routing": lambda layer: shown(layer.routing),
}
ALWAYS = ("hosts", "ranks", "M", "BS")


def several(plans: Sequence[Plan]) -> Grid:
    """A layer a line; a column of times for each speed of the link, which changes no bytes."""
    lines: dict[Layer, dict[float, Plan]] = {}
    for one in plans:
        lines.setdefault(one.layer, {})[one.machine.link_gbps] = one
    settings = {
        name: read
        for name, read in SETTINGS.items()
        if name in ALWAYS or len({read(layer) for layer in lines}) > 1
    }
    speeds = list(dict.fromkeys(one.machine.link_gbps for one in plans))
    header = list(settings)
    for operator in plans[0].operators:
        header += [f"{operator.name} sends", *(f"us, {speed:g}G" for speed in speeds)]
    rows = [
        [*(str(read(layer)) for read in settings.values()), *_cells(by_speed)]
        for layer, by_speed in lines.items()
    ]
    header += ["window", "mirrors", "at most"]
    return Grid("A host's link, a call's time, a rank's window, a host's mirrors", header, rows)


def _cells(by_speed: dict[float, Plan]) -> list[str]:
    cells: list[str] = []
    first = next(iter(by_speed.values()))
    for number, operator in enumerate(first.operators):
        cells.append(shown_bytes(float(operator.sent().max())) if first.layer.hosts > 1 else "-")
        cells += [_timed(one.operators[number]) for one in by_speed.values()]
    memory = (first.memory.window, first.memory.mirror, first.memory.mirror_most)
    return cells + [shown_bytes(value) for value in memory]


def _timed(operator: OperatorPlan) -> str:
    """The time, and the phase that takes most of it: of the link, what bounds it."""
    longest = operator.longest
    word = BOUND_SHORT[longest.bound] if longest.name == "link" else longest.name
    return f"{shown_us(operator.us)} {word}"


def comparisons(found: Sequence[Comparison]) -> Grid:
    """Model and measurement."""
    rows = []
    for line in found:
        show = shown_bytes if line.unit == "bytes" else shown_us
        unit = "" if line.unit == "bytes" else " us"
        rows.append(
            [
                f"{line.operator}: {line.what}",
                show(line.model) + unit,
                show(line.measured) + unit,
                "-" if line.ratio is None else f"{line.ratio:.2f}",
            ]
        )
    return Grid("Measured by model", ["", "model", "measured", "measured / model"], rows)
