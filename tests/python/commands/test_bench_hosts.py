"""`waybill bench --hosts`: it runs, counts and checks; no time decides anything here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy
import pytest

from test_bench import MACHINE, ROOT, bench, check_record
from waybill import _library
from waybill.tools.bench import command, hosts, limits, mpirun, overlap
from waybill.tools.namespaces import Network
from waybill.tools.plan import check
from waybill.tools.workload.settings import Case, sweep

reason = Network.available() or _library.machine()["ucx_problem"] or None
needs_hosts = pytest.mark.skipif(reason is not None, reason=str(reason))

SMALL = ("--bs", "4", "--hidden", "512", "--rounds", "3", "--warm-up", "1", "--case-seconds", "1")
PROGRAM = ROOT / "build" / "release" / "bench" / "exchange" / "waybill-bench"


def program() -> str:
    """waybill-bench and mpirun, or the test is skipped."""
    if not shutil.which("mpirun"):
        pytest.skip("no mpirun here")
    found = os.environ.get("WAYBILL_BENCH") or (PROGRAM if PROGRAM.exists() else None)
    found = found or shutil.which("waybill-bench")
    if not found:
        pytest.skip("waybill-bench is not built: build/release, or name it in WAYBILL_BENCH")
    return str(found)


@needs_hosts
def test_command(tmp_path: Path) -> None:
    file, plan = tmp_path / "found.json", tmp_path / "plan.json"
    sizes = ("--hosts", "2", "--ranks-per-host", "1,2", *SMALL)
    done = bench(*sizes, "--json", str(file), "--plan-json", str(plan))
    assert done.returncode == 0, done.stderr
    document = json.loads(file.read_text())
    assert set(document["machine"]) == MACHINE
    assert {r["method"] for r in document["records"]} == {"operators", "gloo"}
    for record in document["records"]:
        check_record(record)
        assert record["hosts"] == 2 and record["ranks"] in (2, 4)
        assert len(record["link_sent_bytes"]) == 2 and min(record["link_sent_bytes"]) > 0
    assert [found["ranks_per_host"] for found in document["hosts"]] == [1, 2]
    for found in document["hosts"]:
        check_report(found)
        name = f"plan-2x{found['ranks_per_host']}-bs4.json"
        settings, lines = check.compare(json.loads((tmp_path / name).read_text()))
        assert settings.layer.hosts == 2
        assert {line.what for line in lines} == {"host 0 sends", "host 1 sends", "total"}
    assert "rows once a" in done.stdout and "hidden" in done.stdout


def check_report(found: dict[str, Any]) -> None:
    assert set(found["phases"]) == {"dispatch", "combine"}
    for phase in found["phases"].values():
        assert phase["link_bytes"] > phase["row_bytes"] > 0
        assert phase["link_bytes"] / phase["row_bytes"] - 1 == pytest.approx(
            phase["over_minimum"], abs=1e-3
        )
    assert [entry["phase"] for entry in found["overlap"]] == ["dispatch", "combine", "both"]
    assert all(entry["pair_us"] > 0 and entry["hidden"] < 1 for entry in found["overlap"])
    assert found["limits"] and all(limit["bits_per_second"] > 0 for limit in found["limits"])


@needs_hosts
def test_openmpi_beside_the_library() -> None:
    """Its bytes go over the link, each row as often as it was chosen; the library's once."""
    path = program()
    with Network(2) as network:
        case = Case(ranks=4, bs=16, hidden=2048, topk=4, experts_per_rank=4, hosts=2)
        before = network.sent_bytes(0)
        found = hosts.compare_openmpi(network, case, path, seconds=0.2)
        assert network.sent_bytes(0) > before
    assert found is not None and found["transport"] in found["probed_us"]
    sent = {(r["method"], r["phase"]): r["link_bytes"] for r in found["records"]}
    row = case.hidden * 2
    counted = hosts.links_of(case)
    assert sent["waybill", "dispatch"] >= counted["dispatch"].rows.sum()
    assert sent["mpi", "dispatch"] >= counted["combine"].rows.sum() >= 64 * row
    assert sent["mpi", "dispatch"] > sent["waybill", "dispatch"]
    assert {r["hosts"] for r in found["records"]} == {2}


