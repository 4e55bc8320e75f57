"""Builds the wheel of the package and gives it the manylinux tag that its symbols allow.

    python tools/make_wheel.py [FOLDER]     # default: dist

`auditwheel repair` chooses the lowest tag: that of the newest symbol versions of the C and C++
libraries that the compiler here links to. torch's libraries stay outside: they come with the torch
that the program imports first. UCX is opened when it is there, and never linked.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = ("libtorch*.so*", "libc10*.so*")


def run(*words: str | Path) -> str:
    """A command of this environment, from the root; what it prints to stdout."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        list(map(str, words)),
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def build(folder: Path) -> Path:
    options = ("--quiet", "--no-build-isolation", "--no-deps")
    place = "--config-settings=build-dir=build/wheel"
    run(sys.executable, "-m", "pip", "wheel", *options, place, "-w", folder, ".")
    (wheel,) = folder.glob("*.whl")
    return wheel


def repair(wheel: Path, folder: Path) -> Path:
    """The same wheel with its tag, in the folder; nothing is put into it."""
    excluded = [word for name in TORCH for word in ("--exclude", name)]
    with tempfile.TemporaryDirectory() as place:
        run("auditwheel", "repair", "--plat", "auto", *excluded, "-w", place, wheel)
        (repaired,) = Path(place).glob("*.whl")
        kept = folder / repaired.name
        folder.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(repaired.read_bytes())
    return kept


def problems(wheel: Path) -> list[str]:
    """What `auditwheel show` has against the wheel's tag."""
    shown = json.loads(run("auditwheel", "show", "--json", wheel))
    tag, found = shown["sym_tag"], []
    if "manylinux" not in tag or tag not in wheel.name:
        found.append(f"{wheel.name}: its symbols allow {tag}")
    found += [
        f"{wheel.name}: needs {name}"
        for name in shown["external_libs"]
        if not name.startswith(("libtorch", "libc10"))
    ]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "dist")
    folder = parser.parse_args().folder.resolve()
    with tempfile.TemporaryDirectory() as place:
        wheel = repair(build(Path(place)), folder)
    found = problems(wheel)
    for problem in found:
        print("make_wheel:", problem, file=sys.stderr)
    if not found:
        print(wheel)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
