"""-1 among expert_ids is "not routed": all is as if a (BS, K) mask were false there.

The sweeps hold the operators to the oracle with such ids; here the oracle is held to the sentence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import waybill
from cases import Case, random_case
from comparisons import bits
from forms import expected_form
from local_groups import LocalGroups
from waybill import reference

GroupsOf = Callable[..., LocalGroups]
NUM_CASES = 25  # of each family


def not_routed_cases(features: str) -> list[Case]:
    found: list[Case] = []
    seed = 0
    while len(found) < NUM_CASES:
        case = random_case(seed, features=features, max_ranks=6)
        seed += 1
        ids = [own["expert_ids"] for own in case.dispatch_tensors if own]
        if "not_routed:yes" in case.tags and any((own == -1).any() for own in ids):
            found.append(case)
    return found


def with_a_mask(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same arguments without -1: a mask says it, and the ids there are garbage."""
    if not tensors:
        return tensors
    ids = tensors["expert_ids"]
    mask = tensors.get("x_active_mask", torch.ones(ids.shape, dtype=torch.bool))
    part = (ids != -1) & (mask[:, None] if mask.dim() == 1 else mask)
    garbage = torch.full_like(ids, 2**31 - 1)
    return {**tensors, "expert_ids": torch.where(part, ids, garbage), "x_active_mask": part}


@pytest.mark.parametrize("features", ["full", "v1", "setup"])
def test_is_as_if_a_mask_were_false(features: str) -> None:
    for case in not_routed_cases(features):
        masked = dataclasses.replace(
            case,
            dispatch_tensors=[with_a_mask(own) for own in case.dispatch_tensors],
            combine_tensors=[with_a_mask(own) for own in case.combine_tensors],
        )
        for got, want in zip(expected_form(case), expected_form(masked), strict=True):
            for mine, right in zip(got, want, strict=True):
                assert same(mine, right), case.describe()


def same(got: Any, want: Any) -> bool:
    if got is None or isinstance(got, Tensor):
        return got is want or torch.equal(bits(got), bits(want))
    return all(map(same, got, want))


E, M, K, H = 2, 4, 2, 8
IDS = torch.tensor([[0, -1], [-1, -1], [-1, 3]], dtype=torch.int32)
WEIGHTS = torch.tensor([[0.5, float("nan")], [float("nan")] * 2, [float("nan"), 0.25]])


def run_layer(groups: LocalGroups, place: int, ids: Tensor = IDS, **masks: Any) -> Any:
    common = {**groups.where(place), "ep_world_size": E, "moe_expert_num": M, "expert_ids": ids}
    x = torch.ones(len(ids), H) * (place + 1)
    dispatched = waybill.npu_moe_distribute_dispatch_v2(x, **common, **masks)
    combined = waybill.npu_moe_distribute_combine_v2(
        dispatched[0],
        assist_info_for_combine=dispatched[2],
        ep_send_counts=dispatched[4],
        expert_scales=WEIGHTS,
        **common,
        **masks,
    )
    return dispatched, combined


def test_weights_of_choices_left_out_are_not_read(local_groups_of: GroupsOf) -> None:
    groups = local_groups_of(E)
    for place, (dispatched, combined) in enumerate(
        groups.run(lambda place: run_layer(groups, place))
    ):
        assert dispatched[3].tolist() == ([2, 0] if place == 0 else [0, 2])
        want = torch.tensor([0.5, 0.0, 0.25]) * (place + 1)
        assert torch.equal(combined, want[:, None].expand(3, H))


def test_an_idle_rank_takes_part_without_tokens(local_groups_of: GroupsOf) -> None:
    """All ids of rank 1 are -1: its experts work, its result is zero."""
    groups = local_groups_of(E)
    ids = [IDS, torch.full_like(IDS, -1)]
    (first, back), (second, nothing) = groups.run(
        lambda place: run_layer(groups, place, ids[place])
    )
    assert [int(part[3].sum()) for part in (first, second)] == [1, 1]
    assert torch.equal(back[:, 0], torch.tensor([0.5, 0.0, 0.25]))
    assert torch.equal(nothing, torch.zeros(3, H))