@needs_hosts
def test_limits_of_a_shaped_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream of our own, as where no tool is installed. Twice the rate would be no limit."""
    with Network(2, rate=50e6) as network:
        monkeypatch.setattr(limits.shutil, "which", lambda name: None)
        monkeypatch.setattr(limits, "_python", lambda text: ["/usr/bin/env", "python3", "-c", text])
        (limit,) = limits.measure_limits(network)
    assert limit.tool == "a socket" and 0 < limit.bits_per_second < 100e6


@needs_hosts
def test_mpirun_places_ranks_on_hosts() -> None:
    if not shutil.which("mpirun"):
        pytest.skip("no mpirun here")
    with Network(3) as network, mpirun.Launcher(network, 2) as launcher:
        done = subprocess.run(
            launcher.command(mpirun.transports(network.device(0))[0], ["hostname"]),
            env=launcher.environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == ["host0"] * 2 + ["host1"] * 2 + ["host2"] * 2


def test_cases() -> None:
    parser = command.argparse.ArgumentParser()
    command.add_arguments(parser)
    chosen = parser.parse_args(["--hosts", "2,4", "--ranks-per-host", "1,4", "--bs", "8"])
    found = [(case.hosts, case.ranks, case.ranks_per_host) for case in command.cases_of(chosen)]
    assert found == [(2, 2, 1), (2, 8, 4), (4, 4, 1), (4, 16, 4)]
    sizes = {"bs": [1], "hidden": [64], "topk": [1], "experts_per_rank": [1]}
    with pytest.raises(ValueError, match="hosts: expected a divisor of the number of ranks, 3"):
        list(sweep({**sizes, "ranks": [3], "hosts": [2]}))


def test_rates() -> None:
    assert command.bits_per_second("1G") == 1e9 and command.bits_per_second("2.5m") == 2.5e6
    for wrong in ("", "G", "fast", "-1G", "0"):
        with pytest.raises(ValueError, match="--rate: expected bits per second"):
            command.bits_per_second(wrong)


def test_hidden_part() -> None:
    """Of two ranks and three rounds: a transfer of 10 us, of which 4 show beside 20 of work."""

    def marks(us: float) -> list[tuple[int, int]]:
        return [(1000 * turn, 1000 * turn + int(us * 1000)) for turn in range(3)]

    times = {
        **{phase: marks(10) for phase in ("dispatch", "combine")},
        **{f"{phase} compute": marks(20) for phase in ("dispatch", "combine")},
        "dispatch both": marks(24),
        "combine both": marks(30),
    }
    found = overlap.Overlap.of_ranks([times, times])
    assert [(one.phase, one.pair_us, one.hidden) for one in found] == [
        ("dispatch", 10.0, 0.6),
        ("combine", 10.0, 0.0),
        ("both", 20.0, 0.3),
    ]
    assert overlap.Overlap.of_ranks([{}]) == []


def test_rows_are_counted_once_a_host() -> None:
    case = Case(ranks=4, bs=8, hidden=64, topk=4, experts_per_rank=2, hosts=2)
    links = hosts.links_of(case)
    ids = [hosts.expert_ids(case, rank).numpy() for rank in range(4)]
    tokens = sum(
        int((numpy.asarray(of_rank) // 4 != rank // 2).any(axis=1).sum())
        for rank, of_rank in enumerate(ids)
    )
    choices = sum(int((of_rank // 4 != rank // 2).sum()) for rank, of_rank in enumerate(ids))
    assert links["dispatch"].rows.sum() == tokens * case.hidden * 2
    assert links["combine"].rows.sum() == choices * case.hidden * 2
