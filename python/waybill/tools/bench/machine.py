"""What is worth knowing about a machine beside its times; nothing that tells who owns it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from ... import __version__, _library


def describe() -> dict[str, Any]:
    return {
        "model": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "l2_bytes": _cache_bytes(2),
        "l3_bytes": _cache_bytes(3),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "simd": str(_library.machine()["simd"]),
        "waybill": __version__,
        "torch": torch.__version__,
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _cache_bytes(level: int) -> int:
    """One cache of this level; 0 where the system does not say."""
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            if int((folder / "level").read_text()) == level:
                size = (folder / "size").read_text().strip()
                return int(size.removesuffix("K")) * 1024
        except (OSError, ValueError):
            continue
    return 0
