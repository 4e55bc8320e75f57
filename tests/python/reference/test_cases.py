"""The generator of random cases: valid for the oracle, varied, reproducible, compared strictly."""

from __future__ import annotations

import time
from collections import Counter

import pytest
import torch

from cases import Case, expected, random_case
from comparisons import compare_combine, compare_dispatch

pytestmark = pytest.mark.usefixtures("one_thread")

NUM_SEEDS = 200
MAX_CASE_BYTES = 24 << 20

V2_TAGS = (
    [f"dtype:{dtype}" for dtype in ("bf16", "fp16", "fp32")]
    + [f"ranks:{num}" for num in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16)]
    + [f"H:{num}" for num in (1, 7, 31, 64, 100, 576, 1000)]
    + [f"K:{num}" for num in (1, 2, 3, 4, 6, 8, 16)]
    + [f"S:{num}" for num in (0, 1, 2, 3, 4)]
    + [f"R:{num}" for num in (0, 1, 2, 3, 4)]
    + [f"bs:{kind}" for kind in ("equal", "unequal", "some zero", "all zero")]
    + [f"global_bs:{kind}" for kind in ("0", "tight", "slack")]
    + [f"mask:{kind}" for kind in ("none", "1d", "2d", "mixed")]
    + [f"ids:{kind}" for kind in ("garbage", "duplicates", "few experts")]
    + ["quant:none", "quant:2", "smooth:yes", "smooth:none", "a2:yes", "a2:none"]
    + ["comm_quant:none", "comm_quant:2", "nums_type:none", "nums_type:1"]
    + [f"shared_x:{kind}" for kind in ("none", "2d", "3d")]
    + [f"comm_alg:{kind}" for kind in ("none", "fullmesh", "fullmesh_v1", "fullmesh_v2")]
    + ["comm_alg:hierarchy", "tp:none", "tp:1", "values:special", "layout:strided"]
    + ["not_routed:none", "not_routed:yes"]
)
FULL_TAGS = [
    *V2_TAGS,
    *(f"special:{kind}" for kind in "zcn"),
    *("alphas:none", "alphas:1d", "alphas:2d", "ori_x:ignored", "tp:2"),
    *("elastic:flag 0", "elastic:removed", "elastic:nobody removed"),
    *("elastic:renumbered", "elastic:other SR"),
]


