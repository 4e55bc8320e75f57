"""Where the threads run that help a rank: from outside, by /proc."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import waybill
from ranks import Rank, RankPool

CORES = sorted(os.sched_getaffinity(0))
FIRST = CORES[0]
needs_two = pytest.mark.skipif(len(CORES) < 2, reason="one core")

# A rank alone that says where it and its helpers run. A launcher narrows its cores before, OpenMP
# binds it while torch is imported.
SCRIPT = """
import json, os, sys
import torch, torch.distributed as dist
import waybill

arguments = json.loads(sys.argv[1])
before = {thread: os.sched_getaffinity(int(thread)) for thread in os.listdir("/proc/self/task")}
name = waybill.connect(dist.HashStore(), 0, 1, "alone", timeout=20.0, **arguments)
x, ids = torch.ones(4096, 1024).bfloat16(), torch.zeros(4096, 1, dtype=torch.int32)
waybill.npu_moe_distribute_dispatch_v2(x, ids, name, 1, 0, 1)
found = {"caller": "", "helpers": [], "others": 0}
for thread in sorted(os.listdir("/proc/self/task"), key=int):
    with open(f"/proc/self/task/{thread}/status") as file:
        pairs = (line.partition(":") for line in file)
        status = {key: value.strip() for key, _, value in pairs}
    if int(thread) == os.getpid():
        found["caller"] = status["Cpus_allowed_list"]
    elif status["Name"] == "waybill-helper":
        found["helpers"].append(status["Cpus_allowed_list"])
    found["others"] += thread in before and before[thread] != os.sched_getaffinity(int(thread))
