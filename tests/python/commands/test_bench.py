"""`waybill bench`: its measurement runs and checks results; its tables and plots can be made.

No time decides anything here.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from waybill.tools.bench import command, measure, ranks, tables
from waybill.tools.bench.layer import Layer, WrongResult, check_sums
from waybill.tools.bench.measure import STOP, Effort, make_records
from waybill.tools.workload import routing
from waybill.tools.workload.settings import Case, sweep

ROOT = Path(__file__).resolve().parents[3]
SMALL = ("--ranks", "2", "--bs", "4", "--hidden", "64", "--rounds", "3", "--warm-up", "1")
MACHINE = {
    "model",
    "cores",
    "l2_bytes",
    "l3_bytes",
    "memory_bytes",
    "kernel",
    "simd",
    "waybill",
    "torch",
}
CASE = Case(2, 4, 64, 3, 4)


def bench(*options: str) -> subprocess.CompletedProcess[str]:
    """Runs the command; nothing is left of it."""
    with tempfile.TemporaryDirectory() as folder:
        done = run_bench(folder, *options)
        assert not list(Path(folder).iterdir())
        mark = f"TMPDIR={folder}".encode()
        assert not [path for path in Path("/proc").glob("[0-9]*/environ") if mark in read(path)]
    return done


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended, or is somebody else's
        return b""


def run_bench(folder: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "waybill", "bench", *options],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": folder},
    )


def check_record(record: dict[str, Any]) -> None:
    assert record["phase"] in ("dispatch", "combine", "both")
    assert 0 < record["us"]["min"] <= record["us"]["median"] <= record["us"]["p90"]
    assert record["us"]["p90"] <= record["us"]["p99"]
    assert 0 <= record["slowest_rank"] < record["ranks"]
    assert record["bytes"] > 0 and record["gb_per_s"] > 0
    assert record["method"] not in record["ratio"]
    for ratio in record["ratio"].values():
        assert 0 < ratio["p10"] <= ratio["median"] <= ratio["p90"]


def test_command(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    done = bench(*SMALL, "--quant", "0,2", "--json", str(file), "--plot", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "operators" in done.stdout and "gloo" in done.stdout
    document = json.loads(file.read_text())
    assert set(document["machine"]) == MACHINE
    settings = document["settings"]
    assert settings["rounds"] == 3 and settings["warm_up"] == 1
    assert settings["launch"] == "processes" and isinstance(settings["pinned"], bool)
    for record in document["records"]:
        check_record(record)
        assert (record["ranks"], record["bs"], record["hidden"]) == (2, 4, 64)
        assert (record["topk"], record["experts_per_rank"], record["rounds"]) == (8, 8, 3)
        assert (record["threads"], record["routing"], record["dtype"]) == (1, "uniform", "bfloat16")
    found = {(r["quant"], r["phase"], r["method"]) for r in document["records"]}
    whole = {"operators", "gloo", "checked", "copy"}
    for quant in (0, 2):
        int8 = {"int8"} if quant == 0 else set()
        assert {m for q, p, m in found if (q, p) == (quant, "dispatch")} == whole | int8
        assert {m for q, p, m in found if (q, p) == (quant, "combine")} == whole | {"private"}
        assert {m for q, p, m in found if (q, p) == (quant, "both")} == whole
    assert list(tmp_path.glob("operators-ratios.png"))


@pytest.mark.parametrize("kind", ["zipf:1.2", "txt", "npy"])
def test_routing_runs(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"ids.{kind}"
    ids = numpy.array([[0, 5, 2], [7, 1, 3], [4, 0, 6]])
    if kind == "txt":
        numpy.savetxt(file, ids, fmt="%d")
    elif kind == "npy":
        numpy.save(file, ids)
    given = kind if kind.startswith("zipf") else f"recorded:{file}"
    out = tmp_path / "found.json"
    done = bench(
        *SMALL, "--topk", "3", "--experts-per-rank", "4", "--routing", given,
        "--methods", "operators,copy", "--json", str(out),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    records = json.loads(out.read_text())["records"]
    expected = kind if kind.startswith("zipf") else f"recorded:{file.name}"
    assert {record["routing"] for record in records} == {expected}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--quant", "3"), "quant: expected 0 or 2, got 3"),
        (("--topk", "99"), "topk: expected at most"),
        (("--methods", "magic"), "methods: expected some of"),
        (("--routing", "random"), "routing: expected uniform"),
        (("--bs", "none"), "none"),
    ],
)
def test_bad_options(options: tuple[str, str], text: str) -> None:
    done = bench(*SMALL, *options)
    assert done.returncode == 1 and text in done.stderr, done.stderr


def test_routing() -> None:
    for kind in ("uniform", "zipf:1.5"):
        ids = routing.expert_ids(Case(2, 50, 8, 3, 4, routing=kind), rank=1)
        assert ids.shape == (50, 3) and ids.dtype == torch.int32
        assert all(len(set(row)) == 3 for row in ids.tolist())
        assert int(ids.min()) >= 0 and int(ids.max()) < 8
    counts = routing.expert_ids(Case(2, 2000, 8, 1, 4, routing="zipf:1.5"), 0).flatten().bincount()
    assert counts.max() > 4 * counts.float().median()


def test_recorded_tokens_go_round(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    file = tmp_path / "ids.safetensors"
    safetensors.save_file(
        {"b": torch.tensor([[2, 3]]), "a": torch.tensor([[0, 1], [1, 2]])}, str(file)
    )
    case = Case(2, 2, 8, 2, 2, routing=f"recorded:{file}")
    assert routing.expert_ids(case, 0).tolist() == [[0, 1], [1, 2]]
    assert routing.expert_ids(case, 1).tolist() == [[2, 3], [0, 1]]


@pytest.mark.parametrize("quant", [0, 2])
def test_wrong_results_are_found(quant: int) -> None:
    case = Case(2, 4, 64, 3, 4, quant)
    shared = numpy.zeros(case.ranks * case.bs * case.hidden * 2, numpy.uint8)
    layers = [Layer(case, rank, shared) for rank in range(case.ranks)]
    assert sum(layer.num_rows for layer in layers) == case.ranks * case.bs * case.topk
    layer = layers[1]
    rows, scales = layer.expected_rows(layer.tokens, quant == 2)
    layer.check_rows("right", rows, scales, quant == 2)
    wrong = rows.clone()
    wrong[3, 5] += 1
    with pytest.raises(WrongResult, match=r"^wrong dispatch: rank 1: row 3 is wrong$"):
        layer.check_rows("wrong", wrong, scales, quant == 2)
    with pytest.raises(WrongResult, match="rows, got"):
        layer.check_rows("short", rows[:-1], scales, quant == 2)
    if scales is not None:
        factors = scales.clone()
        factors[-1] *= 1.0001
        with pytest.raises(WrongResult, match="wrong dispatch"):
            layer.check_rows("wrong", rows, factors, True)
    sums = layer.expected_sums()
    check_sums("right", 1, sums, sums, exact=True)
    near, far = sums.clone(), sums.clone()
    near[2] = (near[2].float() * 1.01).to(sums.dtype)
    far[2, 7] += 1
    check_sums("near", 1, near, sums, exact=False)
    with pytest.raises(WrongResult, match="token 2 is wrong"):
        check_sums("near", 1, near, sums, exact=True)
    with pytest.raises(WrongResult, match="token 2 is wrong"):
        check_sums("far", 1, far, sums, exact=False)


def fail_on_rank_1(own: ranks.RankContext) -> None:
    if own.rank == 1:
        raise ValueError("as the test wants")
    own.meet()  # would wait for ever


def test_a_rank_that_fails_ends_the_run() -> None:
    with pytest.raises(ranks.RankFailed, match=r"as the test wants|another rank failed"):
        ranks.run_ranks(2, fail_on_rank_1)


def test_effort() -> None:
    effort = Effort(rounds=7, warm_up=3, seconds=3)
    assert [effort.next_round(turn, -1, 0) for turn in (1, 2, 3)] == [-1, -1, 0]
    assert [effort.next_round(turn, -1, 2) for turn in (1, 2)] == [-1, 0]
    assert [effort.next_round(9, number, 0) for number in (0, 5, 6)] == [1, 6, STOP]
    assert [effort.next_round(9, number, 4) for number in (3, 4)] == [4, STOP]


def canned_records() -> list[dict[str, Any]]:
    """Two rounds of three methods whose times are known, for several cases."""
    records = []
    options = {"ranks": [2, 4], "bs": [4, 8], "hidden": [64], "topk": [2], "experts_per_rank": [4]}
    for case in sweep(options):
        times = {}
        for name, factor in (("operators", 1), ("gloo", 10), ("copy", 0.5)):
            taken = numpy.zeros((2, 2, case.ranks, 2), numpy.int64)
            for turn in range(2):
                for phase in range(2):
                    begin = 10**9 * (1 + turn) + numpy.arange(case.ranks) * 1000
                    us = factor * case.bs * (1 + phase) * (1 + turn)
                    taken[turn, phase, :, 0] = begin
                    taken[turn, phase, :, 1] = begin[0] + us * 1000 * (1 + (begin == begin[-1]))
            times[name] = taken
        records += make_records(case, times)
    return records


def test_records() -> None:
    records = canned_records()
    first = next(r for r in records if r["method"] == "operators" and r["phase"] == "dispatch")
    check_record(first)
    # Rank 1 ends last, twice as late as rank 0: 8 and 16 us.
    assert first["us"] == {"median": 12.0, "p90": 15.2, "p99": 15.92, "min": 8.0}
    assert first["slowest_rank"] == 1
    assert first["bytes"] == 2 * 4 * 2 * 64 * 2
    assert first["gb_per_s"] == pytest.approx(first["bytes"] / 12.0 / 1e3, abs=1e-3)
    assert first["ratio"]["gloo"] == {"median": 10.0, "p10": 10.0, "p90": 10.0}
    assert first["ratio"]["copy"]["median"] == 0.5
    both = next(r for r in records if r["method"] == "operators" and r["phase"] == "both")
    assert both["us"]["median"] == 36.0 and both["bytes"] == 2 * first["bytes"]


def canned_document() -> dict[str, Any]:
    return {
        "machine": dict.fromkeys(sorted(MACHINE), 1) | {"model": "a CPU"},
        "settings": {"rounds": 2, "warm_up": 1, "pinned": True, "launch": "threads"},
        "records": canned_records(),
        "overhead": [
            {
                "operator": "dispatch_v2",
                "entry": "waybill.*",
                "ranks": 1,
                "bs": 8,
                "us": 40.0,
                "in_call_us": 30.0,
                "overhead_us": 10.0,
                "least_overhead_us": 9.0,
            }
        ],
    }


def test_tables() -> None:
    text = tables.markdown("The operators", canned_document())
    assert text.startswith("## The operators\n")
    assert "| phase | ranks | BS | operators | gloo | copy |" in text
    assert "| dispatch | 2 | 4 | 12.0 | 120 | 6.0 |" in text
    assert "| dispatch | 2 | 4 | 10.0, 10-10 | 0.50, 0.5-0.5 |" in text
    assert "| dispatch_v2 | waybill.* | 1 | 8 | 40.0 | 30.0 | 10.0 | 9.0 |" in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_tables_of_stages() -> None:
    def run(name: str, time: float, **counters: float) -> dict[str, object]:
        return {"name": name, "cpu_time": time, "time_unit": "ns", **counters}

    runs = [
        run("quantise/L2/scalar", 30, GB=1.0, of_ceiling=0.05),
        run("quantise/L2/avx2", 1.5, GB=20.0, of_ceiling=0.9),
        run("routing/8", 4),
    ]
    text = tables.markdown("Stages", {"context": {}, "benchmarks": runs})
    assert "| quantise/L2 | 1.5 | 20.0 | 0.90 | 30 | 1.5 |" in text
    assert "| routing/8 | 4 |  |  |  |  |" in text


def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    document = canned_document()
    for record in document["records"]:  # as waybill-bench names them
        record["method"] = {"operators": "waybill", "copy": "lb2"}.get(
            record["method"], record["method"]
        )
        record["ratio"] = {
            {"operators": "waybill", "copy": "lb2"}.get(name, name): ratio
            for name, ratio in record["ratio"].items()
        }
    file = tmp_path / "exchange.json"
    file.write_text(json.dumps(document))
    done = bench("--plot-from", str(file), "--plot", str(tmp_path / "plots"))
    assert done.returncode == 0, done.stderr
    written = {path.name for path in (tmp_path / "plots").iterdir()}
    kinds = ("time-bs", "time-ranks", "ratios", "roofline")
    assert written == {f"exchange-{kind}.png" for kind in kinds}
    for path in (tmp_path / "plots").iterdir():
        assert path.read_bytes()[:4] == b"\x89PNG" and path.stat().st_size > 5000


def test_standard_writes_tables(tmp_path: Path) -> None:
    standard = runpy.run_path(str(ROOT / "bench" / "standard.py"))
    (tmp_path / "operators.json").write_text(json.dumps(canned_document()))
    context = {"host_name": "secret", "date": "today", "executable": "x", "num_cpus": 2}
    (tmp_path / "stages.json").write_text(json.dumps({"context": context, "benchmarks": []}))
    pages = tmp_path / "pages"
    places = ["--folder", str(tmp_path), "--pages", str(pages)]
    assert standard["main"](["--tables-only", *places]) == 0
    text = (pages / "tables.md").read_text()
    assert "## The PyTorch operators" in text and "## Stages" in text
    assert json.loads((tmp_path / "stages.json").read_text())["context"] == {"num_cpus": 2}
    assert not list(pages.glob("*.json")) and not list(tmp_path.glob("*.md"))
    assert "operators" in standard["commands"](tmp_path)


def test_overhead() -> None:
    done = bench("--overhead")
    assert done.returncode == 0, done.stderr
    assert "What PyTorch adds" in done.stdout


def test_options_are_the_fields_of_a_case() -> None:
    assert {name for name, *_ in command.SWEPT.values()} == set(Case.__dataclass_fields__)
    assert measure.LEAST_ROUNDS > 0
