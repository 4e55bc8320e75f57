"""Every operator form with every pair of options that can occur together, on processes, bit for
bit against the oracle.

Several cases go into one run of a pool, since a round trip costs as much as a small case.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations

import pytest

from family import check
from pairs import Chosen, batches, selection
from ranks import RankPool

FULL = os.environ.get("WAYBILL_SWEEP") == "full"
NUM_CASES = 4000
NUM_DEFAULT = 400
BATCH = 10

PoolOf = Callable[..., RankPool]


def chosen_batches() -> list[list[Chosen]]:
    cases = selection(NUM_CASES).cases
    return batches(cases if FULL else cases[:NUM_DEFAULT], BATCH)


def ids_of(batch: list[Chosen]) -> str:
    return f"{batch[0].num_places}ranks-{batch[0].features}{batch[0].seed}"


@pytest.mark.parametrize("batch", chosen_batches(), ids=ids_of)
def test_family(pool_of: PoolOf, batch: list[Chosen]) -> None:
    check(pool_of(batch[0].num_places), batch)


def pairs_of(cases: list[Chosen]) -> Iterator[tuple[str, str]]:
    for case in cases:
        yield from combinations(sorted(case.pair_tags), 2)


def test_all_pairs_are_covered() -> None:
    """Whatever two option values occur together in 20,000 cases do so in the full sweep."""
    chosen = selection(NUM_CASES)
    assert len(chosen.cases) >= NUM_CASES > 1500
    assert set(pairs_of(chosen.cases)) == chosen.pairs
    assert len(chosen.pairs) > 5000


NEEDED = (
    [f"ranks:{num}" for num in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16)]
    + [f"H:{num}" for num in (1, 7, 31, 64, 100, 576, 1000, 3584, 7168)]
    + [f"K:{num}" for num in range(1, 17)]
    + [f"dtype:{dtype}" for dtype in ("bf16", "fp16", "fp32")]
    + [f"form:{form}" for form in ("v2", "v2+rms", "v1", "v1+rms", "setup")]
    + [f"mask:{kind}" for kind in ("none", "1d", "2d", "mixed")]
    + [f"bs:{kind}" for kind in ("equal", "unequal", "some zero", "all zero")]
    + [f"special:{kind}" for kind in "zcn"]
    + [f"S:{num}" for num in range(5)]
    + ["quant:none", "quant:2", "smooth:yes", "comm_quant:none", "comm_quant:2", "a2:yes"]
    + ["elastic:flag 0", "elastic:removed", "elastic:nobody removed", "elastic:other SR"]
    + ["elastic:renumbered", "tp:none", "tp:1", "tp:2", "nums_type:none", "nums_type:1"]
    + ["alphas:1d", "alphas:2d", "shared_x:2d", "shared_x:3d", "values:special", "rows:buffer"]
    + [
        "not_routed:yes",
        "layout:strided",
        "performance:yes",
        "comm_type:2",
        "global_bs:slack",
        "global_bs:0",
    ]
    + [f"comm_alg:{alg}" for alg in ("none", "fullmesh", "fullmesh_v1", "fullmesh_v2", "hierarchy")]
)


def test_the_default_part_has_every_value() -> None:
    hits = Counter(
        tag for case in selection(NUM_CASES).cases[:NUM_DEFAULT] for tag in case.pair_tags
    )
    missing = [tag for tag in NEEDED if not hits[tag]]
    assert not missing, f"not among the first {NUM_DEFAULT}: {missing}"


UNLIKE = [
    ("ranks:7", "tp:2"),
    ("ranks:3", "elastic:removed"),
    ("form:v1+rms", "mask:2d"),
    ("form:setup", "comm_quant:2"),
    ("form:v2+rms", "special:n"),
    ("quant:2", "H:7168"),
    ("K:16", "bs:some zero"),
    ("ranks:12", "dtype:fp32"),
    ("form:setup", "not_routed:yes"),
    ("form:v1+rms", "not_routed:yes"),
    ("elastic:removed", "not_routed:yes"),
    ("not_routed:yes", "tp:2"),
    ("not_routed:yes", "smooth:yes"),
]


@pytest.mark.parametrize("pair", UNLIKE, ids=str)
def test_pairs_that_matter(pair: tuple[str, str]) -> None:
    """Some by name, so that the universe cannot shrink unnoticed."""
    ordered = sorted(pair)
    assert (ordered[0], ordered[1]) in selection(NUM_CASES).pairs
