"""The oracle where the golden vectors do not look: its numerics, its errors, faces that agree."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cases import by_argument, expected, random_case
from comparisons import bits, compare_combine
from waybill import reference


def same_bits(one: Tensor, two: Tensor) -> bool:
    return one.dtype == two.dtype and torch.equal(bits(one), bits(two))


def call(function: Callable[..., Any], *arguments: dict[str, Any]) -> Any:
    """`function` with those of the arguments that it has."""
    names = inspect.signature(function).parameters
    given = {name: value for part in arguments for name, value in part.items()}
    return function(**{name: value for name, value in given.items() if name in names})


# Numerics that the project fixes.


def test_exp_is_close() -> None:
    lowest = torch.tensor(-87.33654).view(torch.int32).item()
    integers = torch.arange(-(2**31), int(lowest) + 1, 997, dtype=torch.int64).to(torch.int32)
    x = integers.view(torch.float32)
    want = torch.exp(x.double())
    ulp = torch.exp2(torch.floor(torch.log2(want)) - 23)
    error = (reference.exp_f32(x).double() - want).abs() / ulp
    assert error.max() < 1.25


def test_exp_at_the_edges() -> None:
    nan, inf = float("nan"), float("inf")
    x = torch.tensor([0.0, -0.0, -87.33654, -87.33655, -1e30, -inf, nan])
    got = reference.exp_f32(x)
    assert got[:2].tolist() == [1.0, 1.0]
    assert got[2] >= torch.finfo(torch.float32).tiny
    assert got[3:6].tolist() == [0.0, 0.0, 0.0]
    assert got[6].isnan()


def test_exp_bits() -> None:
    """A few results as bits, for whoever writes the same function elsewhere."""
    want = {
        -1.0: 0x3EBC5AB2,
        -0.1: 0x3F67A36D,
        -0.5: 0x3F1B4598,
        -2.0: 0x3E0A9555,
        -10.0: 0x383E6BCE,
        -50.0: 0x1B692BEB,
        -87.0: 0x00B33687,
        -1e-08: 0x3F800000,
    }
    got = reference.exp_f32(torch.tensor(list(want)))
    assert got.view(torch.int32).tolist() == list(want.values())


def test_softmax_pair() -> None:
    l1, l2 = torch.tensor([0.0, 1.0, 300.0, -300.0]), torch.tensor([0.0, 3.0, -300.0, 300.0])
    p1, p2 = reference.softmax_pair(l1, l2)
    want = torch.softmax(torch.stack([l1, l2]).double(), dim=0)
    assert torch.allclose(torch.stack([p1, p2]).double(), want, rtol=1e-6, atol=1e-38)
    p1, p2 = reference.softmax_pair(torch.tensor([float("nan")]), torch.tensor([0.0]))
    assert p1.isnan().all()
    assert p2.isnan().all()


@pytest.mark.parametrize("hidden", [1, 7, 15, 16, 17, 100, 1000])
def test_order_of_the_sum(hidden: int) -> None:
    generator = torch.Generator().manual_seed(hidden)
    terms = torch.rand(3, hidden, generator=generator) - 0.3
    for row, got in zip(terms, reference.sum_over_h(terms), strict=True):
        lanes = [torch.zeros(())] * 16
        for h in range(hidden):
            lanes[h % 16] = lanes[h % 16] + row[h]
        while len(lanes) > 1:
            half = len(lanes) // 2
            lanes = [lanes[j] + lanes[j + half] for j in range(half)]
        assert same_bits(got, lanes[0])


def test_comm_quantisation_of_subnormals() -> None:
    """The scale of float32 subnormals can round to 0 or be far too small."""
    unit = 2.0**-149
    rows = torch.tensor([[63 * unit, -unit, 0.0], [190 * unit, -190 * unit, unit]])
    back = reference.comm_quantize_round_trip(rows)
    assert back.tolist() == [[0.0, 0.0, 0.0], [127 * unit, -127 * unit, unit]]


def test_conversions_round_to_nearest_even() -> None:
    """The oracle relies on torch for these, so torch is checked: all halves, and subnormals."""
    integers = torch.arange(-(2**31), 2**31, 65_521, dtype=torch.int64).to(torch.int32)
    halves = (torch.arange(-(2**15), 2**15) * 65_536 + 32_768).to(torch.int32)
    values = torch.cat([integers, halves]).view(torch.float32)
    values = values[~values.isnan()]
    as_int = values.view(torch.int32).long() & 0xFFFFFFFF
    rounded = (as_int + 0x7FFF + ((as_int >> 16) & 1)) >> 16
    assert torch.equal(values.to(torch.bfloat16).view(torch.int16).long() & 0xFFFF, rounded)


# The same call through another face of the engine.


@pytest.mark.parametrize("features", ["v2", "full"])
def test_v1_and_both_forms_of_add_rms_norm(features: str) -> None:
    """Rows found by occurrence indices give what triples give."""
    seen = 0
    for seed in range(120):
        case = random_case(seed, features=features)
        if any(tag.startswith(("elastic:", "special:")) for tag in case.tags):
            continue
        seen += 1
        want: Any = expected(case)
        inputs = by_argument(case.dispatch_tensors)
        v1 = call(reference.npu_moe_distribute_dispatch, inputs, case.dispatch_options)
        for one, two in zip(v1, want.dispatch, strict=True):
            for name in two._fields:
                if name != "assist_info_for_combine":
                    assert same_bits(getattr(one, name), getattr(two, name)), case.describe()

        tensors = by_argument(
            [case.combine_inputs(rank, output) for rank, output in enumerate(want.dispatch)]
        )
        by_index = {"expand_idx": [output.expand_idx for output in v1]}
        by_triples = {"expand_idx": tensors["assist_info_for_combine"]}
        combine = reference.npu_moe_distribute_combine
        for rank, got in enumerate(call(combine, tensors, by_index, case.combine_options)):
            assert not compare_combine(got, want.combine[rank], case, rank), case.describe()

        rows = {
            "residual_x": [x.to(c.dtype) for x, c in zip(inputs["x"], want.combine, strict=True)],
            "gamma": [torch.ones(case.hidden, dtype=c.dtype) for c in want.combine],
        }
        norm = reference.npu_moe_distribute_combine_add_rms_norm
        for one, two in zip(
            call(norm, tensors, by_index, rows, case.combine_options),
            call(norm, tensors, by_triples, rows, case.combine_options),
            strict=True,
        ):
            assert all(same_bits(a, b) for a, b in zip(one, two, strict=True)), case.describe()
    assert seen > 20


def test_setup_and_teardown_give_what_v2_gives() -> None:
    seen = 0
    for seed in range(150):
        case = random_case(seed)
        if {"mask:2d", "mask:mixed", "a2:yes"} & case.tags:
            continue
        seen += 1
        want: Any = expected(case)
        inputs = by_argument(case.dispatch_tensors)
        options = case.dispatch_options | case.combine_options
        begun = call(reference.npu_moe_distribute_dispatch_setup, inputs, options)
        opaque = by_field(begun)
        received = call(reference.npu_moe_distribute_dispatch_teardown, inputs, opaque, options)
        for one, two in zip(received, want.dispatch, strict=True):
            for name in ("expand_x", "dynamic_scales", "expert_token_nums"):
                assert same_bits(getattr(one, name), getattr(two, name)), case.describe()
            counts = len(two.ep_recv_counts)
            assert same_bits(one.assist_info_for_combine[:counts], two.ep_recv_counts)

        tensors = by_argument(
            [case.combine_inputs(rank, output) for rank, output in enumerate(want.dispatch)]
        )
        tensors["assist_info_for_combine"] = [one.assist_info_for_combine for one in received]
        posted = call(reference.npu_moe_distribute_combine_setup, tensors, options)
        back = call(
            reference.npu_moe_distribute_combine_teardown,
            tensors,
            {"expand_idx": opaque["expand_idx"]},
            by_field(posted),
            options,
        )
        for rank, got in enumerate(back):
            assert not compare_combine(got, want.combine[rank], case, rank), case.describe()
    assert seen > 20


def by_field(outputs: list[Any]) -> dict[str, list[Tensor]]:
    """From a NamedTuple per rank to a list over ranks per output."""
    return {name: [getattr(own, name) for own in outputs] for name in outputs[0]._fields}


# Shapes that the contract works out, and calls that must not pass.


def test_shapes_of_the_contract() -> None:
    """The example at the end of docs/contract/operators.md section 2."""
    x = [torch.zeros(32, 256, dtype=torch.bfloat16) for _ in range(16)]
    ids = [torch.arange(8, dtype=torch.int32).repeat(32, 1) for _ in range(16)]
    sizes: Any = {"ep_world_size": 16, "moe_expert_num": 16}
    begun = reference.npu_moe_distribute_dispatch_setup(x, ids, **sizes)
    assert [tuple(t.shape) for t in begun[0]] == [(288, 256), (256,), (4864,)]
    y, commands = [own.y for own in begun], [own.comm_cmd_info for own in begun]
    received = reference.npu_moe_distribute_dispatch_teardown(x, y, ids, commands, **sizes)
    assert [tuple(t.shape) for t in received[0]] == [(512, 256), (512,), (65536,), (1,)]
    posted = reference.npu_moe_distribute_combine_setup(
        x, ids, [torch.zeros(65536, dtype=torch.int32)] * 16, **sizes
    )
    assert [tuple(t.shape) for t in posted[0]] == [(32, 512), (768,)]
    assert posted[0].quant_expand_x.dtype == torch.int8


def small(ids: list[list[int]], **options: Any) -> list[Any]:
    """dispatch_v2 of two ranks with two experts each and the same ids."""
    x = [torch.ones(len(ids), 4) for _ in range(2)]
    sizes = {"ep_world_size": 2, "moe_expert_num": 4, **options}
    return reference.npu_moe_distribute_dispatch_v2(
        x, [torch.tensor(ids, dtype=torch.int32)] * 2, **sizes
    )


def test_bad_ids_are_refused() -> None:
    with pytest.raises(ValueError, match=r"token 1, k 0: 4 .*\[0, 4\)"):
        small([[0, 1], [4, 2]])
    with pytest.raises(ValueError, match="-2"):
        small([[0, -2]], zero_expert_num=3)


def test_too_many_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="rank 0 would receive 6 rows, it has room for A = 4"):
        small([[0, 0, 0]])


def test_later_modes_are_refused() -> None:
    for quant_mode in (1, 3, 4):
        with pytest.raises(ValueError, match="not yet"):
            small([[0, 1]], quant_mode=quant_mode)
    with pytest.raises(ValueError, match="scales"):
        small([[0, 1]], scales=[torch.ones(4, 4)] * 2)


def test_rows_that_are_missing_or_claimed_twice_are_refused() -> None:
    ids = [[0, 2], [1, 3]]
    sent = small(ids)
    arguments: Any = {
        "expand_x": [own.expand_x for own in sent],
        "expert_ids": [torch.tensor(ids, dtype=torch.int32)] * 2,
        "ep_send_counts": [own.ep_recv_counts for own in sent],
        "expert_scales": [torch.ones(2, 2)] * 2,
        "ep_world_size": 2,
        "moe_expert_num": 4,
    }
    triples = [own.assist_info_for_combine.clone() for own in sent]
    combine = reference.npu_moe_distribute_combine_v2
    (one, _) = combine(assist_info_for_combine=triples, **arguments)
    assert one is not None
    assert one.tolist() == [[2.0] * 4] * 2

    first = triples[0][:3].clone()
    triples[0][:3] = triples[0][3:6]
    with pytest.raises(ValueError, match=r"two rows claim|no row returns"):
        combine(assist_info_for_combine=triples, **arguments)
    triples[0][:3] = first
    triples[0][1] = 7
    with pytest.raises(ValueError, match="no such place"):
        combine(assist_info_for_combine=triples, **arguments)

    del arguments["ep_send_counts"]
    wrong = [torch.tensor([0, 0, 0, 1], dtype=torch.int32)] * 2
    with pytest.raises(ValueError, match="no row returns for token 1, slot 1"):
        reference.npu_moe_distribute_combine(
            expand_idx=wrong, ep_send_counts=[own.ep_recv_counts for own in sent], **arguments
        )


def test_a_masked_pair_needs_no_row() -> None:
    """Combine with a narrower mask than dispatch had ignores the rows of what is masked now."""
    ids = torch.tensor([[0, 2], [1, 3]], dtype=torch.int32)
    sent = small(ids.tolist())
    back = reference.npu_moe_distribute_combine_v2(
        [own.expand_x for own in sent],
        [ids] * 2,
        [own.assist_info_for_combine for own in sent],
        [own.ep_recv_counts for own in sent],
        [torch.ones(2, 2)] * 2,
        ep_world_size=2,
        moe_expert_num=4,
        x_active_mask=[torch.tensor([[True, False], [False, False]])] * 2,
    )
    for own in back:
        assert own is not None
        assert own.tolist() == [[1.0] * 4, [0.0] * 4]


def test_bad_elastic_info_is_refused() -> None:
    x, ids = [torch.ones(1, 4)] * 2, [torch.zeros(1, 1, dtype=torch.int32)] * 2
    for tables in ([0, -1, 1, -1], [0, 0, 0, -1], [-1, 1, 1, -1], [0, -1, 0, 0]):
        info = [torch.tensor([1, 1, 0, 1, *tables], dtype=torch.int32)] * 2
        with pytest.raises(ValueError, match="elastic_info"):
            reference.npu_moe_distribute_dispatch_v2(
                x, ids, ep_world_size=2, moe_expert_num=2, elastic_info=info
            )


def test_bad_tables_are_refused() -> None:
    ids = [torch.tensor([[0, 1]])]
    for table in ([[0, 1], [1, 1]], [[2, 1], [1, 1]], [[1, -1], [1, 1]]):
        with pytest.raises(ValueError, match="row 0"):
            reference.npu_moe_update_expert(ids, [torch.tensor(table)], balance_mode=1)
    with pytest.raises(ValueError, match="expert_ids"):
        reference.npu_moe_update_expert(ids, [torch.tensor([[1, 1]])], balance_mode=1)
    good = [torch.tensor([[1, 5], [1, 6]])]
    with pytest.raises(ValueError, match="balance_mode 0"):
        reference.npu_moe_eplb_update_expert(ids, good, local_rank_id=[2], world_size=2)
    assert reference.npu_moe_eplb_update_expert(ids, good, world_size=1)[0].tolist() == [[5, 6]]


def test_barrier() -> None:
    tensors = [torch.ones(2), torch.zeros(1)]
    returned = reference._npu_distribute_barrier(tensors, world_size=2)
    assert all(a is b for a, b in zip(returned, tensors, strict=True))


def test_no_moe_experts() -> None:
    """M = 0: only special and shared experts, and MoE ranks with A = 0."""
    x = [torch.full((2, 4), 3.0) for _ in range(3)]
    ids = [torch.tensor([[0, 1], [1, 0]], dtype=torch.int32)] * 3
    weights = [torch.ones(2, 2)] * 3
    options: Any = {
        "ep_world_size": 3,
        "moe_expert_num": 0,
        "shared_expert_rank_num": 1,
        "zero_expert_num": 1,
        "copy_expert_num": 1,
    }
    sent: list[Any] = reference.npu_moe_distribute_dispatch_v2(x, ids, **options)
    assert [tuple(own.expand_x.shape) for own in sent] == [(6, 4), (0, 4), (0, 4)]
    assert sent[1].ep_recv_counts.numel() == sent[1].expert_token_nums.numel() == 0
    rows, counts = [own.expand_x for own in sent], [own.ep_recv_counts for own in sent]
    assist = [own.assist_info_for_combine for own in sent]
    back = reference.npu_moe_distribute_combine_v2(
        rows, ids, assist, counts, weights, ori_x=x, **options
    )
    normalized: list[Any] = reference.npu_moe_distribute_combine_add_rms_norm(
        rows, ids, assist, counts, weights, x, [torch.ones(4)] * 3, ori_x=x, **options
    )
    for plain, normal in zip(back, normalized, strict=True):
        assert plain is not None
        assert plain.tolist() == [[6.0] * 4] * 2
        assert normal.x.flatten().tolist() == [9.0] * 8
