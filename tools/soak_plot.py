"""Memory, descriptors and calls of tools/soak.py over time, and their plot."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

COLOURS = {
    "kill": "tab:red",
    "restart": "tab:purple",
    "stop": "tab:orange",
    "short stop": "tab:green",
}


@dataclass(frozen=True)
class Sample:
    """One moment. Mappings are by rank; ranks that had just ended are not in them."""

    at: float  # seconds
    calls: int  # so far, of all ranks
    memory: dict[int, float]  # proportional set size, bytes
    shared: dict[int, float]  # of that, shared memory: windows and pools
    descriptors: dict[int, int]

    @classmethod
    def take(cls, at: float, pids: Mapping[int, int], calls: int) -> Sample:
        sample = cls(at, calls, {}, {}, {})
        for rank, pid in pids.items():
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
                descriptors = len(os.listdir(f"/proc/{pid}/fd"))
            except OSError:
                continue
            sizes = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines}
            if sizes:
                sample.memory[rank] = sizes["Pss"]
                sample.shared[rank] = sizes["Pss_Shmem"]
                sample.descriptors[rank] = descriptors
        return sample


def save_plot(samples: Sequence[Sample], faults: Sequence[tuple[float, str]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 1, figsize=(11, 9), sharex=True)
    times = [sample.at for sample in samples]
    for rank in sorted({rank for sample in samples for rank in sample.memory}):
        own = [sample for sample in samples if rank in sample.memory]
        at = [sample.at for sample in own]
        axes[0].plot(at, [s.memory[rank] / 2**20 for s in own], lw=0.8, label=f"rank {rank}")
        axes[1].plot(at, [s.descriptors[rank] for s in own], lw=0.8)
    axes[0].plot(
        times,
        [sum(sample.shared.values()) / 2**20 for sample in samples],
        "k",
        label="windows and pools of all",
    )
    axes[0].set_ylabel("proportional set size, MiB")
    axes[0].legend(ncols=3, fontsize="small", loc="lower left")  # "best" takes long
    axes[1].set_ylabel("descriptors of each rank")
    rates = [
        (after.calls - before.calls) / (after.at - before.at)
        for before, after in itertools.pairwise(samples)
    ]
    axes[2].plot(times[1:], rates, lw=0.8)
    axes[2].set_ylabel("calls a second, all ranks")
    axes[2].set_xlabel("seconds")
    for at, kind in faults:
        for axis in axes:
            axis.axvline(at, color=COLOURS[kind], lw=0.4, alpha=0.6)
    for axis in axes:
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].set_title("Faults: " + ", ".join(f"{kind} {c[4:]}" for kind, c in COLOURS.items()))
    figure.tight_layout()
    figure.savefig(path, dpi=110)
