"""A plan beside what was measured. docs/plan.md has the format of the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from .model import FORMAT, OperatorPlan, Plan, plan
from .settings import Layer, Machine


@dataclass(frozen=True)
class Comparison:
    """One number of the model and its measurement."""

    operator: str
    what: str
    unit: str
    model: float
    measured: float

    @property
    def ratio(self) -> float | None:
        """Measured by the model; None where the model says 0."""
        return self.measured / self.model if self.model else None


def settings_of(
    document: dict[str, Any], base: Layer | None = None, machine: Machine | None = None
) -> tuple[Layer, Machine]:
    """The plan's settings in a document; those it does not have are of `base` and `machine`."""
    given = dict(document.get("settings", {}))
    found: list[Any] = []
    for default in (base or Layer(), machine or Machine()):
        names = [field.name for field in fields(default)]
        values = {name: getattr(default, name) for name in names}
        found.append(
            type(default)(**values | {name: given.pop(name) for name in names if name in given})
        )
    if given:
        raise ValueError(f"settings: expected names of options, got {', '.join(sorted(given))}")
    return found[0], found[1]


def compare(
    document: dict[str, Any], base: Layer | None = None, machine: Machine | None = None
) -> tuple[Plan, list[Comparison]]:
    """The plan for a measurement's settings, and each measured number beside the plan's.

    Args:
        document: what the JSON file of a measurement holds.
        base, machine: settings that the document leaves out; the defaults of `waybill plan`.

    Raises:
        ValueError: a document of another format, or with keys that the model does not know.
    """
    if document.get("waybill_plan") != FORMAT:
        raise ValueError(
            f"waybill_plan: expected {FORMAT}, the number of the format, "
            f"got {document.get('waybill_plan')}"
        )
    found = plan(*settings_of(document, base, machine))
    measured = dict(document.get("measured", {}))
    lines: list[Comparison] = []
    for operator in found.operators:
        lines += _compare_operator(operator, measured.pop(operator.name, {}))
    if measured:
        raise ValueError(f"measured: expected dispatch and combine, got {', '.join(measured)}")
    return found, lines


def _compare_operator(operator: OperatorPlan, measured: dict[str, Any]) -> Iterator[Comparison]:
    if unknown := set(measured) - {"bytes", "us"}:
        raise ValueError(f"{operator.name}: expected bytes and us, got {', '.join(unknown)}")
    for entry in measured.get("bytes", []):
        source, target = entry.get("from"), entry.get("to")
        what, model = _link(operator, source, target)
        yield Comparison(operator.name, what, "bytes", model, float(entry["bytes"]))
    times = {phase.name: phase.us for phase in operator.phases} | {"total": operator.us}
    for name, us in measured.get("us", {}).items():
        if name not in times:
            raise ValueError(f"{operator.name}: expected some of {', '.join(times)}, got {name}")
        yield Comparison(operator.name, name, "us", times[name], float(us))


def _link(operator: OperatorPlan, source: int | None, target: int | None) -> tuple[str, float]:
    """The bytes from one host to another; from or to all others where one is None."""
    hosts = range(len(operator.links.total))
    for host in (source, target):
        if host is not None and host not in hosts:
            raise ValueError(f"bytes: expected hosts 0 to {len(hosts) - 1}, got {host}")
    if source is not None and target is not None:
        return f"host {source} to {target}", float(operator.links.total[source, target])
    if source is not None:
        return f"host {source} sends", float(operator.sent()[source])
    if target is not None:
        return f"host {target} receives", float(operator.received()[target])
    return "all links", float(operator.links.total.sum())
