"""The measurements of docs/benchmarks: runs the programs, and writes their numbers down.

    python bench/standard.py                 # everything that is built, in less than ten minutes
    python bench/standard.py --tables-only   # tables and plots again, from the files that are there
    python bench/standard.py --tables-only --pages docs/benchmarks   # those of the documentation

All that was measured goes into JSON files of build/benchmarks, and beside them tables and plots.

`waybill-bench` (build/release/bench/exchange) measures the C++ library, `waybill bench` the PyTorch
operators, `waybill-stages` (build/release/bench/stages) single steps on one core. A program that is
not built is left out with a line; what an earlier run left in the folder then stays.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from waybill.tools.bench import tables

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "benchmarks"
BUILD = ROOT / "build" / "release" / "bench"
LIBRARY = BUILD / "exchange" / "waybill-bench"
STAGES = BUILD / "stages" / "waybill-stages"
SECONDS = 280  # a program may take; more is a failure
TITLES = {
    "exchange": "The C++ library",
    "extras": "The C++ library: what each option costs",
    "sizes": "The C++ library: how time grows",
    "operators": "The PyTorch operators",
    "stages": "Stages",
}
SIZES = "--ranks 2,8 --bs 8,64,128,512"
LIBRARY_METHODS = "--methods waybill,private,int8,pair,mpi --seconds 5"
EXTRAS = (
    "--ranks 2 --bs 8,128 --seconds 5 "
    "--methods waybill,int8,smooth,comm8,norm,mask,elastic,const1,const2,pair,checked"
)
OPERATORS = "--rounds 40 --case-seconds 9 --overhead also"
GROWTH = {
    "sizes-bs": "--ranks 2 --bs 1,4,16,64,256,1024,4096",
    "sizes-ranks": "--ranks 1,2,4,8,16 --bs 64",
    "sizes-hidden": "--ranks 2 --bs 64 --hidden 576,1024,2048,4096,7168,16384",
    "sizes-topk": "--ranks 2 --bs 64 --topk 1,2,4,8,16",
    "sizes-experts": "--ranks 2 --bs 64 --experts-per-rank 4,8,16,32,64,128",
}
"""One size varies, the others are those of the default."""
GROWTH_METHODS = "--methods waybill,int8 --seconds 1"


def commands(folder: Path, python: str = sys.executable) -> dict[str, list[str]]:
    """What is run, by the name of the file that it writes."""
    options = {
        "exchange": f"{SIZES} {LIBRARY_METHODS}",
        "extras": EXTRAS,
        **{name: f"{growth} {GROWTH_METHODS}" for name, growth in GROWTH.items()},
    }
    found = {}
    if LIBRARY.exists():
        found = {name: [str(LIBRARY), *words.split()] for name, words in options.items()}
    bench = [python, "-m", "waybill", "bench"]
    found["operators"] = [*bench, *SIZES.split(), *OPERATORS.split()]
    for name, command in found.items():
        command += ["--json", str(folder / f"{name}.json")]
    if STAGES.exists():
        found["stages"] = [
            *(str(STAGES), "--benchmark_format=json", "--benchmark_min_time=0.02"),
            f"--benchmark_out={folder / 'stages.json'}",
        ]
    return found


def merge_sizes(folder: Path) -> None:
    """One file of those that vary one size each."""
    parts = [folder / f"{name}.json" for name in GROWTH]
    found = [json.loads(part.read_text()) for part in parts if part.exists()]
    if not found:
        return
    records = {
        json.dumps([record.get(key) for key in (*tables.CASE_KEYS, "method", "phase")]): record
        for document in found
        for record in document["records"]
    }
    merged = {**found[0], "records": list(records.values())}
    (folder / "sizes.json").write_text(json.dumps(merged, indent=1) + "\n")
    for part in parts:
        part.unlink(missing_ok=True)


def run_all(folder: Path) -> int:
    """How many programs failed."""
    failed = 0
    chosen = commands(folder)
    for name, program in (("exchange", LIBRARY), ("stages", STAGES)):
        if name not in chosen:
            print(f"{program.name} is not built: left out", flush=True)
    for name in chosen:
        print("+", " ".join(chosen[name]), flush=True)
        begin = time.monotonic()
        # Google Benchmark prints to stdout what it also writes to the file.
        silent = subprocess.DEVNULL if name == "stages" else None
        try:
            code = subprocess.run(chosen[name], stdout=silent, timeout=SECONDS).returncode
        except subprocess.TimeoutExpired:
            code = -1
        print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)
        if code != 0:
            print(f"{name}: failed ({code})", file=sys.stderr)
            failed += 1
    return failed


def clean_stages(path: Path) -> None:
    """Takes out of Google Benchmark's file what tells whose machine it was, and when."""
    document = json.loads(path.read_text())
    for key in ("host_name", "date", "executable"):
        document.get("context", {}).pop(key, None)
    path.write_text(json.dumps(document, indent=1) + "\n")


def write_tables(folder: Path, pages: Path) -> Path:
    """tables.md, from the JSON files of the folder."""
    sections = ["# Benchmarks\n\nWritten by `make bench`; docs/benchmarks/README.md explains.\n"]
    for name, title in TITLES.items():
        path = folder / f"{name}.json"
        if path.exists():
            sections.append(tables.markdown(title, json.loads(path.read_text())))
    written = pages / "tables.md"
    written.write_text("\n".join(sections))
    return written


def write_plots(folder: Path, pages: Path) -> None:
    try:
        from waybill.tools.bench import plots
    except ImportError as error:
        print(f"no plots: {error}")
        return
    for name in TITLES:
        path = folder / f"{name}.json"
        if path.exists():
            plots.draw(name, json.loads(path.read_text()), pages)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the JSON files")
    parser.add_argument("--pages", type=Path, help="of tables and plots; default: the same folder")
    parser.add_argument("--tables-only", action="store_true")
    arguments = parser.parse_args(argv)
    folder: Path = arguments.folder
    pages: Path = arguments.pages or folder
    for place in (folder, pages):
        place.mkdir(parents=True, exist_ok=True)
    failed = 0 if arguments.tables_only else run_all(folder)
    merge_sizes(folder)
    if (folder / "stages.json").exists():
        clean_stages(folder / "stages.json")
    print(write_tables(folder, pages))
    write_plots(folder, pages)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
