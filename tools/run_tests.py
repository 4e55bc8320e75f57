"""Runs every test of the repository and ends with the counts.

Steps: lint (formatters, linters, includes), cpp (release build with g++), install (the installed
package used from outside), python (pytest), model (the protocol's models, with spin), asan (C++
tests under the address and undefined-behaviour sanitizers), tsan (those of rooms with threads under
the thread sanitizer). With --full also fuzz (the fuzz targets, built with clang 14, for a minute),
tidy (clang-tidy), clang (the C++ tests built with clang 14), aarch64 (everything cross-compiled,
and the tests without processes under qemu-user) and coverage, all cases of the long sweeps, and
every room under the thread sanitizer. A step whose tools are missing is skipped with a line; with
CI set that is a failure.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
STEP_SECONDS = 3600
THREADED = ("engine", "processes", "schedules", "transport", "window")
"""Rooms whose tests have threads."""
ALL_SCHEDULES = 20000
LONG = ("fuzz", "tidy", "clang", "aarch64", "coverage")
"""Steps of --full only."""
FUZZ_SECONDS = 60
EMULATED = ("base", "numerics", "contract", "routing", "window", "transport", "engine")
"""Rooms whose tests run under qemu-user. Ranks as processes that are killed do not work there."""
NOT_EMULATED = "Sweep.TwoThousandCases*:Repeats.*:Outputs.*:Warm.*"
"""Tests that take minutes there, or that count page faults: the emulator has its own."""


@dataclass
class Counts:
    """What a step ran."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, other: Counts) -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        self.notes += other.notes


def run(command: list[str], env: dict[str, str] | None = None) -> tuple[int, str]:
    """Runs a command from the root, shows its output and returns it."""
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **(env or {})}
    print("+", " ".join(command), flush=True)
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    return process.wait(timeout=STEP_SECONDS), "".join(lines)


def check(name: str, command: list[str]) -> Counts:
    """One command that either passes or fails."""
    if shutil.which(command[0], path=f"{BIN}:{os.environ['PATH']}") is None:
        return missing(f"{name}: {command[0]} is not installed")
    code, _ = run(command)
    return Counts(passed=int(code == 0), failed=int(code != 0), notes=[name] if code else [])


def missing(note: str) -> Counts:
    print("skipped:", note, flush=True)
    if os.environ.get("CI"):
        return Counts(failed=1, notes=[note])
    return Counts(skipped=1, notes=[note])


def tracked(*patterns: str) -> list[str]:
    output = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [line for line in output.stdout.splitlines() if (ROOT / line).exists()]


def lint() -> Counts:
    counts = Counts()
    cpp = tracked("*.h", "*.cc")
    python = ["python", "tests", "examples", "bench", "tools"]
    counts.add(check("clang-format", ["clang-format-19", "--dry-run", "-Werror", *cpp]))
    counts.add(check("ruff format", ["ruff", "format", "--check", *python]))
    counts.add(check("ruff check", ["ruff", "check", *python]))
    counts.add(check("mypy", ["mypy"]))
    counts.add(check("rooms", [sys.executable, "tools/check_rooms.py"]))
    if importlib.util.find_spec("torch"):
        page = [sys.executable, "tools/parameter_table.py", "--check"]
        counts.add(check("parameters", page))
    return counts


def tidy() -> Counts:
    if not configure("release"):
        return Counts(failed=1, notes=["release: cannot be configured"])
    return check("clang-tidy", [sys.executable, "tools/run_clang_tidy.py"])


def configure(preset: str) -> bool:
    options = ["--log-level=WARNING"]
    torch = importlib.util.find_spec("torch")
    if preset in ("release", "clang") and torch and torch.submodule_search_locations:
        # The operators, too, are free of warnings.
        folder = torch.submodule_search_locations[0]
        options += ["-DWAYBILL_BUILD_TORCH=ON", f"-DWAYBILL_TORCH_DIR={folder}"]
    code, _ = run(["cmake", "--preset", preset, *options])
    return code == 0


def cpp(preset: str, env: dict[str, str] | None = None, rooms: Sequence[str] = ()) -> Counts:
    """Builds a preset and runs its tests; counts GoogleTest's cases and the examples.

    `rooms`: only the test programs of these.
    """
    if not Path("/usr/include/gtest/gtest.h").exists():
        return missing(f"{preset}: GoogleTest and rapidcheck are not installed")
    if preset == "clang" and shutil.which("clang++-14") is None:
        return missing("clang: clang++-14 is not installed")
    targets = ["--target", *(f"{room}_test" for room in rooms)] if rooms else []
    if not configure(preset) or run(["cmake", "--build", "--preset", preset, *targets])[0] != 0:
        return Counts(failed=1, notes=[f"{preset}: does not build"])
    chosen = ["--tests-regex", f"^({'|'.join(rooms)})$"] if rooms else []
    # Two at a time: much of the tests of processes is waiting.
    code, output = run(["ctest", "--preset", preset, "--verbose", "--parallel", "2", *chosen], env)
    counts = counted(output)
    counts.passed += len(re.findall(r"Test +#\d+: example_\S+ \.+ +Passed", output))
    if code != 0:
        counts.failed = max(counts.failed, 1)
        counts.notes.append(f"{preset}: ctest")
    return counts


def counted(output: str) -> Counts:
    """GoogleTest's cases."""
    return Counts(
        passed=sum(int(n) for n in re.findall(r"\[  PASSED  \] (\d+) tests?", output)),
        failed=sum(int(n) for n in re.findall(r"\[  FAILED  \] (\d+) tests?, listed", output)),
    )


