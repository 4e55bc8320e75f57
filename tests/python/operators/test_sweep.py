"""Random configurations on processes and on threads, bit for bit against the oracle."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import waybill
from cases import Case, expected, outline, random_case
from comparisons import bits, compare_combine, compare_dispatch
from ranks import LocalPool, Rank, RankPool

FULL = os.environ.get("WAYBILL_SWEEP") == "full"
NUM_CASES = 320 if FULL else 80
NUM_THREAD_CASES = 80 if FULL else 24
MAX_DELAY = 0.003

PoolOf = Callable[..., RankPool]
LocalPoolOf = Callable[[int], LocalPool]


def group_size(seed: int) -> int:
    """E of random_case(seed), without its tensors: modules are imported by every rank."""
    return outline(seed).sizes.e


def stratified(count: int) -> list[int]:
    """Seeds that visit every size of group about equally often, in a fixed order."""
    by_ranks: dict[int, list[int]] = {}
    for seed in range(4 * count):
        num_ranks = group_size(seed)
        by_ranks.setdefault(num_ranks, []).append(seed)
    chosen: list[int] = []
    while len(chosen) < count:
        for num_ranks in sorted(by_ranks):
            if by_ranks[num_ranks] and len(chosen) < count:
                chosen.append(by_ranks[num_ranks].pop(0))
    return chosen


def delay(draw: random.Random) -> None:
    if draw.random() < 0.5:
        time.sleep(draw.random() * MAX_DELAY)


def run_case(rank: Rank, seed: int) -> tuple[list[Tensor], Tensor]:
    """Dispatch and combine of one case on one rank."""
    case = random_case(seed)
    where = {"group_ep": rank.name, "ep_rank_id": rank.rank}
    draw = random.Random(f"{seed}-{rank.rank}")
    delay(draw)
    dispatched = waybill.npu_moe_distribute_dispatch_v2(
        **case.dispatch_arguments(rank.rank), **where
    )
    delay(draw)
    combined = waybill.npu_moe_distribute_combine_v2(
        **case.combine_arguments(rank.rank, dispatched), **where
    )
    return list(dispatched), combined


def differences(case: Case, results: list[tuple[list[Tensor], Tensor]]) -> list[str]:
    want = expected(case)
    found: list[str] = []
    for rank, (dispatched, combined) in enumerate(results):
        found += compare_dispatch(dispatched, want.dispatch[rank], case, rank)
        found += compare_combine(combined, want.combine[rank], case, rank)
    return found


def check(pool: RankPool | LocalPool, seed: int) -> None:
    case = random_case(seed)
    results = pool.run(run_case, seed)
    found = differences(case, results)
    assert not found, "\n".join([case.describe(), *found[:10]])


@pytest.mark.parametrize("seed", stratified(NUM_CASES))
def test_processes(pool_of: PoolOf, seed: int) -> None:
    check(pool_of(group_size(seed)), seed)


@pytest.mark.parametrize("seed", stratified(NUM_THREAD_CASES))
def test_threads(local_pool_of: LocalPoolOf, seed: int) -> None:
    check(local_pool_of(group_size(seed)), seed)


def repeat_case(rank: Rank, seed: int, times: int) -> set[str]:
    """Hashes of everything that is specified, over many calls with delays."""
    case = random_case(seed)
    where = {"group_ep": rank.name, "ep_rank_id": rank.rank}
    draw = random.Random(f"{seed}-{rank.rank}")
    arguments = case.dispatch_arguments(rank.rank)
    hashes = set()
    for i in range(times):
        if i % 20 == 0:
            delay(draw)
        dispatched = waybill.npu_moe_distribute_dispatch_v2(**arguments, **where)
        rows = int(dispatched[4].max())
        combined = waybill.npu_moe_distribute_combine_v2(
            **case.combine_arguments(rank.rank, dispatched), **where
        )
        specified = [dispatched[0][:rows], dispatched[2][: 3 * rows], *dispatched[3:5], combined]
        digest = hashlib.sha256()
        for tensor in specified:
            digest.update(bits(tensor).contiguous().view(torch.uint8).numpy().tobytes())
        hashes.add(digest.hexdigest())
    return hashes


def plain_seed(num_ranks: int) -> int:
    """A small case without quantisation on that many ranks."""
    for seed in range(10_000):
        plain = {"quant:none", "values:none"}
        if group_size(seed) == num_ranks and plain <= random_case(seed).tags:
            return seed
    raise AssertionError("no such case")


def test_a_thousand_calls_give_the_same_bits(pool_of: PoolOf) -> None:
    for hashes in pool_of(4).run(repeat_case, plain_seed(4), 1000, timeout=120):
        assert len(hashes) == 1
