"""Plots of results, of this program and of waybill-bench."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ..workload.settings import base_case
from .tables import CASE_KEYS, OWN, in_order, own_method

Record = dict[str, Any]

# Okabe and Ito's colours, which people who see colours differently can tell apart; yellow is left
# out on white. A marker of its own for each, too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
KNOWN = {  # the same method looks the same in every plot, whichever program measured it
    "waybill": 0,
    "operators": 0,
    "gloo": 1,
    "openmpi": 1,
    "mpi": 1,
    "int8": 2,
    "private": 3,
    "checked": 5,
    "copy": 6,
    "lb2": 6,
}
LIMITS = ("copy", "lb2")
"""Copies of the same bytes: what memory allows."""
LABELS = {
    "bs": "tokens of a rank (BS)",
    "ranks": "ranks",
    "hidden": "elements of a row (H)",
    "topk": "experts of a token (K)",
    "experts_per_rank": "experts of a rank",
    "threads": "threads of a rank",
}
PHASES = ("dispatch", "combine")
STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.dpi": 110,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
}


def draw(name: str, document: dict[str, Any], folder: Path) -> list[Path]:
    """Writes `folder`/`name`-*.png, those for which the document has numbers; returns them."""
    records = document.get("records", [])
    if any(record["method"] == "lb2" for record in records):
        # It is the faster one of the two copies.
        records = [r for r in records if r["method"] not in ("copy", "copy-streaming")]
    if not records:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    makers: dict[str, Callable[[], Figure | None]] = {
        f"time-{axis.replace('_', '-')}": lambda a=axis: _times(records, a)  # type: ignore[misc]
        for axis in LABELS
    }
    makers["ratios"] = lambda: _ratios(records)
    makers["roofline"] = lambda: _roofline(records)
    written = []
    with pyplot.rc_context(STYLE):
        for suffix, make in makers.items():
            figure = make()
            if figure is None:
                continue
            path = folder / f"{name}-{suffix}.png"
            figure.savefig(path, bbox_inches="tight", metadata={"Software": None})
            pyplot.close(figure)
            written.append(path)
    return written


def _look(method: str, methods: Sequence[str]) -> dict[str, Any]:
    """Colour and marker of a method."""
    taken = {KNOWN[other] for other in methods if other in KNOWN}
    free = [number for number in range(len(COLOURS)) if number not in taken]
    strangers = [other for other in methods if other not in KNOWN]
    number = KNOWN.get(method)
    if number is None:
        number = free[strangers.index(method) % len(free)]
    line = "--" if method in LIMITS else "-"
    return {"color": COLOURS[number], "marker": MARKERS[number], "linestyle": line}


def _along(records: Sequence[Record], axis: str, fixed: dict[str, Any]) -> list[Record]:
    """Records that differ from `fixed` in `axis` only."""
    others = [key for key in CASE_KEYS if key != axis]
    return [
        record
        for record in records
        if all(record.get(key) == fixed.get(key) for key in others if key in record)
    ]


def _values(records: Sequence[Record], axis: str) -> list[Any]:
    return sorted({record[axis] for record in records if axis in record})


def _times(records: Sequence[Record], axis: str) -> Figure | None:
    """Time against one setting: a line a method, a column a phase, a row for each ranks."""
    base = base_case(records)
    rows = [base["ranks"]] if axis == "ranks" else _values(records, "ranks")
    if axis not in ("bs", "ranks"):
        rows = [base["ranks"]]
    chosen = {ranks: _along(records, axis, {**base, "ranks": ranks}) for ranks in rows}
    rows = [ranks for ranks in rows if len(_values(chosen[ranks], axis)) > 1]
    if not rows:
        return None
    methods = in_order(records)
    figure, axes = _grid(len(rows), len(PHASES))
    for ranks, line in zip(rows, axes, strict=True):
        for phase, panel in zip(PHASES, line, strict=True):
            part = [record for record in chosen[ranks] if record["phase"] == phase]
            _lines(panel, part, axis, methods)
            _log_log(panel, _values(part, axis))
            panel.set_xlabel(LABELS[axis])
            panel.set_title(phase if axis == "ranks" else f"{phase}, {ranks} ranks")
        line[0].set_ylabel("time of all ranks, median")
    fixed = {key: base[key] for key in ("ranks", "bs", "hidden", "topk") if key in base}
    if axis in ("bs", "ranks"):
        fixed.pop("ranks")
    fixed.pop(axis, None)
    _finish(figure, axes, _describe(fixed))
    return figure


def _lines(panel: Axes, records: Sequence[Record], axis: str, methods: Sequence[str]) -> None:
    for method in methods:
        points = sorted((r[axis], r["us"]["median"]) for r in records if r["method"] == method)
        if points:
            x, y = zip(*points, strict=True)
            panel.plot(x, y, label=method, **_look(method, methods))


def _ratios(records: Sequence[Record]) -> Figure | None:
    """How many times longer each method took than the library's own."""
    own = own_method(records)
    others = [method for method in in_order(records) if method not in OWN]
    if own is None or not others:
        return None
    base = base_case(records)
    cases = {
        (record["ranks"], record["bs"])
        for record in records
        if all(record.get(k) == base.get(k) for k in CASE_KEYS if k not in ("ranks", "bs"))
    }
    figure, axes = _grid(len(PHASES), 1, width=max(6.4, 1.6 + 0.32 * len(cases) * len(others)))
    for phase, (panel,) in zip(PHASES, axes, strict=True):
        found = {
            (record["ranks"], record["bs"]): record["ratio"]
            for record in records
            if record["method"] == own
            and record["phase"] == phase
            and all(record.get(k) == base.get(k) for k in CASE_KEYS if k not in ("ranks", "bs"))
        }
        here = [m for m in others if any(m in ratio for ratio in found.values())]
        width = 0.8 / max(len(here), 1)
        for number, method in enumerate(here):
            look = _look(method, in_order(records))
            for place, case in enumerate(sorted(found)):
                ratio = found[case].get(method)
                if ratio is None:
                    continue
                at = place - 0.4 + (number + 0.5) * width
                median = ratio["median"]
                spread = [[max(median - ratio["p10"], 0)], [max(ratio["p90"] - median, 0)]]
                panel.bar(
                    at, median - 1, width * 0.92, bottom=1, color=look["color"],
                    label=method if place == 0 else None, yerr=spread,
                    error_kw={"elinewidth": 0.8, "ecolor": "#444444"},
                )  # fmt: skip
        panel.axhline(1, color=COLOURS[0], linewidth=1.4)
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(FuncFormatter(_plain))
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.grid(axis="x", visible=False)
        panel.set_xticks(range(len(found)), [f"R{r}\nBS{b}" for r, b in sorted(found)])
        panel.set_title(phase)
        panel.set_ylabel(f"time / time of {own}")
    note = f"above the line at 1 {own} is faster; whiskers: p10 to p90 of rounds"
    _finish(figure, axes, note)
    return figure


