"""What the demo shows: the text as it is written, then checks, tables and the heat map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from distributed import Recorded
from prompts import MAX_PROMPT
from rich.box import SIMPLE
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text
from torch import Tensor

from waybill import reference

EXPERTS = 16
SHADES = "·░▒▓█"
SHOWN_LINES = 4


class Screen:
    """Text of all ranks while it grows, and a progress line."""

    def __init__(self, ranks: int, new_tokens: int) -> None:
        self.texts = [b""] * ranks
        self.progress = Progress(
            TextColumn("writing"), BarColumn(), MofNCompleteColumn(), TextColumn("bytes")
        )
        self.task = self.progress.add_task("bytes", total=ranks * new_tokens)
        self.console = Console()
        self.live = Live(console=self.console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Screen:
        self.live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.update(Group(*self._panels(whole=True)))
        self.live.__exit__(*error)
        if self.console.is_terminal or error[0] is None:
            self.console.print(*self._panels(whole=True))

    def show(self, rank: int, text: bytes) -> None:
        self.texts[rank] = text
        self.progress.advance(self.task)
        self.live.update(Group(*self._panels(whole=False), self.progress))

    def _panels(self, whole: bool) -> list[Panel]:
        panels = []
        for rank, text in enumerate(self.texts):
            lines = text.decode(errors="replace").splitlines() or [""]
            shown = lines if whole else lines[-SHOWN_LINES:]
            panels.append(Panel(Text("\n".join(shown)), title=f"rank {rank}", title_align="left"))
        return panels


class Report:
    """Checks of a finished run. `results` holds what each rank sent at its end."""

    def __init__(self, mode: Any, results: list[Any]) -> None:
        self.ranks = mode.ranks
        self.lost = mode.lost
        self.hosts = mode.hosts
        self.results = results
        self.console = Console()
        self.failures = 0

    def check(self, good: bool, text: str) -> None:
        self.failures += 0 if good else 1
        mark = "[green]✓[/green]" if good else "[red]✗[/red]"
        self.console.print(f"{mark} {text}")

    def note(self, text: str) -> None:
        self.console.print(f"  {text}")

    def seconds(self, seconds: float) -> None:
        where = f" on {self.hosts} hosts" if self.hosts > 1 else ""
        self.note(f"{self.ranks} processes{where}, {seconds:.1f} s with their start")

    def text(self, texts: list[bytes], single: list[bytes]) -> None:
        total = sum(map(len, texts))
        same = texts == single
        who = f"{total} tokens of {self.ranks} ranks"
        self.check(same, f"text of one process, token for token: {who}")

    def oracle(self) -> None:
        """Recorded inputs through waybill.reference."""
        calls = len(self.results[0][0])
        wrong = [
            number
            for number in range(calls)
            if not equals_oracle([result[0][number] for result in self.results], self.ranks)
        ]
        self.check(not wrong, f"dispatch and combine equal the oracle bit for bit: {calls} calls")

    def traffic(self) -> None:
        """Rows by pair of ranks, as waybill.stats counted them, beside the recorded routing."""
        self.console.print("rows that each rank got in dispatch, by the rank they came from:")
        table = Table("", *map(str, range(self.ranks)), "bytes", box=SIMPLE)
        agree = True
        for rank, result in enumerate(self.results):
            dispatch = result[2]["dispatch"]
            rows = dispatch["rows_received"]
            agree = agree and rows == [other[3][rank] for other in self.results]
            back = result[2]["combine"]["rows_sent"]
            agree = agree and back == rows
            cells = map(str, rows)
            table.add_row(f"rank {rank}", *cells, f"{sum(dispatch['bytes_received']):,}")
        self.console.print(table)
        self.check(agree, "rows that stats counted agree with the routing, both ways")
        in_place = all(
            result[2]["rows_in_place"] == sum(result[2]["combine"]["rows_sent"])
            for result in self.results
        )
        self.check(in_place, "every row of combine was published without a copy")

    def times(self) -> None:
        table = Table("layer", "waybill us", "gloo us", "gloo / waybill", box=SIMPLE)
        times = self.results[0][4]
        for layer in sorted({layer for layer, _ in times}):
            own, gloo = times[layer, "waybill"], times[layer, "gloo"]
            table.add_row(str(layer), f"{own:.0f}", f"{gloo:.0f}", f"{gloo / own:.1f}x")
        self.console.print("dispatch + combine of the prompts, median, slowest rank:", table)

    def heat_map(self) -> None:
        self.console.print("rows by layer and expert, from least to most loaded:")
        for layer, counts in enumerate(expert_load(self.results).tolist()):
            least, most = min(counts), max(counts)
            steps = [(count - least) / max(most - least, 1) for count in counts]
            blocks = " ".join(SHADES[round(step * (len(SHADES) - 1))] * 2 for step in steps)
            self.console.print(f"  layer {layer}  {blocks}  {least}..{most}", highlight=False)

    def finish(self) -> int:
        failed = f"{self.failures} checks failed"
        self.console.print(failed if self.failures else "all checks passed")
        return 1 if self.failures else 0


def bits_equal(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(
        one.view(torch.int16) if one.dtype == torch.bfloat16 else one,
        other.view(torch.int16) if other.dtype == torch.bfloat16 else other,
    )


def equals_oracle(calls: list[Recorded], ranks: int) -> bool:
    """One call of all ranks: what dispatch and combine gave is what the oracle gives."""
    common = {
        "ep_world_size": ranks,
        "moe_expert_num": len(calls[0].counts),  # E*L
        "global_bs": ranks * MAX_PROMPT,
    }
    sent = reference.npu_moe_distribute_dispatch_v2(
        [call.x for call in calls], [call.expert_ids for call in calls], **common
    )
    returned = []
    for call, want in zip(calls, sent, strict=True):
        count = len(call.expand_x)
        if not bits_equal(call.expand_x, want.expand_x[:count]):
            return False
        if call.assist is not None and not bits_equal(
            call.assist, want.assist_info_for_combine[: 3 * count]
        ):
            return False
        if not bits_equal(call.counts, want.ep_recv_counts):
            return False
        rows = want.expand_x.clone()
        rows[:count] = call.expert_rows
        returned.append(rows)
    sums = reference.npu_moe_distribute_combine_v2(
        returned,
        [call.expert_ids for call in calls],
        [want.assist_info_for_combine for want in sent],
        [want.ep_recv_counts for want in sent],
        [call.expert_scales for call in calls],
        shared_expert_x=[call.shared for call in calls],
        **common,
    )
    return all(bits_equal(call.y, want) for call, want in zip(calls, sums, strict=True))


def expert_load(results: list[Any]) -> Tensor:
    """Rows that each expert of each layer got, (layers, experts)."""
    layers = 1 + max(layer for layer, _ in results[0][1])
    load = torch.zeros((layers, EXPERTS), dtype=torch.long)
    for result in results:
        for layer, ids in result[1]:
            load[layer] += torch.bincount(ids.flatten().long(), minlength=EXPERTS)
    return load


def save_heat_map(results: list[Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    load = expert_load(results)
    figure, axes = pyplot.subplots(figsize=(9, 3))
    image = axes.imshow(load, aspect="auto", cmap="viridis")
    axes.set(xlabel="expert", ylabel="layer", title="Rows by expert and layer")
    axes.set_xticks(range(EXPERTS))
    axes.set_yticks(range(len(load)))
    figure.colorbar(image, label="rows")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def save_routing(results: list[Any], path: Path) -> None:
    """expert_ids of every call: "<rank>.<call>" (BS, K) int32, calls in the order of layers."""
    from safetensors.torch import save_file

    tensors = {
        f"{rank}.{number:04d}": ids.contiguous()
        for rank, result in enumerate(results)
        for number, (_, ids) in enumerate(result[1])
    }
    metadata = {"ranks": str(len(results)), "experts": str(EXPERTS), "layers": "4"}
    save_file(tensors, path, metadata)
