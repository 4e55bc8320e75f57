"""What is worth knowing about a machine beside its times; nothing that tells who owns it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from .. import __version__, _library


def describe() -> dict[str, Any]:
    return {
        "model": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "l2_bytes": _sysconf("SC_LEVEL2_CACHE_SIZE"),
        "l3_bytes": _sysconf("SC_LEVEL3_CACHE_SIZE"),
        "memory_bytes": _sysconf("SC_PAGE_SIZE") * _sysconf("SC_PHYS_PAGES"),
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


def _sysconf(name: str) -> int:
    """0 where the system does not know."""
    try:
        return max(os.sysconf(name), 0)
    except (ValueError, OSError):
        return 0
