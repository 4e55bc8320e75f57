"""Results as tables: for the terminal, and as Markdown from the files of both programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..workload.grid import Grid, shown_number, shown_ratio
from ..workload.settings import Case, base_case

OWN = ("waybill", "operators")
"""Names of the library's own method: of the C++ program and of this one."""
PHASES = ("dispatch", "combine", "both")
CASE_KEYS = tuple(Case.__dataclass_fields__)
ALWAYS = ("ranks", "bs")
TIMES_OF_CALL = ("us", "in_call_us", "overhead_us", "least_overhead_us")
SHORT = {"bs": "BS", "hidden": "H", "topk": "K", "experts_per_rank": "experts a rank"}


def own_method(records: Iterable[dict[str, Any]]) -> str | None:
    names = {record["method"] for record in records}
    return next((name for name in OWN if name in names), None)


def in_order(records: Sequence[dict[str, Any]]) -> list[str]:
    """Methods, the library's own first, the others as they come."""
    names = dict.fromkeys(record["method"] for record in records)
    return sorted(names, key=lambda name: name not in OWN)


def case_of(record: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(record.get(key) for key in CASE_KEYS)


def shown_spread(ratio: dict[str, float]) -> str:
    ends = (f"{ratio[key]:.{0 if ratio[key] >= 10 else 1}f}" for key in ("p10", "p90"))
    return f"{shown_ratio(ratio['median'])}\n{'-'.join(ends)}"


def _case_columns(records: Sequence[dict[str, Any]]) -> list[str]:
    """Settings that differ between records, ranks and bs in any case."""
    return [
        key
        for key in CASE_KEYS
        if key in ALWAYS or len({str(record.get(key)) for record in records}) > 1
    ]


def _rows(records: Sequence[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, dict[str, Any]]]:
    """By phase and case: the record of each method."""
    rows: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for phase in PHASES:
        for record in records:
            if record["phase"] == phase:
                rows.setdefault((phase, *case_of(record)), {})[record["method"]] = record
    return rows


def times(records: Sequence[dict[str, Any]]) -> Grid:
    """Median times."""
    columns, methods = _case_columns(records), in_order(records)
    rows = []
    for (phase, *_), found in _rows(records).items():
        first = next(iter(found.values()))
        cells = [phase, *(str(first.get(key)) for key in columns)]
        for name in methods:
            cells.append(shown_number(found[name]["us"]["median"]) if name in found else "")
        rows.append(cells)
    header = ["phase", *(SHORT.get(key, key) for key in columns), *methods]
    return Grid("Microseconds of all ranks, median", header, rows)


def ratios(records: Sequence[dict[str, Any]]) -> Grid | None:
    """How many times longer than the library's own each other method took, with the spread."""
    own = own_method(records)
    others = [name for name in in_order(records) if name != own]
    if own is None or not others:
        return None
    columns = _case_columns(records)
    rows = []
    for (phase, *_), found in _rows(records).items():
        if own not in found or not found[own]["ratio"]:
            continue
        cells = [phase, *(str(found[own].get(key)) for key in columns)]
        for name in others:
            ratio = found[own]["ratio"].get(name)
            cells.append(shown_spread(ratio) if ratio else "")
        rows.append(cells)
    header = ["phase", *(SHORT.get(key, key) for key in columns), *others]
    return Grid(f"Time of the others / time of {own}, median of rounds, p10-p90", header, rows)


def details(records: Sequence[dict[str, Any]]) -> Grid:
    """Percentiles, the slowest rank and the rate."""
    columns = _case_columns(records)
    rows = []
    for (phase, *_), found in _rows(records).items():
        for name, record in found.items():
            us = record["us"]
            rows.append(
                [
                    phase,
                    *(str(record.get(key)) for key in columns),
                    name,
                    *(shown_number(us[key]) for key in ("min", "median", "p90", "p99")),
                    str(record["slowest_rank"]),
                    f"{record['gb_per_s']:.1f}",
                ]
            )
    header = ["phase", *(SHORT.get(key, key) for key in columns), "method"]
    header += ["min us", "median us", "p90 us", "p99 us", "slowest rank", "GB/s"]
    return Grid("Percentiles", header, rows)


def overhead(entries: Sequence[dict[str, Any]]) -> Grid:
    """What PyTorch adds, by the way an operator is called."""
    rows = [
        [
            entry["operator"],
            entry["entry"],
            *(str(entry[key]) for key in ("ranks", "bs")),
            *(f"{entry[key]:.1f}" for key in TIMES_OF_CALL),
        ]
        for entry in entries
    ]
    header = ["operator", "called as", "ranks", "BS", "all", "in the library", "added", "least"]
    return Grid("What PyTorch adds to a call, microseconds", header, rows)


LEVELS = ("scalar", "avx2", "avx512", "avx512_bf16", "avx512_fp16", "neon")


def stages(document: dict[str, Any]) -> Grid:
    """A file of waybill-stages: a stage a line, the sets of kernels beside each other."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for run in document.get("benchmarks", []):
        if run.get("run_type", "iteration") == "iteration":
            stage, _, level = run["name"].rpartition("/")
            place = (stage, level) if level in LEVELS else (run["name"], "")
            found.setdefault(place[0], {})[place[1]] = run
    levels = [level for level in LEVELS if any(level in runs for runs in found.values())]
    rows = []
    for stage, runs in found.items():
        fastest = min(runs.values(), key=lambda run: float(run["cpu_time"]))
        times = [f"{runs[name]['cpu_time']:.4g}" if name in runs else "" for name in levels]
        rows.append(
            [
                stage,
                f"{fastest['cpu_time']:.4g}",
                f"{fastest['GB']:.1f}" if "GB" in fastest else "",
                f"{fastest['of_ceiling']:.2f}" if "of_ceiling" in fastest else "",
                *times,
            ]
        )
    header = ["stage", "fastest ns", "GB/s", "of its ceiling", *levels]
    return Grid("Stages on one core, nanoseconds", header, rows)


def _machine_line(machine: dict[str, Any]) -> str:
    sizes = {"l2_bytes": "L2", "l3_bytes": "L3", "memory_bytes": "memory"}
    parts = [f"{machine.get('model')}, {machine.get('cores')} cores"]
    for key, name in sizes.items():
        if machine.get(key):
            parts.append(f"{name} {machine[key] / 2**20:.0f} MiB")
    for key in ("simd", "kernel", "compiler", "torch", "waybill"):
        if machine.get(key):
            parts.append(f"{key} {machine[key]}")
    return "; ".join(parts)


def markdown(title: str, document: dict[str, Any]) -> str:
    """A section for one file: of this program, of the C++ one, or of Google Benchmark."""
    parts = [f"## {title}\n"]
    if "benchmarks" in document:
        return "\n".join([*parts, stages(document).markdown()])
    if document.get("machine"):
        parts.append(_machine_line(document["machine"]) + ".\n")
    records = document.get("records", [])
    if records:
        base = base_case(records)
        common = ", ".join(
            f"{SHORT.get(key, key)} {value}"
            for key, value in base.items()
            if key not in _case_columns(records)
        )
        settings = document.get("settings", {})
        counts = {record["rounds"] for record in records if "rounds" in record}
        rounds = f"{min(counts)} to {max(counts)}" if counts else settings.get("rounds")
        parts.append(
            f"{rounds} rounds after {settings.get('warm_up')} to warm up, ranks as "
            f"{settings.get('launch')}{', pinned' if settings.get('pinned') else ''}; {common}.\n"
        )
        for grid in (times(records), ratios(records)):
            if grid is not None:
                parts += [f"### {grid.title}\n", grid.markdown()]
    if document.get("overhead"):
        grid = overhead(document["overhead"])
        parts += [f"### {grid.title}\n", grid.markdown()]
    return "\n".join(parts)
