"""`waybill plan` as a command, beside a measurement, and on its page."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from waybill import cli
from waybill.tools.plan import Layer, Machine, compare, plan

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "plan.md"
SMALL = Layer(hosts=3, ranks_per_host=2, bs=20, hidden=64, topk=3, experts=24)
SHARED = replace(SMALL, hosts=4, shared_experts=2, shared_ranks=2)


def measurement() -> dict[str, Any]:
    model = plan(SMALL, Machine())
    return {
        "waybill_plan": 1,
        "settings": {"hosts": 3, "ranks_per_host": 2, "bs": 20, "hidden": 64, "topk": 3}
        | {"experts": 24},
        "measured": {
            "dispatch": {
                "bytes": [
                    {"from": 0, "to": 1, "bytes": 2 * float(model.dispatch.links.total[0, 1])},
                    {"from": 2, "bytes": float(model.dispatch.sent()[2])},
                    {"to": 1, "bytes": 0},
                    {"bytes": 1},
                ],
                "us": {"total": 3 * model.dispatch.us, "pull": 1},
            },
            "combine": {"us": {"sum": model.combine.phases[2].us}},
        },
    }


def test_compare() -> None:
    _, found = compare(measurement())
    assert [(line.operator, line.what) for line in found] == [
        ("dispatch", "host 0 to 1"),
        ("dispatch", "host 2 sends"),
        ("dispatch", "host 1 receives"),
        ("dispatch", "all links"),
        ("dispatch", "total"),
        ("dispatch", "pull"),
        ("combine", "sum"),
    ]
    ratios = [line.ratio for line in found]
    assert ratios[:3] == [2, 1, 0] and ratios[4] == pytest.approx(3) and ratios[6] == 1


def test_compare_takes_a_plans_own_settings() -> None:
    document = measurement() | {"settings": plan(SHARED, Machine(mtu=1500)).to_json()["settings"]}
    found, _ = compare(document)
    assert (found.layer, found.machine) == (SHARED, Machine(mtu=1500))
    found, _ = compare(measurement() | {"settings": {"bs": 7}}, SHARED, Machine(cores=3))
    assert (found.layer, found.machine) == (replace(SHARED, bs=7), Machine(cores=3))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"waybill_plan": 2}, "waybill_plan"),
        ({"settings": {"batch": 3}}, "batch"),
        ({"measured": {"barrier": {}}}, "barrier"),
        ({"measured": {"dispatch": {"seconds": {}}}}, "seconds"),
        ({"measured": {"dispatch": {"us": {"sum": 1}}}}, "sum"),
        ({"measured": {"dispatch": {"bytes": [{"from": 3, "bytes": 1}]}}}, "got 3"),
    ],
)
def test_bad_measurements(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        compare(measurement() | change)


# The command.


def run(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert cli.main(["plan", *options]) == 0
    return capsys.readouterr().out


def test_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    shown = run(capsys, "--bs", "16", "--compute-us", "100", "--json", str(path))
    assert "dispatch: pull" in shown and "mirrors of a host" in shown and "hidden" in shown
    document = json.loads(path.read_text())
    assert set(document) == {
        "waybill_plan",
        "settings",
        "traffic",
        "dispatch",
        "combine",
        "memory",
    }
    assert document["settings"] == asdict(Layer(bs=16)) | asdict(Machine(compute_us=100.0))
    for name, phases in (("dispatch", "publish link pull"), ("combine", "publish link sum")):
        operator = document[name]
        assert list(operator["phases"]) == phases.split()
        assert operator["us"] == sum(phase["us"] for phase in operator["phases"].values())
        assert sum(operator["sent_bytes"]) == pytest.approx(sum(operator["parts_bytes"].values()))
        assert sum(link["bytes"] for link in operator["links"]) == sum(operator["sent_bytes"])
        assert operator["hidden_us"] <= 100 and operator["messages"] > 0


def test_lists_and_sweep(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    shown = run(capsys, "--sweep", "--quant", "0,2", "--json", str(path), "--markdown")
    rows = [line for line in shown.splitlines() if re.match(r"\| \d", line)]
    plans = json.loads(path.read_text())["plans"]
    assert len(rows) == len(plans) == 16
    ranks = [one["settings"]["hosts"] * one["settings"]["ranks_per_host"] for one in plans]
    assert ranks == [8, 16, 32, 64, 128, 256, 512, 1024] * 2
    assert [one["settings"]["experts"] for one in plans][5:8] == [256, 512, 1024]
    assert "links" in plans[1]["dispatch"] and "links" not in plans[7]["dispatch"]


def test_check(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path, found = tmp_path / "measured.json", tmp_path / "found.json"
    path.write_text(json.dumps(measurement()))
    shown = run(capsys, "--check", str(path), "--json", str(found))
    assert "host 0 to 1" in shown and "2.00" in shown and "3.00" in shown
    assert [line["what"] for line in json.loads(found.read_text())["comparisons"]][-1] == "sum"


@pytest.mark.parametrize(
    "options", [("--experts", "17"), ("--bs", ""), ("--check", "/nowhere.json"), ("--mtu", "3")]
)
def test_bad_options(capsys: pytest.CaptureFixture[str], options: tuple[str, ...]) -> None:
    assert cli.main(["plan", *options]) == 1
    assert capsys.readouterr().err.startswith("waybill plan: ")


# The page.


def commands_of_page() -> list[str]:
    return re.findall(r"^    (waybill plan.*)$", PAGE.read_text(), re.MULTILINE)


@pytest.mark.parametrize("command", commands_of_page())
def test_commands_of_the_page(
    command: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Each runs, and prints the tables that follow it."""
    (tmp_path / "measured.json").write_text(
        re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.S)[0]
    )
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    shown = run(capsys, *shlex.split(command)[2:])
    if "--markdown" in command:
        behind = PAGE.read_text().split(f"    {command}\n")[1]
        table = re.match(r"\s*((?:\|.*\n)+)", behind)
        assert table is not None and table[1] == shown.strip() + "\n"
