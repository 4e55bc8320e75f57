"""Fake kernels of the whole family: shapes and dtypes of eager calls, BS left a symbol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

import waybill
from cases import FORMS, outline, random_case
from forms import Arguments, call_operator, run_form
from local_groups import LocalGroups
from samples import ORDER, walk

GroupsOf = Callable[..., LocalGroups]
Shapes = list[tuple[tuple[int, ...], torch.dtype]]

NUM_CASES = 30  # of each family of operators
MAX_RANKS = 6


def shapes(results: Any) -> Shapes:
    tensors = [results] if isinstance(results, Tensor) else results
    return [(tuple(tensor.shape), tensor.dtype) for tensor in tensors]


def fake_call(operator: str, arguments: Arguments) -> Any:
    """The same call with fake tensors; no group is needed."""
    with FakeTensorMode() as mode:
        faked = {
            name: mode.from_tensor(value) if isinstance(value, Tensor) else value
            for name, value in arguments.items()
        }
        results = getattr(torch.ops.waybill, operator)(**faked)
    tensors = [results] if isinstance(results, Tensor) else results
    assert all(isinstance(tensor, FakeTensor) for tensor in tensors)
    return results


class Recorder:
    """Makes calls and keeps them."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Arguments, Shapes]] = []

    def __call__(self, operator: str, arguments: Arguments) -> Any:
        results = call_operator(operator, arguments)
        self.calls.append((operator, arguments, shapes(results)))
        return results

    def differences(self) -> list[str]:
        found = []
        for operator, arguments, real in self.calls:
            fake = shapes(fake_call(operator, arguments))
            if fake != real:
                found.append(f"{operator}: fake {fake}, real {real}")
        return found


@pytest.mark.parametrize("features", [name for name in FORMS if name != "v2"])
def test_random_cases(local_groups_of: GroupsOf, features: str) -> None:
    for seed in range(NUM_CASES):
        plan = outline(seed, features=features, max_ranks=MAX_RANKS)
        case = random_case(seed, features=features, max_ranks=MAX_RANKS)
        groups = local_groups_of(plan.sizes.e, plan.sizes.tp)

        def run(place: int) -> Recorder:
            recorder = Recorder()
            run_form(case, place, groups.where(place), recorder)  # noqa: B023 - called at once
            return recorder

        recorders = groups.run(run, case.ranks)
        if len(case.ranks) < groups.num_places:
            groups.reset()
        for place in case.ranks:
            found = recorders[place].differences()
            assert not found, "\n".join([case.describe(), *found])


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_every_operator(local_groups_of: GroupsOf, num_ranks: int) -> None:
    groups = local_groups_of(num_ranks)

    def run(place: int) -> Recorder:
        recorder = Recorder()
        walk({**groups.where(place), "ep_world_size": num_ranks}, recorder)
        return recorder

    for recorder in groups.run(run):
        assert [call[0] for call in recorder.calls] == list(ORDER)
        assert not recorder.differences()


def symbolic(mode: FakeTensorMode, tensor: Tensor) -> Tensor:
    """The first size is a symbol, the others are numbers."""
    dynamic = [DimDynamic.DYNAMIC] + [DimDynamic.STATIC] * (tensor.dim() - 1)
    return mode.from_tensor(
        tensor, symbolic_context=StatelessSymbolicContext(dynamic_sizes=dynamic)
    )


@pytest.mark.parametrize("rank", [0, 4])
def test_no_guard_on_a_symbol(rank: int) -> None:
    """Shapes follow BS, and nothing was decided by its value. E = 5, SR = 1, L = 2."""
    environment = ShapeEnv()
    mode = FakeTensorMode(shape_env=environment)
    x = symbolic(mode, torch.ones(7, 16))
    ids = symbolic(mode, torch.zeros(7, 3, dtype=torch.int32))
    weights = symbolic(mode, torch.ones(7, 3))
    table = mode.from_tensor(torch.ones(8, 2, dtype=torch.int32))
    operators = torch.ops.waybill
    layer = {"group_ep": "nobody", "ep_world_size": 5, "ep_rank_id": rank, "moe_expert_num": 8}
    layer["shared_expert_rank_num"] = 1
    with mode:
        old = operators.npu_moe_distribute_dispatch(x, ids, **layer)
        back = operators.npu_moe_distribute_combine(old[0], ids, old[2], old[4], weights, **layer)
        normed = operators.npu_moe_distribute_combine_add_rms_norm(
            old[0], ids, old[2], old[4], weights, x, x[0], **layer
        )
        y, index, commands = operators.npu_moe_distribute_dispatch_setup(x, ids, **layer)
        rows, _, assist, _ = operators.npu_moe_distribute_dispatch_teardown(
            x, y, ids, commands, **layer
        )
        reserved, more = operators.npu_moe_distribute_combine_setup(rows, ids, assist, **layer)
        last = operators.npu_moe_distribute_combine_teardown(
            rows, reserved, ids, index, weights, more, **layer
        )
        waited = operators._npu_distribute_barrier(x, "nobody", 5)
        chosen, kept = operators.npu_moe_update_expert(ids, table, local_rank_id=0, world_size=2)
        alone = operators.npu_moe_eplb_update_expert(ids, table, 0, 2)
        tokens, choices = x.shape[0].node.expr, ids.shape[0].node.expr
    assert not environment.guards
    capacity = 10 if rank else 5
    local = 2 if rank else 1

    def first(tensor: Tensor) -> Any:
        return tensor.shape[0].node.expr

    assert first(waited) == tokens
    for tensor in (back, *normed, last, chosen, kept, alone):
        assert first(tensor) == choices
    for tensor in (old[0], old[1], rows, reserved):
        assert first(tensor) == capacity * tokens
    for tensor in (old[2], index):
        assert first(tensor) == 3 * choices
    assert first(y) == 4 * tokens
    assert (first(commands) - 16 * (4 * tokens + 5 * local)).expand() == 0
    assert (first(more) - 16 * (capacity * tokens + 5)).expand() == 0


def test_functions_take_fake_tensors() -> None:
    """waybill.* outside a compiler."""

    def call(operator: str, arguments: Arguments) -> Any:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            faked = {
                name: value
                if isinstance(value, FakeTensor) or not isinstance(value, Tensor)
                else mode.from_tensor(value)
                for name, value in arguments.items()
            }
            results = getattr(waybill, operator)(**faked)
        if isinstance(results, Tensor):
            return torch.empty(results.shape, dtype=results.dtype)
        return [torch.empty(result.shape, dtype=result.dtype) for result in results]

    results = walk({"group_ep": "nobody", "ep_world_size": 1, "ep_rank_id": 0}, call)
    assert list(results) == list(ORDER)
    assert results["_npu_distribute_barrier"].shape == (4, 16)