@pytest.fixture(scope="module", params=["v2", "full"])
def features(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def cases(features: str) -> list[Case]:
    return [random_case(seed, features=features) for seed in range(NUM_SEEDS)]


def total_bytes(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_oracle_accepts_every_case(cases: list[Case]) -> None:
    for case in cases:
        try:
            want = expected(case)
        except ValueError as error:
            pytest.fail(f"{case.describe()}: {error}")
        for rank in range(len(case.dispatch_tensors)):
            output = want.dispatch[rank]
            assert (output is not None) == (rank in case.ranks) == (want.combine[rank] is not None)
        inputs = [t for own in case.dispatch_tensors + case.combine_tensors for t in own.values()]
        outputs = [t for output in want.dispatch if output is not None for t in output]
        size = total_bytes(inputs + outputs)
        assert size < MAX_CASE_BYTES, f"{case.describe()}: {size} bytes"


def test_every_option_is_hit(cases: list[Case], features: str) -> None:
    hits = Counter(tag for case in cases for tag in case.tags)
    wanted = FULL_TAGS if features == "full" else V2_TAGS
    missing = [tag for tag in wanted if not hits[tag]]
    assert not missing, f"never drawn: {missing}; drawn: {sorted(hits.items())}"
    if features == "v2":
        beyond = [tag for tag in hits if tag.startswith(("elastic:", "special:")) or tag == "tp:2"]
        assert not beyond


def test_options_are_in_the_arguments(cases: list[Case]) -> None:
    """The tags say what the tensors really are."""
    for case in cases:
        tensors = [case.dispatch_tensors[rank] for rank in case.ranks]
        assert all(str(own["x"].dtype).endswith(DTYPE_SUFFIX[case.dtype]) for own in tensors)
        assert ("smooth:yes" in case.tags) == all("scales" in own for own in tensors)
        assert ("a2:yes" in case.tags) == all("expert_scales" in own for own in tensors)
        dims = {own["x_active_mask"].dim() for own in tensors if "x_active_mask" in own}
        assert dims <= {"none": set(), "1d": {1}, "2d": {2}}.get(tag_value(case, "mask"), {1, 2})
        elastic = any(tag.startswith("elastic:") for tag in case.tags)
        assert elastic == all("elastic_info" in own for own in tensors)
        shared_x = {
            own["shared_expert_x"].dim() for own in case.combine_tensors if "shared_expert_x" in own
        }
        assert shared_x == {"none": set(), "2d": {2}, "3d": {3}}[tag_value(case, "shared_x")]
    strided = [case for case in cases if "layout:strided" in case.tags]
    assert any(
        not own["x"].is_contiguous() for case in strided for own in case.dispatch_tensors if own
    )


DTYPE_SUFFIX = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def tag_value(case: Case, option: str) -> str:
    (tag,) = [tag for tag in case.tags if tag.startswith(f"{option}:")]
    return tag.split(":", 1)[1]


def test_same_seed_same_case() -> None:
    for seed in range(20):
        one, two = (random_case(seed, features="full") for _ in range(2))
        assert one.describe() == two.describe()
        assert one.dispatch_options == two.dispatch_options
        for a, b in zip(one.dispatch_tensors, two.dispatch_tensors, strict=True):
            assert a.keys() == b.keys()
            for name in a:
                assert torch.equal(as_bytes(a[name]), as_bytes(b[name]))
        rank = one.ranks[0]
        assert torch.equal(as_bytes(one.expert_rows(rank, 3)), as_bytes(two.expert_rows(rank, 3)))


def as_bytes(values: torch.Tensor) -> torch.Tensor:
    # contiguous() keeps odd strides of dimensions of size 1, and view refuses these.
    plain = values.clone(memory_format=torch.contiguous_format)
    return plain.flatten().view(torch.uint8)


@pytest.mark.parametrize("max_ranks", [1, 2, 4, 8])
def test_max_ranks(max_ranks: int) -> None:
    for seed in range(60):
        case = random_case(seed, max_ranks=max_ranks, features="full")
        assert len(case.dispatch_tensors) <= max_ranks
        expected(case)


def test_oracle_agrees_with_itself(cases: list[Case]) -> None:
    """Two runs compare equal, although unspecified parts are overwritten in one of them."""
    for case in cases[:60]:
        want, got = expected(case), expected(case)
        for rank in case.ranks:
            dispatched, combined = want.dispatch[rank], want.combine[rank]
            assert dispatched is not None and combined is not None
            own, peer = case.rows_received(dispatched.ep_recv_counts)
            mine, back = got.dispatch[rank], got.combine[rank]
            assert mine is not None and back is not None
            mine.expand_x[own + peer :] = 1
            mine.assist_info_for_combine[3 * own :] = -7
            assert not compare_dispatch(mine, dispatched, case, rank)
            assert not compare_combine(back, combined, case, rank)


def test_a_flipped_bit_is_found(cases: list[Case]) -> None:
    """Every output, the last specified element of it."""
    found: Counter[str] = Counter()
    for case in cases:
        want = expected(case)
        rank = case.ranks[-1]
        right = want.dispatch[rank]
        assert right is not None
        own, peer = case.rows_received(right.ep_recv_counts)
        if own == 0 or not right.dynamic_scales[: own + peer].isfinite().all():
            continue
        quantised = case.dispatch_options["quant_mode"] == 2
        last = {
            "expand_x": own + peer - 1,
            "dynamic_scales": own + peer - 1 if quantised else None,
            "assist_info_for_combine": 3 * own - 1,
            "expert_token_nums": -1,
            "ep_recv_counts": -1,
            "tp_recv_counts": -1 if case.tp == 2 else None,
            "expand_scales": own - 1,
        }
        for name, index in last.items():
            if index is None:
                continue
            damaged = [flip(t, index) if n == name else t for n, t in right._asdict().items()]
            (difference,) = compare_dispatch(damaged, right, case, rank)
            assert name in difference
            found[name] += 1
        combined = want.combine[rank]
        assert combined is not None
        if combined.numel() and combined.isfinite().all():
            assert len(compare_combine(flip(combined, -1), combined, case, rank)) == 1
            found["combine"] += 1
        short = right._replace(expand_scales=right.expand_scales[:-1])
        assert "expand_scales is" in compare_dispatch(short, right, case, rank)[0]
    assert all(found[name] for name in (*last, "combine") if name != "tp_recv_counts"), found


def flip(values: torch.Tensor, index: int) -> torch.Tensor:
    """A copy with the lowest bit of the last element of row `index` inverted."""
    copy = values.clone()
    row = copy[index] if copy.dim() > 1 else copy[index : index + 1 or None]
    integers = row.view(
        {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[row.element_size()]
    )
    integers[-1] ^= 1
    return copy


def test_generating_and_computing_is_fast() -> None:
    """A sweep of thousands of cases has to stay a matter of minutes."""
    begin = time.process_time()
    for seed in range(50):
        expected(random_case(seed, features="full"))
    assert time.process_time() - begin < 50 * 0.5
