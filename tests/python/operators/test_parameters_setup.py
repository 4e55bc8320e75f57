"""Every parameter of the set-up/teardown family, of the barrier and of the expert remapping has its
effect, or is refused by name. dispatch_setup is in test_parameters.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import waybill
from local_groups import LocalGroups
from samples import BASE, BS, TABLE, H, K, M, arguments_of, inputs
from waybill import reference

E = 2
SETUP, TEARDOWN = f"{BASE}dispatch_setup", f"{BASE}dispatch_teardown"
COMBINE_SETUP, COMBINE_TEARDOWN = f"{BASE}combine_setup", f"{BASE}combine_teardown"
FAMILY = (SETUP, TEARDOWN, COMBINE_SETUP, COMBINE_TEARDOWN)
BARRIER = "_npu_distribute_barrier"
UPDATE, EPLB = "npu_moe_update_expert", "npu_moe_eplb_update_expert"

Arguments = dict[str, Any]


def marked(operator: str, name: str, *values: Any) -> Any:
    short = operator.removeprefix(BASE)
    mark = pytest.mark.covers(operator, name)
    return pytest.param(operator, name, *values, marks=mark, id=f"{short}-{name}")


@pytest.fixture
def groups() -> Iterator[LocalGroups]:
    """Of its own: a refused teardown leaves its set-up open."""
    made = LocalGroups(E, timeout=10)
    yield made
    made.close(timeout=0.02)


def call(operator: str, arguments: Arguments) -> Any:
    return getattr(waybill, operator)(**arguments)


def family_until(operator: str, layer: Arguments) -> tuple[Arguments, dict[str, Any]]:
    results: dict[str, Any] = {}
    for earlier in FAMILY[: FAMILY.index(operator)]:
        results[earlier] = call(earlier, arguments_of(earlier, layer, results))
    return arguments_of(operator, layer, results), results


IDS_3 = torch.zeros(BS, K + 1, dtype=torch.int32)
FAR_IDS = torch.full((BS, K), 99, dtype=torch.int32)
COMMON: Arguments = {
    "group_ep": "nobody",
    "ep_world_size": E + 1,
    "ep_rank_id": 7,
    "expert_shard_type": 1,
}
DIFFERENT: Arguments = {  # legal, but not what the set-up had
    **COMMON,
    "moe_expert_num": 2 * M,
    "shared_expert_num": 0,
    "shared_expert_rank_num": 1,
    "global_bs": E * (BS + 1),
    "comm_type": 2,
    "comm_alg": "fullmesh",
}
BAD: dict[str, Arguments] = {
    TEARDOWN: {
        **DIFFERENT,
        "x": torch.ones(BS, H + 1).bfloat16(),
        "y": "y",
        "expert_ids": IDS_3,
        "comm_cmd_info": torch.zeros(100, dtype=torch.int32),
        "quant_mode": 2,
    },
    COMBINE_SETUP: {
        **COMMON,
        "moe_expert_num": M + 1,
        "shared_expert_num": -1,
        "shared_expert_rank_num": E,
        "global_bs": E * BS + 1,
        "comm_quant_mode": 1,
        "comm_type": 1,
        "comm_alg": "ring",
        "expert_ids": torch.zeros(BS, dtype=torch.int32),
        "assist_info_for_combine": torch.full((100,), 88, dtype=torch.int32),
    },
    COMBINE_TEARDOWN: {
        **DIFFERENT,
        "expand_x": torch.ones(1, H + 1).bfloat16(),
        "quant_expand_x": "q",
        "expert_ids": FAR_IDS,
        "expand_idx": torch.full((BS * K,), 1000, dtype=torch.int32),
        "comm_cmd_info": torch.zeros(100, dtype=torch.int32),
        "comm_quant_mode": 2,
    },
}


@pytest.mark.parametrize(
    ("operator", "name", "value"),
    [marked(operator, *item) for operator, bad in BAD.items() for item in bad.items()],
)
def test_refused(groups: LocalGroups, operator: str, name: str, value: Any) -> None:
    def run(place: int) -> None:
        layer = {**groups.where(place), "ep_world_size": E}
        arguments, _ = family_until(operator, layer)
        with pytest.raises(waybill.WaybillError) as caught:
            call(operator, {**arguments, name: value})
        assert isinstance(caught.value, waybill.ArgumentError | waybill.StateError)
        assert caught.value.operator == operator
        assert caught.value.argument == name or name in str(caught.value) or value == "nobody"

    groups.run(run)


@pytest.mark.covers(TEARDOWN, "y")
@pytest.mark.covers(COMBINE_TEARDOWN, "quant_expand_x")
def test_reserved_tensors_are_not_read(groups: LocalGroups) -> None:
    def run(place: int) -> tuple[Tensor, Tensor]:
        layer = {**groups.where(place), "ep_world_size": E}
        arguments, results = family_until(TEARDOWN, layer)
        rows = call(TEARDOWN, {**arguments, "y": torch.zeros(1)})
        results[TEARDOWN] = rows
        results[COMBINE_SETUP] = call(COMBINE_SETUP, arguments_of(COMBINE_SETUP, layer, results))
        last = arguments_of(COMBINE_TEARDOWN, layer, results)
        first = call(COMBINE_TEARDOWN, {**last, "quant_expand_x": torch.zeros(1)})
        _, results = family_until(COMBINE_TEARDOWN, layer)
        return first, call(COMBINE_TEARDOWN, arguments_of(COMBINE_TEARDOWN, layer, results))

    for one, two in groups.run(run):
        assert torch.equal(one, two)


HALF = torch.tensor([True, True, False, False])
EFFECTS = [
    marked(TEARDOWN, "expert_token_nums_type", {"expert_token_nums_type": 0}),
    marked(COMBINE_SETUP, "expand_x", {"expand_x": "doubled"}),
    marked(COMBINE_TEARDOWN, "expert_scales", {"expert_scales": torch.full((BS, K), 3.0)}),
    marked(COMBINE_TEARDOWN, "x_active_mask", {"x_active_mask": HALF}),
    marked(COMBINE_TEARDOWN, "shared_expert_x", {"shared_expert_x": torch.ones(BS, H).bfloat16()}),
]


@pytest.mark.parametrize(("operator", "name", "change"), EFFECTS)
def test_changes_the_result(
    groups: LocalGroups, operator: str, name: str, change: Arguments
) -> None:
    def results_of(layer: Arguments, changed: bool) -> dict[str, Any]:
        results: dict[str, Any] = {}
        for step in FAMILY:
            arguments = arguments_of(step, layer, results)
            if changed and step == operator:
                arguments |= change
                if name == "expand_x":
                    arguments["expand_x"] = results[TEARDOWN][0] * 2
            results[step] = call(step, arguments)
        return results

    def run(place: int) -> tuple[dict[str, Any], dict[str, Any]]:
        layer = {**groups.where(place), "ep_world_size": E}
        return results_of(layer, False), results_of(layer, True)

    for place, (usual, changed) in enumerate(groups.run(run)):
        before, after = usual[COMBINE_TEARDOWN], changed[COMBINE_TEARDOWN]
        if name == "expert_token_nums_type":
            assert torch.equal(changed[TEARDOWN][3], usual[TEARDOWN][3].cumsum(0))
            assert not torch.equal(changed[TEARDOWN][3], usual[TEARDOWN][3])
        elif name == "expand_x":
            assert torch.equal(after, before * 2) and before.any()
        elif name == "x_active_mask":
            assert torch.equal(after[:2], before[:2])
            assert before[2:].any() and not after[2:].any()
        else:
            x, _, weights = inputs(place)
            weights = change.get("expert_scales", weights)
            acc = torch.zeros(BS, H)
            for k in range(K):  # experts leave rows as they are
                acc = acc + x.float() * weights[:, k, None]
            if name == "shared_expert_x":
                acc = acc + change["shared_expert_x"].float()
            assert torch.equal(after, acc.bfloat16())


BARRIER_BAD: Arguments = {
    "x_ref": "x",
    "group": "nobody",
    "world_size": E + 1,
    "time_out": torch.zeros(1, dtype=torch.int32),
    "elastic_info": torch.full((4 + 2 * E,), 5, dtype=torch.int32),
}


@pytest.mark.parametrize(
    ("operator", "name", "value"), [marked(BARRIER, *item) for item in BARRIER_BAD.items()]
)
def test_barrier_refuses(groups: LocalGroups, operator: str, name: str, value: Any) -> None:
    def run(place: int) -> None:
        arguments = arguments_of(BARRIER, {**groups.where(place), "ep_world_size": E}, {})
        with pytest.raises(waybill.WaybillError) as caught:
            call(operator, {**arguments, name: value})
        assert isinstance(caught.value, waybill.ArgumentError | waybill.StateError)
        assert caught.value.argument == name or value == "nobody"
        assert call(operator, arguments) is arguments["x_ref"]

    groups.run(run)


@pytest.mark.covers(BARRIER, "x_ref")
def test_barrier_returns_its_argument(groups: LocalGroups) -> None:
    def run(place: int) -> None:
        for x in (torch.ones(3, dtype=torch.complex64), torch.arange(4)[::2], torch.empty(0)):
            before = x.clone()
            assert waybill._npu_distribute_barrier(x, groups.name(place), E) is x
            assert torch.equal(x, before)
            new = torch.ops.waybill._npu_distribute_barrier(x, groups.name(place), E)
            assert torch.equal(new, x)
            assert new.numel() == 0 or new.data_ptr() != x.data_ptr()

    groups.run(run)


@pytest.mark.covers(BARRIER, "time_out")
def test_time_out_of_one_call(groups: LocalGroups) -> None:
    """Ten milliseconds in place of the group's ten seconds."""
    with pytest.raises(waybill.PeerTimeout) as caught:
        waybill._npu_distribute_barrier(
            torch.ones(1), groups.name(0), E, time_out=torch.tensor([10_000], dtype=torch.int32)
        )
    assert caught.value.ranks == [1]
    groups.reset()