def aarch64() -> Counts:
    tools = ("aarch64-linux-gnu-g++", "qemu-aarch64")
    libraries = Path("/usr/lib/aarch64-linux-gnu")
    if not all(map(shutil.which, tools)) or not (libraries / "librapidcheck.a").exists():
        return missing(
            f"aarch64: {' or '.join(tools)} is not installed, or not libgtest-dev:arm64 and "
            "librapidcheck-dev:arm64"
        )
    if not configure("aarch64") or run(["cmake", "--build", "--preset", "aarch64"])[0] != 0:
        return Counts(failed=1, notes=["aarch64: does not build"])
    counts = Counts()
    for room in EMULATED:
        program = f"build/aarch64/tests/cpp/{room}_test"
        command = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", program]
        code, output = run([*command, f"--gtest_filter=-{NOT_EMULATED}"])
        found = counted(output)
        if code != 0:
            found.failed = max(found.failed, 1)
            found.notes.append(f"aarch64: {room}")
        counts.add(found)
    return counts


def installed() -> Counts:
    """The installed C++ package, used from outside the tree."""
    if not configure("release") or run(["cmake", "--build", "--preset", "release"])[0] != 0:
        return Counts(failed=1, notes=["release: does not build"])
    counts = check("install", ["bash", "tests/install/run.sh"])
    if platform.machine() == "x86_64":
        counts.add(check("simd symbols", [sys.executable, "tools/check_simd_symbols.py"]))
    return counts


def fuzzer_header() -> Path:
    resources = subprocess.run(
        ["clang++-14", "-print-resource-dir"], capture_output=True, text=True, check=True
    )
    return Path(resources.stdout.strip()) / "include" / "fuzzer" / "FuzzedDataProvider.h"


def fuzz() -> Counts:
    """A target is a test."""
    if shutil.which("clang++-14") is None or not fuzzer_header().exists():
        return missing("fuzz: clang++-14 or its runtime (libclang-rt-14-dev) is not installed")
    if not configure("fuzz") or run(["cmake", "--build", "--preset", "fuzz"])[0] != 0:
        return Counts(failed=1, notes=["fuzz: does not build"])
    code, output = run([sys.executable, "tools/fuzz.py", "--seconds", str(FUZZ_SECONDS)])
    counts = Counts(
        passed=len(re.findall(r"(?m)^passed \w+:", output)),
        failed=len(re.findall(r"(?m)^failed \w+:", output)),
    )
    if code != 0:
        counts.failed = max(counts.failed, 1)
        counts.notes.append("fuzz")
    return counts


def sanitized(preset: str, full: bool) -> Counts:
    env = {
        "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1",
    }
    if full:
        env["WAYBILL_SCHEDULES"] = str(ALL_SCHEDULES)
    return cpp(preset, env, THREADED if preset == "tsan" and not full else ())


def python_tests(full: bool) -> Counts:
    env = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
    if full:
        env["WAYBILL_SWEEP"] = "full"
    code, output = run([sys.executable, "-m", "pytest", "-q", "tests/python"], env)
    found = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|error)", output)}
    counts = Counts(
        passed=found.get("passed", 0),
        failed=found.get("failed", 0) + found.get("error", 0),
        skipped=found.get("skipped", 0),
    )
    if code != 0:
        counts.failed = max(counts.failed, 1)
        counts.notes.append("pytest")
    return counts


def model(full: bool) -> Counts:
    """The models of the protocol: a test for each configuration, and one for their names."""
    if shutil.which("spin") is None:
        return missing("model: spin is not installed")
    command = [sys.executable, "tools/check_model.py", *(["--full"] if full else [])]
    code, output = run(command)
    found = re.search(r"model: (\d+) passed, (\d+) failed", output)
    counts = Counts(*(int(n) for n in found.groups())) if found else Counts()
    if code != 0:
        counts.failed = max(counts.failed, 1)
        counts.notes.append("model")
    return counts


def coverage() -> Counts:
    """One test for the lines, with its table, and for the errors of the contract."""
    if shutil.which("gcov") is None or not Path("/usr/include/gtest/gtest.h").exists():
        return missing("coverage: gcov, GoogleTest or rapidcheck is not installed")
    return check("coverage", [sys.executable, "tools/coverage.py", "--lines"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="all cases of the big sweeps")
    parser.add_argument("--only", help="comma-separated steps")
    arguments = parser.parse_args()
    steps: dict[str, Callable[[], Counts]] = {
        "lint": lint,
        "cpp": lambda: cpp("release"),
        "install": installed,
        "python": lambda: python_tests(arguments.full),
        "model": lambda: model(arguments.full),
        "asan": lambda: sanitized("asan", arguments.full),
        "tsan": lambda: sanitized("tsan", arguments.full),
        "fuzz": fuzz,
        "tidy": tidy,
        "clang": lambda: cpp("clang"),
        "aarch64": aarch64,
        "coverage": coverage,
    }
    usual = [name for name in steps if arguments.full or name not in LONG]
    chosen = arguments.only.split(",") if arguments.only else usual
    total = Counts()
    for name in chosen:
        print(f"\n=== {name} ===", flush=True)
        begin = time.monotonic()
        counts = steps[name]()
        print(
            f"=== {name}: {counts.passed} passed, {counts.failed} failed, "
            f"{counts.skipped} skipped, {time.monotonic() - begin:.0f} s ===",
            flush=True,
        )
        total.add(counts)
    for note in total.notes:
        print("note:", note)
    line = f"{total.passed} passed, {total.failed} failed"
    print(line + (f", {total.skipped} skipped" if total.skipped else ""))
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
