"""Layers of every form of the family, to be compiled and exported by the ranks of a pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import waybill
from ranks import Rank

BS, K, H, M = 6, 2, 16, 4
TABLE = torch.tensor([[1, 0], [1, 3], [1, 2], [1, 1]], dtype=torch.int32)

Inputs = tuple[Tensor, Tensor, Tensor]


def inputs(rank: Rank) -> Inputs:
    """x, ids, weights; float32, since inductor keeps bfloat16 in float32 between steps."""
    random = torch.Generator().manual_seed(rank.rank)
    x = torch.randn(BS, H, generator=random)
    ids = torch.argsort(torch.rand(BS, M, generator=random), dim=1)[:, :K].int()
    return x, ids, torch.rand(BS, K, generator=random)


def prepare() -> None:
    import os

    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # a cached graph hid a failure
    torch._inductor.config.force_disable_caches = True
    torch._inductor.config.compile_threads = 1
    torch._dynamo.reset()


def operators_of(namespace: str) -> Any:
    return waybill if namespace == "waybill" else torch.ops.waybill


class FormLayer(torch.nn.Module):
    """update_expert, the operators of one form with an expert between them, and a barrier."""

    def __init__(self, rank: Rank, form: str, namespace: str) -> None:
        super().__init__()
        self.form = form
        self.namespace = namespace
        self.group = rank.name
        self.num_ranks = rank.world_size
        self.common = {**rank.layer, "moe_expert_num": M}
        self.register_buffer("table", TABLE)

    def forward(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        operators = operators_of(self.namespace)
        ids, _ = operators.npu_moe_update_expert(ids, self.table, local_rank_id=0, world_size=2)
        out = getattr(self, self.form)(operators, x * 2, ids, weights)
        waited = operators._npu_distribute_barrier(x, self.group, self.num_ranks)
        return out + waited

    def v1(self, operators: Any, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        rows, _, index, _, counts, _, _ = operators.npu_moe_distribute_dispatch(
            x, ids, **self.common
        )
        rows = rows * 0.5 + rows
        return operators.npu_moe_distribute_combine(
            rows, ids, index, counts, weights, **self.common
        )

    def norm(self, operators: Any, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        rows, _, triples, _, counts, _, _ = operators.npu_moe_distribute_dispatch_v2(
            x, ids, **self.common
        )
        y, rstd, total = operators.npu_moe_distribute_combine_add_rms_norm(
            rows * 3, ids, triples, counts, weights, x, x[0] + 1, norm_eps=1e-5, **self.common
        )
        return (y * rstd + total).squeeze(1)

    def setup(self, operators: Any, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        y, index, commands = operators.npu_moe_distribute_dispatch_setup(x, ids, **self.common)
        meanwhile = x * 4
        rows, _, assist, _ = operators.npu_moe_distribute_dispatch_teardown(
            x, y, ids, commands, **self.common
        )
        rows = rows * 0.5
        reserved, more = operators.npu_moe_distribute_combine_setup(
            rows, ids, assist, **self.common
        )
        meanwhile = meanwhile - x * 2
        back = operators.npu_moe_distribute_combine_teardown(
            rows, reserved, ids, index, weights, more, **self.common
        )
        return back + meanwhile


CALLS = 3  # numbered calls of a layer, the barrier among them


def num_calls(rank: Rank, action: Callable[[], Any]) -> tuple[Any, int]:
    before = waybill.stats(rank.name)["calls"]
    result = action()
    return result, waybill.stats(rank.name)["calls"] - before


def compare(rank: Rank, form: str, namespace: str, backend: str) -> list[tuple[bool, int]]:
    """Whether compiled steps have the bits of eager ones, and the calls that they made."""
    prepare()
    layer = FormLayer(rank, form, namespace)
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    x, ids, weights = inputs(rank)
    found = []
    for step in range(2):
        eager = layer(x + step, ids, weights)
        got, number = num_calls(rank, lambda: compiled(x + step, ids, weights))  # noqa: B023
        found.append((torch.equal(eager, got), number))
    return found


def unused_and_equal(rank: Rank, backend: str) -> tuple[int, int, bool]:
    """Calls of which nothing is read, and identical ones, of every operator in one graph. The
    ranks' programs differ in what data would allow: one that dropped or reordered a call would not
    fit the other.
    """
    prepare()
    common = {**rank.layer, "moe_expert_num": M}
    w = waybill

    def setups(x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        y, index, commands = w.npu_moe_distribute_dispatch_setup(x, ids, **common)
        rows, _, assist, _ = w.npu_moe_distribute_dispatch_teardown(x, y, ids, commands, **common)
        reserved, more = w.npu_moe_distribute_combine_setup(rows, ids, assist, **common)
        return w.npu_moe_distribute_combine_teardown(
            rows, reserved, ids, index, weights, more, **common
        )

    def function(x: Tensor, ids: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        narrow = x[:, :8] + 1
        if rank.rank:
            narrow = torch.sin(torch.exp(narrow))
        w._npu_distribute_barrier(x, rank.name, 2)
        w._npu_distribute_barrier(x, rank.name, 2)
        w.npu_moe_update_expert(ids, TABLE, local_rank_id=0, world_size=2)
        w.npu_moe_distribute_dispatch(x, ids, **common)
        w.npu_moe_distribute_dispatch(x, ids, **common)
        other = w.npu_moe_distribute_dispatch(narrow, ids, **common)
        rows, _, index, _, counts, _, _ = w.npu_moe_distribute_dispatch(x, ids, **common)
        setups(x, ids, weights)
        setups(x, ids, weights)
        w._npu_distribute_barrier(narrow, rank.name, 2)
        w.npu_moe_distribute_combine(rows, ids, index, counts, weights, **common)
        w.npu_moe_distribute_combine(rows, ids, index, counts, weights, **common)
        norm = (rows, ids, index, counts, weights, x, x[0])
        w.npu_moe_distribute_combine_add_rms_norm(*norm, **common)
        normed = w.npu_moe_distribute_combine_add_rms_norm(*norm, **common)
        setups(narrow, ids, weights)
        balanced = w.npu_moe_eplb_update_expert(ids, TABLE, 0, 2)
        last = setups(x, balanced, weights)
        w._npu_distribute_barrier(x, rank.name, 2)
        return (*normed, last, other[3])

    compiled = torch.compile(function, fullgraph=True, backend=backend)
    values = inputs(rank)
    eager, in_eager = num_calls(rank, lambda: function(*values))
    got, in_compiled = num_calls(rank, lambda: compiled(*values))
    equal = all(torch.equal(*pair) for pair in zip(eager, got, strict=True))
    return in_eager, in_compiled, equal


NUM_UNUSED = 20  # 4 barriers, 4 dispatches, 4 combines, 4 pairs of pairs


def save(rank: Rank, form: str, namespace: str, folder: str) -> Tensor:
    """Exports a layer to a file of this rank; what it gives here."""
    layer = FormLayer(rank, form, namespace)
    values = inputs(rank)
    program, during = num_calls(rank, lambda: torch.export.export(layer, values))
    assert during == 0
    torch.export.save(program, f"{folder}/{rank.rank}.pt2")
    return layer(*values)


def load_and_run(rank: Rank, name: str, folder: str) -> Tensor:
    """In another process, with a group of the same name."""
    waybill.connect(rank.store(name), rank.rank, rank.world_size, name, timeout=20, threads=1)
    program = torch.export.load(f"{folder}/{rank.rank}.pt2").module()
    result: Tensor = program(*inputs(rank))
    waybill.release(name)
    return result
