"""Runs cases of the whole operator family on the ranks of a pool.

Apart from the tests that use it: every rank imports the module of a function that it runs.
"""

from __future__ import annotations

import random
import time
from typing import Any

import torch
import torch.distributed as dist

import waybill
from cases import Case, random_case
from forms import Arguments, Outputs, call_operator, compare_form, expected_form, run_form
from pairs import Chosen
from ranks import Rank, RankPool

MAX_DELAY = 0.003


def where_of(rank: Rank, case: Case) -> dict[str, Any]:
    """Group names and rank ids; groups for TP = 2 are connected when first needed, and kept."""
    if case.tp == 1:
        return {"group_ep": rank.name, "ep_rank_id": rank.rank}
    num_ranks = rank.world_size // 2
    ep_rank, tp_rank = divmod(rank.rank, 2)
    names = [f"{rank.name}-ep{tp_rank}", f"{rank.name}-tp{ep_rank}"]
    if "tp groups" not in rank.memory:
        for name, place, size in ((names[0], ep_rank, num_ranks), (names[1], tp_rank, 2)):
            store = dist.FileStore(str(rank.folder / name), size)
            waybill.connect(store, place, size, name, timeout=20.0, threads=1)
        rank.memory["tp groups"] = True
    return {
        "group_ep": names[0],
        "ep_rank_id": ep_rank,
        "group_tp": names[1],
        "tp_rank_id": tp_rank,
    }


def run_cases(rank: Rank, chosen: list[tuple[str, int]]) -> list[Outputs | None]:
    """The cases one after the other; None where this rank makes no call."""
    results: list[Outputs | None] = []
    for features, seed in chosen:
        case = random_case(seed, features=features)
        where = where_of(rank, case)
        draw = random.Random(f"{seed}-{rank.rank}")

        def call(operator: str, arguments: Arguments) -> Any:
            if draw.random() < 0.5:  # noqa: B023 - called at once
                time.sleep(draw.random() * MAX_DELAY)  # noqa: B023
            return call_operator(operator, arguments)

        calls = rank.rank in case.ranks
        results.append(run_form(case, rank.rank, where, call) if calls else None)
        if len(case.ranks) < rank.world_size:  # some living rank made no call
            waybill.reset(rank.name)
            waybill._npu_distribute_barrier(torch.zeros(1), rank.name, rank.world_size)
    return results


def check(pool: RankPool, chosen: list[Chosen]) -> None:
    """Runs the cases on the pool and compares every rank's results with the oracle's."""
    try:
        run_and_compare(pool, chosen)
    except BaseException:
        if not pool.broken:
            pool.close(graceful=False)  # its ranks may have come apart
        raise


def run_and_compare(pool: RankPool, chosen: list[Chosen]) -> None:
    pool.start(run_cases, [(case.features, case.seed) for case in chosen])
    cases = [random_case(case.seed, features=case.features) for case in chosen]
    wanted = [expected_form(case) for case in cases]  # while the ranks work
    by_rank = pool.wait(timeout=120)
    for index, (case, want) in enumerate(zip(cases, wanted, strict=True)):
        found: list[str] = []
        for rank in case.ranks:
            found += compare_form(case, rank, by_rank[rank][index], want)
        assert not found, "\n".join([case.describe(), *found[:10]])