print(json.dumps(found))
"""


def where(*launcher: str, environment: dict[str, str] | None = None, **arguments: Any) -> Any:
    """Where a rank and its helpers run, or the last line of its error."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("OMP_", "GOMP_", "KMP_", "WAYBILL_"))
    }
    result = subprocess.run(
        [*launcher, sys.executable, "-c", SCRIPT, json.dumps(arguments)],
        env={**kept, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if result.returncode != 0:
        return result.stderr.strip().splitlines()[-1]
    found = json.loads(result.stdout)
    assert found.pop("others") == 0, "a thread of somebody else was moved"
    return found


def text(cores: list[int]) -> str:
    """As the kernel writes them."""
    parts: list[list[int]] = []
    for core in cores:
        if parts and parts[-1][-1] == core - 1:
            parts[-1].append(core)
        else:
            parts.append([core])
    return ",".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)


BINDINGS = [
    {"GOMP_CPU_AFFINITY": str(FIRST)},
    {"OMP_PROC_BIND": "true"},
    {"OMP_PLACES": f"{{{FIRST}}}"},
    {"OMP_PROC_BIND": "close", "OMP_PLACES": "cores"},
]


@needs_two
def test_helpers_of_a_free_rank() -> None:
    found = where()
    assert found["caller"] == text(CORES)
    assert found["helpers"] == [str(core) for core in CORES[1:]]


@needs_two
@pytest.mark.parametrize("binding", BINDINGS, ids=lambda binding: "+".join(binding))
def test_openmp_binds_the_caller(binding: dict[str, str]) -> None:
    """As many threads as the process has cores, each helper on one, none where the caller is."""
    found = where(environment=binding)
    bound = found["caller"]
    if bound == text(CORES):
        pytest.skip("OpenMP binds to more than a core here")
    free = [str(core) for core in CORES if str(core) != bound]
    assert found["helpers"] == free


@needs_two
@pytest.mark.parametrize("binding", [{}, *BINDINGS[:3]], ids=lambda binding: "+".join(binding))
def test_a_launcher_left_one_core(binding: dict[str, str]) -> None:
    """Also where OpenMP binds within it."""
    pinned = ("taskset", "-c", str(FIRST))
    assert where(*pinned, environment=binding) == {"caller": str(FIRST), "helpers": []}
    found = where(*pinned, environment=binding, threads=3)
    assert found == {"caller": str(FIRST), "helpers": [str(FIRST)] * 2}


@needs_two
@pytest.mark.parametrize("binding", [{}, BINDINGS[0]], ids=["free", "bound"])
def test_cores_that_were_asked_for(binding: dict[str, str]) -> None:
    last, first = CORES[-1], CORES[0]
    asked = {"threads": 3, "cores": f"{last},{first}"}
    assert where(environment=binding, **asked)["helpers"] == [str(last), str(first)]
    alone = where(environment={**binding, "WAYBILL_CORES": str(last)}, threads=3)
    assert alone["helpers"] == [str(last)] * 2
    both = where(environment={**binding, "WAYBILL_CORES": str(last)}, threads=2, cores=str(first))
    assert both["helpers"] == [str(first)], "the option goes before the variable"


@pytest.mark.parametrize("cores", ["", "all", "1-0", "0,0", "0 ", "-1", "99999999999"])
def test_lists_that_are_none(cores: str) -> None:
    with pytest.raises(waybill.ArgumentError, match="argument cores: expected a list of cores"):
        waybill.connect(dist.HashStore(), 0, 1, "none", cores=cores)


def test_cores_of_another_type() -> None:
    with pytest.raises(waybill.ArgumentError, match=r"argument cores: .* got 3") as caught:
        waybill.connect(dist.HashStore(), 0, 1, "none", cores=3)  # type: ignore[arg-type]
    assert caught.value.argument == "cores"


def test_cores_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(waybill.ArgumentError, match="may not use 1023") as caught:
        waybill.connect(dist.HashStore(), 0, 1, "none", cores=f"{FIRST},1023")
    assert (caught.value.operator, caught.value.argument) == ("connect", "cores")
    for value, expected in (("", "a list of cores"), ("1023", "may not use 1023")):
        monkeypatch.setenv("WAYBILL_CORES", value)
        with pytest.raises(waybill.ArgumentError, match=expected) as caught:
            waybill.connect(dist.HashStore(), 0, 1, "none")
        assert caught.value.argument == "WAYBILL_CORES"


@needs_two
def test_cores_that_a_launcher_took_away() -> None:
    found = where("taskset", "-c", str(FIRST), cores=str(CORES[1]))
    assert isinstance(found, str) and "ArgumentError" in found
    assert f"may not use {CORES[1]}" in found


def ask_again(rank: Rank) -> list[str]:
    """Options of later comm_name calls."""
    last = CORES[-1]
    name = waybill.comm_name(timeout=20.0, threads=1, cores=str(last))
    assert waybill.comm_name() == name
    assert waybill.comm_name(cores=f"{last}-{last}") == name, "the same cores"
    texts = []
    for cores in (f"{FIRST}", text(CORES)):
        if cores == str(last):
            continue
        try:
            waybill.comm_name(cores=cores)
        except waybill.ArgumentError as error:
            assert error.argument == "cores"
            texts.append(str(error))
    dist.destroy_process_group()
    return texts


def test_later_calls_of_comm_name() -> None:
    with RankPool(2, process_group=True, connected=False) as pool:
        for texts in pool.run(ask_again):
            assert len(texts) == (2 if len(CORES) > 1 else 0)
            assert all("None or that of the group's first call" in text for text in texts)


def many_threads(rank: Rank) -> list[str]:
    """Cores of this rank's helpers, where ranks share the host."""
    waybill.connect(rank.store("many"), rank.rank, 2, "many", timeout=20.0, threads=2)
    x, ids = torch.ones(4096, 512).bfloat16(), torch.zeros(4096, 1, dtype=torch.int32)
    waybill.npu_moe_distribute_dispatch_v2(x, ids, "many", 2, rank.rank, 2)
    found = []
    for thread in Path("/proc/self/task").iterdir():
        if (thread / "comm").read_text().strip() == "waybill-helper":
            found.append(text(sorted(os.sched_getaffinity(int(thread.name)))))
    waybill.release("many")
    return found


@needs_two
def test_helpers_of_two_ranks() -> None:
    """Each on one core, and not on the same one."""
    with RankPool(2, connected=False) as pool:
        first, second = pool.run(many_threads)
    assert len(first) == len(second) == 1
    assert first != second
    assert {first[0], second[0]} <= {str(core) for core in CORES}