@pytest.mark.covers(BARRIER, "elastic_info")
def test_barrier_of_survivors(groups: LocalGroups) -> None:
    """The other rank makes no call."""
    alone = torch.tensor([1, 1, 0, 0, -1, 0, 1, -1], dtype=torch.int32)
    x = torch.ones(2)
    name = groups.name(1)
    assert waybill._npu_distribute_barrier(x, name, E, elastic_info=alone) is x
    groups.reset()


IDS = inputs(0)[1]
SCALES = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.1, 0.3]])
THRESHOLD = torch.full((K,), 0.5)
REMAP: list[tuple[str, Arguments, Arguments]] = [
    ("expert_ids", {}, {"expert_ids": (IDS + 1).remainder(M).int()}),
    ("eplb_table", {}, {"eplb_table": TABLE + torch.tensor([0, 3, 3], dtype=torch.int32)}),
    ("local_rank_id", {}, {"local_rank_id": 1}),
    ("world_size", {"local_rank_id": 1}, {"local_rank_id": 1, "world_size": 4}),
    ("balance_mode", {}, {"balance_mode": 1}),
]
PRUNING = {"expert_scales": SCALES, "pruning_threshold": THRESHOLD}
PRUNE: list[tuple[str, Arguments, Arguments]] = [
    ("expert_scales", PRUNING, {**PRUNING, "expert_scales": SCALES.flip(0)}),
    ("pruning_threshold", PRUNING, {**PRUNING, "pruning_threshold": torch.full((K,), 0.1)}),
    ("active_mask", {}, {"active_mask": HALF}),
]


