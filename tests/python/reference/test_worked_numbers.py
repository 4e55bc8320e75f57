"""The numbers that the contract works out, on the operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import waybill
from local_groups import LocalGroups

GroupsOf = Callable[..., LocalGroups]
Shape = tuple[tuple[int, ...], torch.dtype]


def int32(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def shapes(tensors: Any) -> list[Shape]:
    return [(tuple(tensor.shape), tensor.dtype) for tensor in tensors]


# docs/contract/operators.md section 2: x (32, 256) bf16, K 8, E 16, M 16, defaults.
SETUP = [((288, 256), torch.bfloat16), ((256,), torch.int32), ((4864,), torch.int32)]
TEARDOWN = [
    ((512, 256), torch.bfloat16),
    ((512,), torch.float32),
    ((65536,), torch.int32),
    ((1,), torch.int64),
]
COMBINE_SETUP = [((32, 512), torch.int8), ((768,), torch.int32)]


def test_shapes_of_the_setup_family_with_fake_tensors() -> None:
    layer = {"group_ep": "nobody", "ep_world_size": 16, "ep_rank_id": 3, "moe_expert_num": 16}
    operators = torch.ops.waybill
    with FakeTensorMode():
        x = torch.empty(32, 256, dtype=torch.bfloat16)
        ids = torch.empty(32, 8, dtype=torch.int32)
        setup = operators.npu_moe_distribute_dispatch_setup(x, ids, **layer)
        assert shapes(setup) == SETUP
        y, _, commands = setup
        teardown = operators.npu_moe_distribute_dispatch_teardown(x, y, ids, commands, **layer)
        assert shapes(teardown) == TEARDOWN
        assist = teardown[2]
        combine_setup = operators.npu_moe_distribute_combine_setup(x, ids, assist, **layer)
        assert shapes(combine_setup) == COMBINE_SETUP
        quantised = operators.npu_moe_distribute_dispatch_setup(x, ids, quant_mode=2, **layer)
        assert shapes(quantised)[0] == ((288, 512), torch.int8)


def test_shapes_of_the_setup_family(local_groups_of: GroupsOf) -> None:
    groups = local_groups_of(16)

    def run(place: int) -> list[list[Shape]]:
        layer = {**groups.where(place), "ep_world_size": 16, "moe_expert_num": 16}
        x = torch.full((32, 256), place, dtype=torch.bfloat16)
        ids = (int32([[t % 16] * 8 for t in range(32)]) + torch.arange(8)).remainder(16).int()
        setup = waybill.npu_moe_distribute_dispatch_setup(x, ids, **layer)
        y, index, commands = setup
        teardown = waybill.npu_moe_distribute_dispatch_teardown(x, y, ids, commands, **layer)
        rows, _, assist, _ = teardown
        back = waybill.npu_moe_distribute_combine_setup(rows, ids, assist, **layer)
        combined = waybill.npu_moe_distribute_combine_teardown(
            rows, back[0], ids, index, torch.full((32, 8), 0.125), back[1], **layer
        )
        assert torch.equal(combined, x)
        # combine_setup with expand_x (32, 256): a rank that received nothing.
        nothing = torch.zeros_like(assist)
        again = waybill.npu_moe_distribute_combine_setup(x, ids, nothing, **layer)
        ignored = torch.zeros(32, dtype=torch.bool)
        waybill.npu_moe_distribute_combine_teardown(
            x,
            again[0],
            ids,
            index,
            torch.zeros(32, 8),
            again[1],
            x_active_mask=ignored,
            **layer,
        )
        return [shapes(setup), shapes(teardown), shapes(again)]

    for got in groups.run(run):
        assert got == [SETUP, TEARDOWN, COMBINE_SETUP]


# Section 8: E = 16, SR = 4, M = 12; rank 3, a shared one, and rank 15 are lost.
TABLE_1 = [0, 1, 2, -1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, -1]
TABLE_2 = [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, -1, -1]
ELASTIC = [1, 14, 3, 11, *TABLE_1, *TABLE_2]


def test_elastic_example(local_groups_of: GroupsOf) -> None:
    """The token of each rank goes to the MoE expert of its new number modulo 11, and to a shared
    rank; every number is written out by the contract's rules.
    """
    groups = local_groups_of(16)
    living = [old for old in range(16) if TABLE_1[old] >= 0]

    def run(place: int) -> tuple[tuple[Tensor, ...], Tensor]:
        layer = {
            **groups.where(place),
            "ep_world_size": 16,
            "moe_expert_num": 12,
            "shared_expert_rank_num": 4,
            "elastic_info": int32(ELASTIC),
        }
        x = torch.full((1, 4), float(place))
        ids = int32([[TABLE_1[place] % 11]])
        dispatched = waybill.npu_moe_distribute_dispatch_v2(x, ids, **layer)
        combined = waybill.npu_moe_distribute_combine_v2(
            dispatched[0], ids, dispatched[2], dispatched[4], torch.full((1, 1), 2.0), **layer
        )
        return dispatched, combined

    results = groups.run(run, living)
    groups.reset()
    for old in living:
        (rows, _, triples, nums, counts, _, _), combined = results[old]
        new = TABLE_1[old]
        if new < 3:  # shared ranks: sources r with r mod 3 == new
            sources, slot = [source for source in range(14) if source % 3 == new], 1
        else:  # MoE rank of expert new - 3
            sources, slot = [source for source in range(14) if source % 11 == new - 3], 0
        assert rows[: len(sources), 0].tolist() == [TABLE_2[source] for source in sources]
        expected = [part for source in sources for part in (source, 0, slot)]
        assert triples[: len(expected)].tolist() == expected
        assert nums.tolist() == [len(sources)]
        running = [sum(source <= last for source in sources) for last in range(14)]
        assert counts.tolist() == [*running, 0, 0]
        # A: the larger of GBS*min(L, K) = 16 and maxBS*ceil(E/R) = 4.
        assert rows.shape == (16, 4)
        assert torch.equal(combined, torch.full((1, 4), 3.0 * old))


@pytest.mark.parametrize("bad", [11, 12], ids=["lost", "past"])
def test_ids_past_new_experts(local_groups_of: GroupsOf, bad: int) -> None:
    """Ids in [newM, M) are errors, and 12 is one without special experts."""
    groups = local_groups_of(16)
    living = [old for old in range(16) if TABLE_1[old] >= 0]

    def run(place: int) -> Any:
        x, ids = torch.ones(1, 4), int32([[bad if place == 4 else 0]])
        return waybill.npu_moe_distribute_dispatch_v2(
            x,
            ids,
            **groups.where(place),
            ep_world_size=16,
            moe_expert_num=12,
            shared_expert_rank_num=4,
            elastic_info=int32(ELASTIC),
        )

    outcomes = groups.outcomes(run, living)
    groups.reset()
    assert isinstance(outcomes[4], waybill.ArgumentError)
    assert outcomes[4].argument == "expert_ids"
    assert f"got {bad}" in str(outcomes[4])
    for old in living:
        if old != 4:
            assert isinstance(outcomes[old], waybill.MismatchError)


# Section 9: E = 2, M = 4, BS = 2, K = 2.
IDS = [[[0, 2], [3, 2]], [[2, 1], [0, 3]]]
EXPAND_IDX = [[0, 0, 0, 1], [0, 0, 0, 0]]
SOURCES = [
    [(0, 0, 0), (1, 1, 0), (1, 0, 1)],
    [(0, 0, 1), (0, 1, 1), (1, 0, 0), (0, 1, 0), (1, 1, 1)],
]
COUNTS = [[1, 2, 2, 3], [2, 3, 4, 5]]
NUMS = {1: [[2, 1], [3, 2]], 0: [[2, 3], [3, 5]]}


@pytest.mark.parametrize("form", ["v1", "v2", "setup"])
@pytest.mark.parametrize("nums_type", [0, 1])
def test_worked_example(local_groups_of: GroupsOf, nums_type: int, form: str) -> None:
    groups = local_groups_of(2)

    def run(place: int) -> tuple[Tensor, Tensor | None, list[int], list[int], list[int] | None]:
        layer = {**groups.where(place), "ep_world_size": 2, "moe_expert_num": 4}
        x = torch.tensor([[10.0 * place], [10.0 * place + 1]])
        ids = int32(IDS[place])
        if form == "setup":
            y, index, commands = waybill.npu_moe_distribute_dispatch_setup(x, ids, **layer)
            rows, _, assist, nums = waybill.npu_moe_distribute_dispatch_teardown(
                x, y, ids, commands, expert_token_nums_type=nums_type, **layer
            )
            return rows, None, nums.tolist(), assist[:4].tolist(), index.tolist()
        suffix = "_v2" if form == "v2" else ""
        dispatch = getattr(waybill, f"npu_moe_distribute_dispatch{suffix}")
        rows, _, third, nums, counts, _, _ = dispatch(
            x, ids, expert_token_nums_type=nums_type, **layer
        )
        triples, index = (third, None) if form == "v2" else (None, third.tolist())
        return rows, triples, nums.tolist(), counts.tolist(), index

    for place, (rows, triples, nums, counts, index) in enumerate(groups.run(run)):
        homes = SOURCES[place]
        assert rows[: len(homes), 0].tolist() == [10 * source + t for source, t, _ in homes]
        assert nums == NUMS[nums_type][place]
        assert counts == COUNTS[place]
        assert index in (None, EXPAND_IDX[place])
        if triples is not None:
            assert triples[: 3 * len(homes)].tolist() == [n for home in homes for n in home]
