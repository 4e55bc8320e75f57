"""Layers under torch.compile and torch.export: the bits of eager calls, and as many calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import waybill
from compiled_layers import prepare
from ranks import BAD_ARGUMENT, Rank, RankPool

PoolOf = Callable[..., RankPool]

BS, K, H, M = 6, 2, 16, 4
TIMEOUT = 120.0


def inputs(rank: Rank, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(rank.rank)
    x = torch.randn(BS, H, generator=random).to(dtype)
    ids = torch.argsort(torch.rand(BS, M, generator=random), dim=1)[:, :K].int()
    return x, ids, torch.rand(BS, K, generator=random)


class Layer(torch.nn.Module):
    """Dispatch, an expert of a few elementwise steps, combine."""

    def __init__(self, rank: Rank, namespace: str, quant_mode: int = 0) -> None:
        super().__init__()
        self.operators = waybill if namespace == "waybill" else torch.ops.waybill
        self.common = {**rank.layer, "moe_expert_num": M}
        self.quant_mode = quant_mode

    def forward(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        rows, scales, triples, _, counts, _, _ = self.operators.npu_moe_distribute_dispatch_v2(
            x * 2, ids, quant_mode=self.quant_mode, **self.common
        )
        if self.quant_mode:
            rows = (rows * scales[:, None]).to(x.dtype)
        rows = rows * 0.5 + rows
        combined = self.operators.npu_moe_distribute_combine_v2(
            rows, ids, triples, counts, weights, **self.common
        )
        return combined + x


def num_calls(rank: Rank, action: Callable[[], Any]) -> tuple[Any, int]:
    before = waybill.stats(rank.name)["calls"]
    result = action()
    return result, waybill.stats(rank.name)["calls"] - before


def compare(
    rank: Rank, namespace: str, backend: str, quant_mode: int
) -> tuple[list[tuple[Tensor, Tensor]], list[int]]:
    """Eager and compiled results of three steps, and the calls that compiled ones made."""
    prepare()
    layer = Layer(rank, namespace, quant_mode)
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    # Inductor keeps bfloat16 in float32 between elementwise steps; float32 has equal bits.
    x, ids, weights = inputs(rank, torch.float32)
    pairs, calls = [], []
    for step in range(3):
        eager = layer(x + step, ids, weights)
        got, number = num_calls(rank, lambda: compiled(x + step, ids, weights))  # noqa: B023
        pairs.append((eager, got))
        calls.append(number)
    return pairs, calls


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("namespace", ["waybill", "torch.ops"])
@pytest.mark.parametrize("quant_mode", [0, 2])
def test_compiled_is_as_eager(
    pool_of: PoolOf, namespace: str, backend: str, quant_mode: int
) -> None:
    for pairs, calls in pool_of(2).run(compare, namespace, backend, quant_mode, timeout=TIMEOUT):
        assert calls == [2, 2, 2]
        for eager, compiled in pairs:
            assert torch.equal(eager, compiled)


def unused_and_equal(rank: Rank, backend: str) -> tuple[int, int, Any, Any]:
    """Calls of which nothing is read, and of which two are identical, in an order that counts.

    H and quant_mode change from call to call, and the ranks' programs differ in what data would
    allow: a rank that reordered or dropped calls would not fit the other one.
    """
    prepare()
    common = {**rank.layer, "moe_expert_num": M}
    dispatch = waybill.npu_moe_distribute_dispatch_v2

    def function(x: Tensor, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        narrow = x[:, :8] + 1
        dispatch(x, ids, **common)
        dispatch(x, ids, **common)
        if rank.rank == 0:
            first = dispatch(narrow, ids, **common)
            second = dispatch(x, ids, quant_mode=2, **common)
        else:
            wide = torch.exp(x)
            first = dispatch(torch.sin(wide)[:, :8], ids, **common)
            second = dispatch(x, ids, quant_mode=2, **common)
        dispatch(narrow, ids, **common)
        rows, _, triples, _, counts, _, _ = dispatch(x, ids, **common)
        combine = waybill.npu_moe_distribute_combine_v2
        combine(rows, ids, triples, counts, weights, **common)
        combined = combine(rows, ids, triples, counts, weights, **common)
        return combined, first[3] + second[3]

    compiled = torch.compile(function, fullgraph=True, backend=backend)
    values = inputs(rank, torch.float32)
    eager, in_eager = num_calls(rank, lambda: function(*values))
    got, in_compiled = num_calls(rank, lambda: compiled(*values))
    return in_eager, in_compiled, eager, got


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_calls_keep_number_and_order(pool_of: PoolOf, backend: str) -> None:
    for in_eager, in_compiled, eager, got in pool_of(2).run(
        unused_and_equal, backend, timeout=TIMEOUT
    ):
        assert in_eager == 8
        assert in_compiled == 8
        assert all(torch.equal(*pair) for pair in zip(eager, got, strict=True))


def public_unused(rank: Rank, backend: str) -> int:
    prepare()
    common = {**rank.layer, "moe_expert_num": M}

    def function(x: Tensor, ids: Tensor) -> Tensor:
        torch.ops.waybill.npu_moe_distribute_dispatch_v2(x, ids, **common)
        return x + 1

    compiled = torch.compile(function, fullgraph=True, backend=backend)
    x, ids, _ = inputs(rank)
    return num_calls(rank, lambda: compiled(x, ids))[1]


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_public_operators_are_never_removed(pool_of: PoolOf, backend: str) -> None:
    assert pool_of(2).run(public_unused, backend, timeout=TIMEOUT) == [1, 1]


def export(rank: Rank, namespace: str, dynamic: bool) -> tuple[list[tuple[Tensor, Tensor]], int]:
    layer = Layer(rank, namespace)
    x, ids, weights = inputs(rank)
    batch = torch.export.Dim("batch", min=2, max=100)
    shapes = ({0: batch}, {0: batch}, {0: batch}) if dynamic else None
    exported, during = num_calls(
        rank, lambda: torch.export.export(layer, (x, ids, weights), dynamic_shapes=shapes)
    )
    program = exported.module()
    pairs = []
    for bs in (BS, 3) if dynamic else (BS,):
        own = (x[:bs], ids[:bs], weights[:bs])
        pairs.append((layer(*own), program(*own)))
    return pairs, during


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("namespace", ["waybill", "torch.ops"])
def test_export(pool_of: PoolOf, namespace: str, dynamic: bool) -> None:
    for pairs, during in pool_of(2).run(export, namespace, dynamic, timeout=TIMEOUT):
        assert during == 0
        for eager, exported in pairs:
            assert torch.equal(eager, exported)


CHECKS = ("test_schema", "test_faketensor", "test_autograd_registration")


def check_operators(rank: Rank) -> dict[str, dict[str, str]]:
    """opcheck of public operators and of those with a token, on a group of one rank."""
    x, ids, weights = inputs(rank)
    layer = list(rank.layer.values())
    dispatched = waybill.npu_moe_distribute_dispatch_v2(x, ids, *layer, M)
    rows, _, triples, _, counts, _, _ = dispatched
    token = torch.zeros(1, dtype=torch.uint8)
    operators = torch.ops.waybill
    dispatch = (x, ids, *layer, M)
    combine = (rows, ids, triples, counts, weights, *layer, M)
    found = {}
    for name, arguments in (("dispatch", dispatch), ("combine", combine)):
        full = f"npu_moe_distribute_{name}_v2"
        public = getattr(operators, full).default
        ordered = getattr(operators, f"_ordered_{full}").default
        for operator, given in ((public, arguments), (ordered, (token, *arguments))):
            results = torch.library.opcheck(
                operator, given, test_utils=CHECKS, raise_exception=False
            )
            found[str(operator)] = {check: str(result) for check, result in results.items()}
    return found


def test_opcheck(pool_of: PoolOf) -> None:
    found = pool_of(1).run(check_operators, timeout=TIMEOUT)[0]
    assert len(found) == 4
    for operator, results in found.items():
        assert results == dict.fromkeys(CHECKS, "SUCCESS"), operator


def gradients(rank: Rank, namespace: str) -> list[bool]:
    """Which results claim to need a gradient, eager and compiled."""
    prepare()
    x, ids, weights = inputs(rank, torch.float32)
    x.requires_grad_()
    weights.requires_grad_()
    operators = waybill if namespace == "waybill" else torch.ops.waybill
    common = {**rank.layer, "moe_expert_num": M}

    def function(x: Tensor, ids: Tensor, weights: Tensor) -> list[Tensor]:
        outputs = operators.npu_moe_distribute_dispatch_v2(x, ids, expert_scales=weights, **common)
        rows, _, triples, _, counts, _, _ = outputs
        combined = operators.npu_moe_distribute_combine_v2(
            rows, ids, triples, counts, weights, shared_expert_x=x, **common
        )
        return [*outputs, combined]

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    both = [*function(x, ids, weights), *compiled(x, ids, weights)]
    return [result.requires_grad for result in both]


@pytest.mark.parametrize("namespace", ["waybill", "torch.ops"])
def test_gradients(pool_of: PoolOf, namespace: str) -> None:
    """Floating-point results claim one; test_gradients.py has what comes of it."""
    of_dispatch = [True, True, False, False, False, False, True]
    for claims in pool_of(2).run(gradients, namespace, timeout=TIMEOUT):
        assert claims == [*of_dispatch, True] * 2


def fail_compiled(rank: Rank) -> tuple[Exception | None, waybill.WaybillError | None]:
    """A bad argument in a compiled program."""
    prepare()
    layer = Layer(rank, "waybill")
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x, ids, weights = inputs(rank)
    try:
        compiled(x, ids + M, weights)
    except Exception as error:
        return error, waybill.last_error()
    return None, None


def test_errors_of_compiled_programs(pool_of: PoolOf) -> None:
    for raised, last in pool_of(2).run(fail_compiled, timeout=TIMEOUT):
        assert isinstance(raised, BAD_ARGUMENT)
        assert isinstance(last, waybill.ArgumentError)
        assert last.argument == "expert_ids"
        assert str(last) in str(raised)