def remap(module: Any, operator: str, arguments: Arguments) -> list[Tensor]:
    if module is reference:
        lists = {
            name: [value] if isinstance(value, Tensor) or name == "local_rank_id" else value
            for name, value in arguments.items()
        }
        results = getattr(reference, operator)(**lists)[0]
    else:
        results = getattr(waybill, operator)(**arguments)
    return [results] if isinstance(results, Tensor) else list(results)


@pytest.mark.parametrize(
    ("operator", "name", "usual", "change"),
    [marked(UPDATE, *row) for row in (*REMAP, *PRUNE)] + [marked(EPLB, *row) for row in REMAP[:4]],
)
def test_remapping(operator: str, name: str, usual: Arguments, change: Arguments) -> None:
    base = {"expert_ids": IDS, "eplb_table": TABLE, "local_rank_id": 0, "world_size": 2}
    before = remap(reference, operator, {**base, **usual})
    want = remap(reference, operator, {**base, **change})
    got = remap(waybill, operator, {**base, **change})
    assert len(got) == len(want)
    assert all(torch.equal(*pair) for pair in zip(got, want, strict=True))
    assert not all(torch.equal(*pair) for pair in zip(before, want, strict=True)), name


@pytest.mark.covers(EPLB, "balance_mode")
def test_eplb_has_one_mode() -> None:
    with pytest.raises(waybill.ArgumentError) as caught:
        waybill.npu_moe_eplb_update_expert(IDS, TABLE, 0, 2, balance_mode=1)
    assert caught.value.argument == "balance_mode"