@pytest.mark.parametrize("strict", ["a2", "a3"])
def test_strict_modes_refuse_it(strict: str) -> None:
    groups = LocalGroups(16, strict=strict)
    weights = {"expert_scales": torch.ones(2, K)} if strict == "a2" else {}

    def dispatch(place: int) -> None:
        waybill.npu_moe_distribute_dispatch_v2(
            torch.ones(2, 1024).bfloat16(),
            torch.tensor([[5, 2], [3, -1]], dtype=torch.int32),
            **groups.where(place),
            ep_world_size=16,
            moe_expert_num=16,
            **weights,
        )

    for error in groups.outcomes(dispatch):
        assert isinstance(error, waybill.ArgumentError)
        assert f"not -1, in strict mode {strict}, got -1 at token 1, k 1" in str(error)
    groups.close()


TABLE = torch.tensor([[1, 4, -1], [2, 1, 5]], dtype=torch.int32)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_update_expert(dtype: torch.dtype) -> None:
    """-1 stays, tokens that are not active keep their ids, and neither is weighed."""
    ids = torch.tensor([[1, -1, 0], [-7, 99, -1]], dtype=dtype)
    scales = torch.tensor([[0.5, float("nan"), 0.25], [float("nan")] * 3])
    arguments: dict[str, Any] = {
        "expert_scales": scales,
        "pruning_threshold": torch.tensor([0.5, 0.0, 0.5]),
        "active_mask": torch.tensor([True, False]),
        "world_size": 2,
    }
    balanced, keep = waybill.npu_moe_update_expert(ids, TABLE, local_rank_id=1, **arguments)
    assert balanced.tolist() == [[5, -1, 4], [-7, 99, -1]] and balanced.dtype == dtype
    assert keep.tolist() == [[True, False, False], [False] * 3]
    (oracle,) = reference.npu_moe_update_expert(
        [ids],
        [TABLE],
        local_rank_id=[1],
        **{name: [value] for name, value in arguments.items() if isinstance(value, Tensor)},
        world_size=2,
    )
    assert torch.equal(oracle.balanced_expert_ids, balanced)
    assert torch.equal(oracle.balanced_active_mask, keep)
    alone = waybill.npu_moe_eplb_update_expert(ids[:1], TABLE, 1, 2)
    assert torch.equal(alone, balanced[:1])


def test_wrong_ids_say_how_to_leave_a_choice_out() -> None:
    for call, way in (
        (lambda ids: waybill.npu_moe_eplb_update_expert(ids, TABLE, 0, 2), "-1 leaves"),
        (
            lambda ids: waybill.npu_moe_update_expert(ids, TABLE, balance_mode=1),
            "-1 or false in active_mask leaves",
        ),
    ):
        with pytest.raises(waybill.ArgumentError) as raised:
            call(torch.tensor([[0, 2]]))
        assert f"ids in [0, 2), the rows of eplb_table ({way} a choice out), got 2" in str(
            raised.value
        )
    with pytest.raises(ValueError, match="-1 or false in x_active_mask leaves a choice out"):
        reference.npu_moe_distribute_dispatch_v2(
            [torch.ones(1, 4)],
            [torch.tensor([[7]], dtype=torch.int32)],
            ep_world_size=1,
            moe_expert_num=2,
        )


def test_more_rows_than_there_is_room_for_says_why() -> None:
    ids = torch.zeros(1, 2, dtype=torch.int32)
    with pytest.raises(ValueError, match="token name an expert more than once"):
        reference.npu_moe_distribute_dispatch_v2(
            [torch.ones(1, 4)], [ids], ep_world_size=1, moe_expert_num=1
        )