def _roofline(records: Sequence[Record]) -> Figure | None:
    """Rate against the bytes that are moved, beside the rate of a copy."""
    methods = in_order(records)
    kept = [record for record in records if record["phase"] in PHASES]
    ranks = _values(kept, "ranks")
    base = base_case(kept)
    if len(_values(_along(kept, "bs", base), "bs")) < 2:
        return None
    figure, axes = _grid(len(ranks), len(PHASES), sharey=True)
    for count, line in zip(ranks, axes, strict=True):
        for phase, panel in zip(PHASES, line, strict=True):
            part = [
                record
                for record in _along(kept, "bs", {**base, "ranks": count})
                if record["phase"] == phase
            ]
            for method in methods:
                points = sorted((r["bytes"], r["gb_per_s"]) for r in part if r["method"] == method)
                if not points:
                    continue
                x, y = zip(*points, strict=True)
                panel.plot(x, y, label=method, **_look(method, methods))
                if method in LIMITS:
                    panel.fill_between(x, y, color="#000000", alpha=0.06, linewidth=0)
            panel.set_xscale("log")
            panel.set_yscale("log")
            panel.xaxis.set_major_formatter(FuncFormatter(_bytes))
            panel.yaxis.set_major_formatter(FuncFormatter(_plain))
            panel.yaxis.set_minor_formatter(NullFormatter())
            panel.set_xlabel("bytes of rows, all ranks")
            panel.set_title(f"{phase}, {count} ranks")
        line[0].set_ylabel("GB/s, all ranks")
    _finish(figure, axes, "grey: what one copy of the same bytes reaches")
    return figure


def _grid(
    rows: int, columns: int, width: float | None = None, sharey: bool = False
) -> tuple[Figure, Any]:
    figure, axes = pyplot.subplots(
        rows,
        columns,
        squeeze=False,
        figsize=(width or 4.6 * columns, 3.2 * rows),
        sharey=sharey,
        layout="constrained",
    )
    return figure, axes


def _log_log(panel: Axes, values: Sequence[float]) -> None:
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xticks(values, [str(value) for value in values])
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.minorticks_off()
    panel.yaxis.set_major_formatter(FuncFormatter(_time))


def _finish(figure: Figure, axes: Any, note: str) -> None:
    """One legend for all panels above them, and a line that says what is fixed."""
    found: dict[str, Any] = {}
    for panel in axes.flat:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(
        list(found.values()),
        list(found),
        loc="outside upper center",
        ncols=min(len(found), 7),
    )
    figure.supxlabel(note, fontsize=9, color="#444444")


def _describe(fixed: dict[str, Any]) -> str:
    names = {"ranks": "ranks", "bs": "BS", "hidden": "H", "topk": "K"}
    return ", ".join(f"{names[key]} = {value}" for key, value in fixed.items())


def _plain(value: float, _: int) -> str:
    return f"{value:g}" if value < 1e4 else f"{value:,.0f}"


def _time(value: float, _: int) -> str:
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g} us"


def _bytes(value: float, _: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g} B"
