"""Prints the folder of the torch package, also from pip's isolated build environment."""

import importlib.util
import sys
import sysconfig
from pathlib import Path


def candidates() -> list[Path]:
    spec = importlib.util.find_spec("torch")
    found = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    # An isolated build hides the packages of the environment it builds for, not their place.
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return found + [Path(place) / "torch" for place in sorted(installed)]


for folder in candidates():
    if (folder / "include" / "torch" / "csrc" / "stable" / "library.h").exists():
        print(folder)
        sys.exit(0)
sys.exit("torch >= 2.11 was not found: install it in this environment, or set WAYBILL_TORCH_DIR")
