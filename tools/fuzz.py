"""Runs the fuzz targets, two at a time, for a time in all.

Each target begins with its corpus and the inputs of bugs that were found (tests/fuzz/regressions),
then tries new inputs. A finding leaves its input in build/fuzz/findings and ends with code 1.
Build first: cmake --preset fuzz && cmake --build --preset fuzz.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "tests" / "fuzz"
BUILD = ROOT / "build" / "fuzz"
FINDINGS = BUILD / "findings"
TARGETS = sorted(path.stem.removeprefix("fuzz_") for path in SOURCES.glob("fuzz_*.cc"))
AT_A_TIME = 2
LIMITS = ["-max_len=600", "-len_control=0", "-timeout=10", "-malloc_limit_mb=256"]
# Few inputs that take all edges, not one for each number of times that an edge is taken.
MERGE = ["-set_cover_merge=1", "-use_counters=0"]
GRACE_SECONDS = 300  # for the corpus, and to end
LINES_OF_A_FINDING = 40


@dataclass
class Outcome:
    """What came of one target."""

    target: str
    code: int
    output: str

    def last(self, pattern: str) -> str:
        found = re.findall(pattern, self.output)
        return found[-1] if found else "?"

    def report(self) -> str:
        runs = self.last(r"number_of_executed_units: (\d+)")
        coverage = self.last(r"cov: (\d+)")
        line = f"{self.target}: {runs} inputs, coverage {coverage}"
        if self.code == 0:
            return f"passed {line}"
        text = "\n".join(self.output.splitlines()[-LINES_OF_A_FINDING:])
        return f"{text}\nfailed {line}\ninput: {self.input}"

    @property
    def input(self) -> str:
        """What it failed with: one that was replayed, or one that was found."""
        return self.last(r"(?m)^(?:Running: |.*Test unit written to )(\S+)")


def program(target: str) -> Path:
    return BUILD / "tests" / "fuzz" / f"fuzz_{target}"


def folders(target: str) -> list[str]:
    kept = [SOURCES / "corpus" / target, SOURCES / "regressions" / target]
    return [str(folder) for folder in kept if folder.is_dir()]


def run(target: str, arguments: list[str], seconds: int) -> Outcome:
    FINDINGS.mkdir(parents=True, exist_ok=True)
    command = [str(program(target)), f"-artifact_prefix={FINDINGS}/{target}-", *LIMITS, *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=BUILD,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds + GRACE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome(target, 1, f"{target} did not end")
    return Outcome(target, done.returncode, done.stdout)


def fuzz(target: str, seconds: int, keep: bool) -> Outcome:
    """Replays what is kept, then tries new inputs; with `keep` adds those that reach new code."""
    with tempfile.TemporaryDirectory(prefix="waybill-fuzz-") as new:
        kept = folders(target)
        replayed = [path for folder in kept for path in map(str, sorted(Path(folder).iterdir()))]
        if replayed and (outcome := run(target, replayed, 0)).code != 0:
            return outcome
        time = [f"-max_total_time={max(seconds, 1)}", "-print_final_stats=1"]
        outcome = run(target, [*time, new, *kept], seconds)
        if keep and outcome.code == 0:
            merge(target, new)
        return outcome


def merge(target: str, new: str) -> None:
    """The corpus becomes the least set of old and new inputs that reaches the same code."""
    corpus = SOURCES / "corpus" / target
    with tempfile.TemporaryDirectory(prefix="waybill-fuzz-") as merged:
        kept = [str(corpus)] if corpus.is_dir() else []
        outcome = run(target, [*MERGE, merged, *kept, new], 0)
        if outcome.code != 0:
            print(outcome.report())
            return
        shutil.rmtree(corpus, ignore_errors=True)
        shutil.copytree(merged, corpus)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="in all, divided among the targets")
    parser.add_argument("--target", action="append", choices=TARGETS, help="may be repeated")
    parser.add_argument("--keep", action="store_true", help="merge new inputs into the corpus")
    arguments = parser.parse_args()
    targets = arguments.target or TARGETS
    missing = [target for target in targets if not program(target).exists()]
    if missing:
        print(f"not built: {', '.join(missing)} (cmake --preset fuzz; cmake --build --preset fuzz)")
        return 2
    share = max(arguments.seconds // len(targets), 1)
    os.environ.setdefault("ASAN_OPTIONS", "detect_leaks=1")
    os.environ.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
    failed = 0
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for outcome in pool.map(lambda target: fuzz(target, share, arguments.keep), targets):
            print(outcome.report(), flush=True)
            failed += outcome.code != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
