"""One layer on all ranks of a pool, compared with the oracle: the pool works."""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor

import waybill
from cases import Case, expected, random_case
from comparisons import compare_combine, compare_dispatch
from ranks import Rank, RankPool


def run_case(rank: Rank, seed: int) -> tuple[tuple[Tensor, ...], Tensor]:
    case = random_case(seed)
    where = {"group_ep": rank.name, "ep_rank_id": rank.rank}
    dispatched = waybill.npu_moe_distribute_dispatch_v2(
        **case.dispatch_arguments(rank.rank), **where
    )
    combined = waybill.npu_moe_distribute_combine_v2(
        **case.combine_arguments(rank.rank, dispatched), **where
    )
    return dispatched, combined


@lru_cache
def case_of(num_ranks: int) -> Case:
    cases = (random_case(seed) for seed in range(1000))
    return next(case for case in cases if len(case.ranks) == num_ranks)


def check_works(pool: RankPool) -> None:
    case = case_of(pool.num_ranks)
    want = expected(case)
    for rank, (dispatched, combined) in enumerate(pool.run(run_case, case.seed)):
        assert not compare_dispatch(dispatched, want.dispatch[rank], case, rank)
        assert not compare_combine(combined, want.combine[rank], case, rank)
