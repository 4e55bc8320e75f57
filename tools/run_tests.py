"""Runs the tests of the repository; ends with what failed, where time went, and the counts.

`make test` has these steps:
    lint     formatters, linters, order of rooms, pages that tools make
    cpp      the release build with g++ and its tests
    install  the installed C++ package, used from outside
    python   pytest
    model    the protocol's models, with spin
`make sanitize`:
    asan     C++ tests under the address and undefined-behaviour sanitizers
    tsan     C++ tests of rooms with threads under the thread sanitizer
With --full all of these, all cases of the long sweeps, every room under the thread sanitizer, and:
    fuzz     the fuzz targets, built with clang 14, for a minute
    tidy     clang-tidy
    clang    the C++ tests built with clang 14
    aarch64  everything cross-compiled, and the tests without processes under qemu-user
    coverage lines of src/ that no C++ test runs, errors that none produces
A step whose tools are missing is skipped with a line; with CI set that is a failure.

A run leaves what it found in build/results/NAME.json; --sum NAME,... ends with several of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "build" / "results"
BIN = Path(sys.executable).parent
STEP_SECONDS = 3600
NUM_SLOWEST = 15
THREADED = ("engine", "processes", "schedules", "transport", "window")
"""Rooms whose tests have threads."""
ALL_SCHEDULES = 20000
ALL_STOPS = 200
USUAL = ("lint", "cpp", "install", "python", "model")
"""Steps of `make test`; those of `make sanitize` and of --full are named by what calls this."""
FUZZ_SECONDS = 60
EMULATED = ("base", "numerics", "contract", "routing", "window", "transport", "engine")
"""Rooms whose tests run under qemu-user. Ranks as processes that are killed do not work there."""
NOT_EMULATED = "Sweep.TwoThousandCases*:Repeats.*:Outputs.*:Warm.*"
"""Tests that take minutes there, or that count page faults: the emulator has its own."""


@dataclass
class Counts:
    """What a step ran, or several."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    notes: list[str] = field(default_factory=list)
    """What failed or was skipped, by name."""
    steps: dict[str, float] = field(default_factory=dict)
    """Seconds of each step."""
    files: dict[str, float] = field(default_factory=dict)
    """Seconds of each test file or program."""

    def add(self, other: Counts) -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        self.notes += other.notes
        self.steps |= other.steps
        self.files |= other.files


def run(command: list[str], env: dict[str, str] | None = None) -> tuple[int, str]:
    """Runs a command from the root, shows its output and returns it."""
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **(env or {})}
    shown = command if len(command) <= 30 else [*command[:4], "..."]
    print("+", " ".join(shown), flush=True)
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
    counts.add(check("references", [sys.executable, "tools/check_references.py"]))
    if importlib.util.find_spec("torch"):
        for page in ("parameter_table", "parameter_page", "signature_blocks"):
            counts.add(check(page, [sys.executable, f"tools/{page}.py", "--check"]))
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
    begin = time.monotonic()
    if not configure(preset) or run(["cmake", "--build", "--preset", preset, *targets])[0] != 0:
        return Counts(failed=1, notes=[f"{preset}: does not build"])
    built = {f"{preset}: build": time.monotonic() - begin}
    chosen = ["--tests-regex", f"^({'|'.join(rooms)})$"] if rooms else []
    # Two at a time: much of the tests of processes is waiting.
    code, output = run(["ctest", "--preset", preset, "--verbose", "--parallel", "2", *chosen], env)
    counts = counted(output, preset)
    counts.passed += len(re.findall(r"Test +#\d+: example_\S+ \.+ +Passed", output))
    times = re.findall(r"Test +#\d+: (\S+) \.+.*? ([\d.]+) sec", output)
    counts.files = built | {f"{preset}: {program}": float(seconds) for program, seconds in times}
    if code != 0:
        # A program that crashes or hangs names no case.
        ended = re.findall(r"(?m)^\s+\d+ - (\S+) \((\w+)\)", output)
        counts.failed = max(counts.failed, len(ended), 1)
        counts.notes += [f"{preset}: {program} ({how})" for program, how in ended]
        counts.notes += [] if counts.notes else [f"{preset}: ctest"]
    return counts


