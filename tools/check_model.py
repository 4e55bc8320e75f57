"""Checks the models of the protocol in tests/model with spin, and their names against the C++ code.

Each configuration is a model with some parameters; spin turns it into a C program that visits every
state. Then deliberate defects are switched on one by one: a property that still holds without the
rule that it stands for would be no check at all, so each has to be caught. Everything happens in a
temporary folder. The quick run has the smaller bounds and some of the defects, --full has all.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import model_names
from model_configurations import CONFIGURATIONS, Configuration

MODELS = Path(__file__).resolve().parent.parent / "tests" / "model"
MEMORY_MB = 3800
SAMPLE_SECONDS = 40


@dataclass
class Outcome:
    """What pan said: `result` is "holds", "violated: why", "unfinished: why" or "error: why"."""

    result: str
    states: int = 0
    depth: int = 0
    seconds: float = 0.0


def verify(configuration: Configuration, limit: float) -> Outcome:
    """Visits the states of one configuration until a property fails or none is left."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="waybill-model-") as name:
        folder = Path(name)
        for model in MODELS.glob("*.pml"):
            shutil.copy(model, folder)
        defines = [f"-D{name}" for name in configuration.defines.split()]
        spin = run(["spin", "-a", *defines, configuration.model], folder, limit)
        if spin.returncode != 0 or re.search(r"\bError\b", spin.stdout):
            return Outcome(f"error: spin: {spin.stdout.strip()[:300]}")
        # Where few states are to be expected gcc takes longer than they do.
        level = "-O0" if configuration.defect else "-O2" if configuration.full else "-O1"
        flags = [level, "-w", "-DSAFETY", f"-DMEMLIM={MEMORY_MB}"]
        flags += ["-DBITSTATE"] if configuration.sampled else []
        flags += ["-DHC4"] if configuration.compact else []
        gcc = run(["gcc", *flags, "-o", "pan", "pan.c"], folder, limit)
        if gcc.returncode != 0:
            return Outcome(f"error: gcc: {gcc.stdout.strip()[:300]}")
        # Deadlocks are found by the watchdogs of the models: -E. Ranks that died do not go on.
        hash_bits = "-w31" if configuration.sampled else "-w25" if configuration.full else "-w22"
        seconds = SAMPLE_SECONDS if configuration.sampled else limit
        try:
            pan = run(["./pan", "-E", "-m200000", hash_bits], folder, seconds)
        except subprocess.TimeoutExpired:
            result = "sampled: nothing found" if configuration.sampled else "unfinished: time"
            return Outcome(result, seconds=time.monotonic() - begin)
    return read_output(pan.stdout, time.monotonic() - begin)


def run(command: list[str], folder: Path, limit: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit,
        check=False,
    )


def read_output(output: str, seconds: float) -> Outcome:
    def number(pattern: str) -> int:
        found = re.search(pattern, output)
        return int(float(found.group(1))) if found else 0

    outcome = Outcome("holds", seconds=seconds)
    outcome.states = number(r"([\d.e+]+) states, stored")
    outcome.depth = number(r"depth reached (\d+)")
    errors = re.search(r"errors: (\d+)", output)
    violated = re.search(r"pan:\d+: (.*?) \(at depth", output)
    if violated:
        outcome.result = f"violated: {violated.group(1)}"
    elif "MEMLIM" in output or "out of memory" in output:
        outcome.result = "unfinished: memory"
    elif "max search depth too small" in output:
        outcome.result = "unfinished: depth"
    elif errors is None or errors.group(1) != "0" or outcome.states == 0:
        outcome.result = f"error: {output.strip()[-300:]}"
    return outcome


def judge(configuration: Configuration, outcome: Outcome) -> tuple[bool, str]:
    """Whether the outcome is the expected one, and a word for the table."""
    kind = outcome.result.split(":")[0]
    if configuration.defect is None:
        return kind in ("holds", "sampled"), outcome.result
    if kind == "violated":
        return True, f"caught by {configuration.property_of(outcome.result)}"
    return False, f"NOT CAUGHT ({outcome.result})"


def check_names() -> bool:
    drifted, notes = model_names.check()
    for note in notes:
        print("note:", note)
    for line in drifted:
        print("drifted:", line)
    print(f"names: {len(drifted)} differences between the models and the code")
    return not drifted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="bigger bounds and all defects")
    parser.add_argument("--only", help="configurations whose name contains this")
    parser.add_argument("--limit", type=float, default=300, help="seconds for one step of one")
    arguments = parser.parse_args()
    failed = 0 if check_names() else 1
    passed = 1 - failed
    if shutil.which("spin") is None or shutil.which("gcc") is None:
        print("model: spin or gcc is not installed")
        return 1
    begin = time.monotonic()
    print(f"{'configuration':<50}{'states':>10}{'depth':>7}{'seconds':>9}  result")
    for configuration in CONFIGURATIONS:
        if configuration.full and not arguments.full:
            continue
        if arguments.only and arguments.only not in configuration.name:
            continue
        outcome = verify(configuration, arguments.limit)
        good, result = judge(configuration, outcome)
        passed += good
        failed += not good
        print(
            f"{configuration.name:<50}{outcome.states:>10}{outcome.depth:>7}"
            f"{outcome.seconds:>9.1f}  {'' if good else 'FAILED: '}{result}",
            flush=True,
        )
        if not good:
            print(f"    spin {' '.join('-D' + d for d in configuration.defines.split())}")
    print(f"model: {passed} passed, {failed} failed, {time.monotonic() - begin:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
