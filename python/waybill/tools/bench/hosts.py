"""The report of a case over several hosts: bytes and limits of links, overlap, OpenMPI."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..namespaces import Network
from ..plan import Layer, Machine
from ..plan.links import Links, combine_links, dispatch_links
from ..plan.model import FORMAT
from ..plan.traffic import count
from ..workload.grid import Grid, shown_number, shown_ratio
from ..workload.routing import expert_ids
from ..workload.settings import PHASES, Case
from .limits import Limit
from .measure import Measured
from .mpirun import Launcher, Transport, transports

OWN = "operators"
PACKET_BYTES = 65535
"""The kernel hands TCP's data to a veth device in packets of this size."""
PROGRAM = "waybill-bench"
PROBE_SECONDS = 1.0
MPI_SECONDS = 600.0


def layer_of(case: Case) -> Layer:
    return Layer(
        hosts=case.hosts,
        ranks_per_host=case.ranks_per_host,
        bs=case.bs,
        hidden=case.hidden,
        topk=case.topk,
        experts=case.experts,
        dtype=case.dtype,
        quant=case.quant,
        routing=case.routing,
    )


def machine_of(case: Case, limits: Sequence[Limit], rate: float | None) -> Machine:
    """As far as it was measured."""
    bits = rate or max((limit.bits_per_second for limit in limits), default=400e9)
    cores = len(os.sched_getaffinity(0))
    return Machine(link_gbps=bits / 1e9, mtu=PACKET_BYTES, cores=max(cores // case.hosts, 1))


def links_of(case: Case) -> dict[str, Links]:
    """What dispatch and combine of exactly these ids move: rows that are sent once a host."""
    layer, machine = layer_of(case), Machine(mtu=PACKET_BYTES)
    traffic = count(layer, [expert_ids(case, rank).numpy() for rank in range(case.ranks)])
    return {
        "dispatch": dispatch_links(layer, machine, traffic),
        "combine": combine_links(layer, machine, traffic),
    }


def report(
    case: Case,
    measured: Measured,
    rate: float | None,
    limits: Sequence[Limit],
    openmpi: dict[str, Any] | None,
) -> dict[str, Any]:
    """Everything about one case, for machines."""
    own = {r["phase"]: r for r in measured.records if r["method"] == OWN}
    links = links_of(case)
    most = max((limit.bits_per_second for limit in limits), default=0.0)
    phases = {}
    for phase in PHASES if own else ():
        minimum = int(links[phase].rows.sum())
        sent = max(own[phase]["link_sent_bytes"])
        seconds = own[phase]["us"]["median"] / 1e6
        phases[phase] = {
            "us": own[phase]["us"]["median"],
            "link_bytes": own[phase]["link_bytes"],
            "row_bytes": minimum,
            "model_bytes": int(links[phase].total.sum()),
            "over_minimum": round(own[phase]["link_bytes"] / minimum - 1.0, 4) if minimum else 0.0,
            "bits_per_second": round(sent * 8 / seconds),
            "of_limit": round(sent * 8 / seconds / most, 3) if most else None,
        }
    return {
        "hosts": case.hosts,
        "ranks_per_host": case.ranks_per_host,
        "bs": case.bs,
        "hidden": case.hidden,
        "rate": rate,
        "limits": [asdict(limit) for limit in limits],
        "phases": phases,
        "overlap": [asdict(overlap) for overlap in measured.overlaps],
        "openmpi": openmpi,
    }


def plan_document(
    case: Case, found: dict[str, Any], measured: Measured, limits: Sequence[Limit]
) -> dict[str, Any]:
    """What `waybill plan --check` reads."""
    own = {r["phase"]: r for r in measured.records if r["method"] == OWN}
    return {
        "waybill_plan": FORMAT,
        "settings": {**asdict(layer_of(case)), **asdict(machine_of(case, limits, found["rate"]))},
        "measured": {
            phase: {
                "bytes": [
                    {"from": host, "bytes": sent}
                    for host, sent in enumerate(own[phase]["link_sent_bytes"])
                ],
                "us": {"total": own[phase]["us"]["median"]},
            }
            for phase in PHASES
        },
    }


def tables(found: dict[str, Any]) -> list[Grid]:
    """The same for people."""
    name = f"{found['hosts']} hosts of {found['ranks_per_host']} ranks, BS {found['bs']}"
    if found["rate"]:
        name += f", {found['rate'] / 1e9:g} Gbit/s"
    grids = []
    rows = [
        [
            phase,
            f"{values['link_bytes'] / 1e6:.3f}",
            f"{values['row_bytes'] / 1e6:.3f}",
            f"{values['over_minimum'] * 100:+.2f} %",
            f"{values['model_bytes'] / 1e6:.3f}",
            f"{values['bits_per_second'] / 1e9:.2f}",
            "" if values["of_limit"] is None else f"{values['of_limit'] * 100:.0f} %",
        ]
        for phase, values in found["phases"].items()
    ]
    header = ["phase", "MB on links", "rows once a host", "more", "model", "Gbit/s", "of limit"]
    if rows:
        grids.append(Grid(f"{name}: bytes of all links; the busiest host's rate", header, rows))
    rows = [[limit["tool"], f"{limit['bits_per_second'] / 1e9:.2f}"] for limit in found["limits"]]
    if rows:
        grids.append(Grid("The link, one way", ["stream", "Gbit/s"], rows))
    rows = [
        [
            overlap["phase"],
            *(shown_number(overlap[key]) for key in ("pair_us", "compute_us", "both_us")),
            f"{overlap['hidden'] * 100:.0f} %",
        ]
        for overlap in found["overlap"]
    ]
    header = ["phase", "setup, teardown", "computation", "with it between", "hidden"]
    if rows:
        grids.append(Grid("Setup and teardown around a computation, microseconds", header, rows))
    if found["openmpi"]:
        grids.append(_openmpi_table(found["openmpi"]))
    return grids


def _openmpi_table(openmpi: dict[str, Any]) -> Grid:
    rows = []
    for record in openmpi["records"]:
        ratio = record["ratio"].get("mpi")
        rows.append(
            [
                record["phase"],
                record["method"],
                shown_number(record["us"]["median"]),
                f"{record['link_bytes'] / 1e6:.3f}",
                shown_ratio(ratio["median"]) if ratio else "",
            ]
        )
    header = ["phase", "method", "median us", "MB on links", "OpenMPI / this"]
    return Grid(f"The C++ library beside OpenMPI ({openmpi['transport']})", header, rows)


def find_program(given: str | None) -> str | None:
    """waybill-bench, where it and mpirun are there; OSError where a given one is not."""
    path = shutil.which(given or PROGRAM)
    if given and path is None:
        raise OSError(f"--program: expected {PROGRAM}, got {given}")
    return path if shutil.which("mpirun") else None


def compare_openmpi(
    network: Network, case: Case, program: str, seconds: float
) -> dict[str, Any] | None:
    """OpenMPI's faster transport beside the C++ library, in turns in the same processes."""
    with Launcher(network, case.ranks_per_host) as launcher:
        probes: dict[str, float] = {}
        choices = transports(network.device(0))
        for transport in choices:
            found = _run_program(launcher, transport, network, case, program, "mpi", PROBE_SECONDS)
            records = [r for r in found if r["method"] == "mpi" and r["phase"] == "both"]
            if records:
                probes[transport.name] = records[0]["us"]["median"]
        if not probes:
            return None
        best = min(choices, key=lambda choice: probes.get(choice.name, float("inf")))
        records = _run_program(launcher, best, network, case, program, "waybill,pair,mpi", seconds)
    return {"transport": best.name, "probed_us": probes, "records": records} if records else None


def _run_program(
    launcher: Launcher,
    transport: Transport,
    network: Network,
    case: Case,
    program: str,
    methods: str,
    seconds: float,
) -> list[dict[str, Any]]:
    """The records of one run; none where it failed, and then its words are shown."""
    with tempfile.TemporaryDirectory(prefix="waybill-bench-") as folder:
        file = Path(folder, "found.json")
        options = {
            "bs": case.bs,
            "hidden": case.hidden,
            "topk": case.topk,
            "experts-per-rank": case.experts_per_rank,
            "dtype": case.dtype,
            "routing": case.routing,
            "threads": case.threads,
            "methods": methods,
            "seconds": seconds,
            "warm-up": 2,
            "device": network.device(0),
            "json": file,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        with subprocess.Popen(
            launcher.command(transport, [program, *words]),
            env=launcher.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                text, _ = process.communicate(timeout=MPI_SECONDS)
            except BaseException:
                process.send_signal(signal.SIGTERM)  # mpirun ends its ranks
                raise
        if process.returncode != 0 or not file.exists():
            print(f"{PROGRAM} under mpirun ({transport.name}) failed:\n{text.strip()}")
            return []
        return list(json.loads(file.read_text())["records"])