def counted(output: str, where: str) -> Counts:
    """GoogleTest's cases, and the names of those that failed."""
    names = dict.fromkeys(re.findall(r"\[  FAILED  \] (\S+?)(?:,.*)? \(\d+ ms\)", output))
    return Counts(
        passed=sum(int(n) for n in re.findall(r"\[  PASSED  \] (\d+) tests?", output)),
        failed=sum(int(n) for n in re.findall(r"\[  FAILED  \] (\d+) tests?, listed", output)),
        notes=[f"{where}: {name}" for name in names],
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
        found = counted(output, f"aarch64 {room}")
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
    report = ROOT / "build" / "pytest.xml"
    report.unlink(missing_ok=True)
    options = ["-q", "-rfE", f"--junitxml={report}", "-o", "junit_family=xunit1"]
    if importlib.util.find_spec("xdist"):
        # Two at a time: much of the tests is waiting. A file's tests share what one of them made.
        options += ["--numprocesses", "2", "--dist", "loadfile"]
    code, output = run([sys.executable, "-m", "pytest", *options, "tests/python"], env)
    found = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|error)", output)}
    counts = Counts(
        passed=found.get("passed", 0),
        failed=found.get("failed", 0) + found.get("error", 0),
        skipped=found.get("skipped", 0),
        notes=re.findall(r"(?m)^(?:FAILED|ERROR) (tests/.+?)(?: - .*)?$", output),
        files=seconds_by_file(report),
    )
    if code != 0:
        counts.failed = max(counts.failed, 1)
        counts.notes += [] if counts.notes else [f"pytest ended with {code}"]
    return counts


def seconds_by_file(report: Path) -> dict[str, float]:
    """Of pytest's report; empty when there is none."""
    seconds: dict[str, float] = defaultdict(float)
    if report.exists():
        for case in ElementTree.parse(report).iter("testcase"):
            seconds[case.get("file") or "tests/python"] += float(case.get("time") or 0)
    return dict(seconds)


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


def run_steps(chosen: Sequence[str], full: bool) -> Counts:
    steps: dict[str, Callable[[], Counts]] = {
        "lint": lint,
        "cpp": lambda: cpp("release", {"WAYBILL_STOPS": str(ALL_STOPS)} if full else None),
        "install": installed,
        "python": lambda: python_tests(full),
        "model": lambda: model(full),
        "asan": lambda: sanitized("asan", full),
        "tsan": lambda: sanitized("tsan", full),
        "fuzz": fuzz,
        "tidy": tidy,
        "clang": lambda: cpp("clang"),
        "aarch64": aarch64,
        "coverage": coverage,
    }
    usual = [name for name in steps if full or name in USUAL]
    total = Counts()
    for name in chosen or usual:
        print(f"\n=== {name} ===", flush=True)
        begin = time.monotonic()
        counts = steps[name]()
        seconds = counts.steps[name] = time.monotonic() - begin
        print(
            f"=== {name}: {counts.passed} passed, {counts.failed} failed, "
            f"{counts.skipped} skipped, {seconds:.0f} s ===",
            flush=True,
        )
        total.add(counts)
    return total


def read_results(name: str) -> Counts:
    """What a run left; one that left nothing has failed."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return Counts(failed=1, notes=[f"{name}: ended without results"])
    return Counts(**json.loads(path.read_text()))


def show(total: Counts) -> None:
    """The end of the output: where time went, what failed, and the counts in the last line."""
    print(f"\n=== seconds: {sum(total.steps.values()):.0f} ===")
    slowest = sorted(total.files.items(), key=lambda item: -item[1])[:NUM_SLOWEST]
    for times in (sorted(total.steps.items(), key=lambda item: -item[1]), slowest):
        for name, seconds in times:
            print(f"{seconds:7.1f} {name}")
        print()
    for note in total.notes:
        print("failed or skipped:", note)
    line = f"{total.passed} passed, {total.failed} failed"
    print(line + (f", {total.skipped} skipped" if total.skipped else ""))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="all steps, all cases of the sweeps")
    parser.add_argument("--only", default="", help="comma-separated steps")
    parser.add_argument("--name", default="test", help="of the file of results")
    parser.add_argument("--sum", default="", help="names of files of results: runs nothing")
    arguments = parser.parse_args()
    if arguments.sum:
        total = Counts()
        for name in arguments.sum.split(","):
            total.add(read_results(name))
    else:
        total = run_steps([step for step in arguments.only.split(",") if step], arguments.full)
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{arguments.name}.json").write_text(json.dumps(asdict(total), indent=1))
    show(total)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
