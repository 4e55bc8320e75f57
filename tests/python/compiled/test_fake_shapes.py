"""Fake kernels: the shapes and dtypes that eager calls give, without specialising BS."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

import waybill
from ranks import Rank, RankPool

PoolOf = Callable[..., RankPool]
Arguments = dict[str, Any]
Shapes = list[tuple[tuple[int, ...], torch.dtype]]

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


class Placement(NamedTuple):
    """E, M, S, SR."""

    ranks: int
    experts: int
    shared: int = 1
    shared_ranks: int = 0


PLACEMENTS = [
    Placement(1, 3),
    Placement(2, 4),
    Placement(2, 5, 1, 1),
    Placement(5, 5, 0),
    Placement(5, 10),
    Placement(5, 8, 1, 1),
    Placement(5, 6, 1, 2),
    Placement(5, 6, 2, 2),
    Placement(5, 3, 2, 4),
    Placement(5, 0, 4, 4),
]


class Options(NamedTuple):
    dtype: torch.dtype
    quantised: str  # "", "plain" or "smooth"
    weighted: bool
    nums_type: int
    unequal: bool  # BS, with global_bs
    comm_quant: int
    topk: int
    masked: bool


def all_options() -> list[Options]:
    """Every combination of what shapes depend on, with the others taking turns."""
    product = itertools.product(
        DTYPES, ("", "plain", "smooth"), (False, True), (1, 0), (False, True)
    )
    return [
        Options(*chosen, comm_quant=2 * (i % 5 % 2), topk=1 + i % 7 % 3, masked=i % 11 < 4)
        for i, chosen in enumerate(product)
    ]


def arguments(rank: int, place: Placement, options: Options) -> tuple[Arguments, Arguments]:
    """Of dispatch, and of combine but for what dispatch returns."""
    bs, hidden = (rank if options.unequal else 4), 16
    choices = torch.arange(bs * options.topk).reshape(bs, options.topk)
    ids = choices % place.experts if place.experts else choices
    weights = torch.ones(bs, options.topk)
    both: Arguments = {
        "expert_ids": ids.int(),
        "ep_world_size": place.ranks,
        "ep_rank_id": rank,
        "moe_expert_num": place.experts,
        "shared_expert_num": place.shared,
        "shared_expert_rank_num": place.shared_ranks,
        "global_bs": 6 * place.ranks if options.unequal else 0,
    }
    if options.masked or not place.experts:  # without experts every choice is masked
        both["x_active_mask"] = torch.full(ids.shape, bool(place.experts))
    dispatch = {
        **both,
        "x": torch.ones(bs, hidden, dtype=options.dtype),
        "quant_mode": 2 if options.quantised else 0,
        "expert_token_nums_type": options.nums_type,
    }
    if options.quantised == "smooth":
        rows = place.experts + (place.shared if place.shared_ranks else 0)
        dispatch["scales"] = torch.ones(rows, hidden)
    if options.weighted:
        dispatch["expert_scales"] = weights
    return dispatch, {**both, "expert_scales": weights, "comm_quant_mode": options.comm_quant}


def rows_for_combine(dispatched: tuple[Tensor, ...], dtype: torch.dtype) -> Arguments:
    expand_x, _, triples, _, counts, tp_counts, expand_scales = dispatched
    return {
        "expand_x": expand_x.to(dtype),
        "assist_info_for_combine": triples,
        "ep_send_counts": counts,
        "tp_send_counts": tp_counts,
        "expand_scales": expand_scales,
    }


def shapes(results: Any) -> Shapes:
    tensors = [results] if isinstance(results, Tensor) else results
    return [(tuple(tensor.shape), tensor.dtype) for tensor in tensors]


def faked(mode: FakeTensorMode, values: Arguments) -> Arguments:
    return {
        name: mode.from_tensor(value) if isinstance(value, Tensor) else value
        for name, value in values.items()
    }


def calls(
    dispatch: Arguments, combine: Arguments, dtype: torch.dtype, name: str, namespace: Any
) -> Shapes:
    dispatched = namespace.npu_moe_distribute_dispatch_v2(group_ep=name, **dispatch)
    rows = rows_for_combine(dispatched, dtype)
    combined = namespace.npu_moe_distribute_combine_v2(group_ep=name, **rows, **combine)
    assert all(isinstance(t, FakeTensor) for t in (*dispatched, combined)) == isinstance(
        dispatch["x"], FakeTensor
    )
    return [*shapes(dispatched), *shapes(combined)]


def find_differences(rank: Rank, place: Placement) -> list[str]:
    """Between real and fake results, over all options."""
    found = []
    for options in all_options():
        dispatch, combine = arguments(rank.rank, place, options)
        real = calls(dispatch, combine, options.dtype, rank.name, waybill)
        with FakeTensorMode() as mode:
            inputs = (faked(mode, dispatch), faked(mode, combine))
            fake = calls(*inputs, options.dtype, rank.name, torch.ops.waybill)
        if fake != real:
            found.append(f"rank {rank.rank} {options}: fake {fake}, real {real}")
    return found


@pytest.mark.parametrize("place", PLACEMENTS, ids=str)
def test_fake_is_as_real(pool_of: PoolOf, place: Placement) -> None:
    found = pool_of(place.ranks).run(find_differences, place, timeout=120)
    differences = list(itertools.chain.from_iterable(found))
    assert not differences, "\n".join(differences[:5])


def call_functions(rank: Rank) -> tuple[Shapes, Shapes]:
    """waybill.* with real and with fake tensors."""
    options = all_options()[0]
    dispatch, combine = arguments(rank.rank, Placement(1, 3), options)
    real = calls(dispatch, combine, options.dtype, rank.name, waybill)
    with FakeTensorMode() as mode:
        inputs = (faked(mode, dispatch), faked(mode, combine))
        return real, calls(*inputs, options.dtype, rank.name, waybill)


def test_functions_take_fake_tensors(pool_of: PoolOf) -> None:
    real, fake = pool_of(1).run(call_functions)[0]
    assert fake == real


def fake_dispatch(rank: int, bs: int, topk: int, **options: Any) -> Shapes:
    """Shapes for H = 256 and bfloat16; no group is needed."""
    with FakeTensorMode():
        x = torch.empty(bs, 256, dtype=torch.bfloat16)
        ids = torch.empty(bs, topk, dtype=torch.int32)
        if options.pop("weighted", False):
            options["expert_scales"] = torch.empty(bs, topk)
        if options.pop("elastic", False):
            options["elastic_info"] = torch.empty(4 + 2 * options["ep_world_size"]).int()
        return shapes(
            torch.ops.waybill.npu_moe_distribute_dispatch_v2(
                x, ids, "nobody", ep_rank_id=rank, **options
            )
        )


def sizes(results: Shapes) -> list[int]:
    return [shape[0] for shape, _ in results]


def test_numbers_of_the_contract() -> None:
    """E = 16, M = 16, BS = 32, K = 8: A = 512.

    See docs/contract/operators.md section 2.
    """
    layer = {"ep_world_size": 16, "moe_expert_num": 16}
    assert fake_dispatch(3, 32, 8, **layer) == [
        ((512, 256), torch.bfloat16),
        ((512,), torch.float32),
        ((65536,), torch.int32),
        ((1,), torch.int64),
        ((16,), torch.int32),
        ((0,), torch.int32),
        ((512,), torch.float32),
    ]
    weighted = fake_dispatch(3, 32, 8, weighted=True, quant_mode=2, tp_world_size=1, **layer)
    assert weighted[0] == ((512, 256), torch.int8)
    # E*L + 2*GBS*K*max(E/8, 1)
    assert sizes(weighted) == [512, 512, 65536, 1, 16 + 2 * 512 * 8 * 2, 1, 512]


def test_numbers_of_shared_ranks() -> None:
    """E = 5, SR = 2, S = 2, so R = 1: a shared rank receives maxBS*ceil(E/R)."""
    layer = {"ep_world_size": 5, "moe_expert_num": 6, "shared_expert_rank_num": 2}
    shared = fake_dispatch(1, 3, 4, shared_expert_num=2, **layer)
    assert sizes(shared) == [15, 15, 15 * 128, 1, 5, 0, 15]
    # S = 1, so R = 2: maxBS*ceil(5/2).
    half = fake_dispatch(1, 3, 4, global_bs=50, **layer)
    assert sizes(half) == [30, 30, 30 * 128, 1, 5, 0, 30]
    moe = fake_dispatch(2, 3, 4, global_bs=50, **layer)
    assert sizes(moe) == [100, 100, 100 * 128, 2, 10, 0, 100]
    weighted = fake_dispatch(0, 3, 4, global_bs=50, weighted=True, **layer)
    assert sizes(weighted)[4] == 5 + 2 * 50 * 4


def test_numbers_of_many_choices() -> None:
    """BS*K counts when it is more than A*128: K > 128 and L = 1."""
    layer = {"ep_world_size": 1, "moe_expert_num": 1}
    assert sizes(fake_dispatch(0, 3, 200, **layer))[2] == 600
    assert sizes(fake_dispatch(0, 3, 100, **layer))[2] == 3 * 128
    assert sizes(fake_dispatch(0, 0, 8, **layer)) == [0, 0, 0, 1, 1, 0, 0]


def test_numbers_of_tp_and_elastic() -> None:
    layer = {"ep_world_size": 4, "moe_expert_num": 4, "tp_world_size": 2}
    assert sizes(fake_dispatch(0, 3, 2, **layer)) == [24, 24, 12 * 128, 1, 8, 2, 12]
    layer = {"ep_world_size": 4, "moe_expert_num": 6, "shared_expert_rank_num": 1}
    got = fake_dispatch(0, 3, 4, elastic=True, **layer)
    # The larger of GBS*min(L, K) and maxBS*ceil(E/R), whatever the rank.
    assert sizes(got) == [24, 24, 24 * 128, 2, 8, 0, 24]


def symbolic(mode: FakeTensorMode, tensor: Tensor) -> Tensor:
    """The first size is a symbol, the others are numbers."""
    dynamic = [DimDynamic.DYNAMIC] + [DimDynamic.STATIC] * (tensor.dim() - 1)
    return mode.from_tensor(
        tensor, symbolic_context=StatelessSymbolicContext(dynamic_sizes=dynamic)
    )


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("topk", [3, 200])
def test_no_guard_on_a_symbol(rank: int, weighted: bool, topk: int) -> None:
    """Shapes follow BS, and nothing was decided by its value. E = 5, SR = 1, L = 2."""
    environment = ShapeEnv()
    mode = FakeTensorMode(shape_env=environment)
    x = symbolic(mode, torch.ones(7, 16))
    ids = symbolic(mode, torch.zeros(7, topk, dtype=torch.int32))
    weights = symbolic(mode, torch.ones(7, topk))
    scales = weights if weighted else None
    with mode:
        layer = {"ep_world_size": 5, "ep_rank_id": rank, "moe_expert_num": 8}
        got = torch.ops.waybill.npu_moe_distribute_dispatch_v2(
            x, ids, "nobody", expert_scales=scales, shared_expert_rank_num=1, **layer
        )
        back = torch.ops.waybill.npu_moe_distribute_combine_v2(
            got[0], ids, got[2], got[4], weights, "nobody", **layer
        )
        tokens = x.shape[0]
    assert not environment.guards
    assert back.shape[0].node.expr == ids.shape[0].node.expr
    factor = 10 if rank else 5
    for place in (0, 1, 6):
        assert got[place].shape[0].node.expr == factor * tokens.node.expr
    counts = got[4].shape[0]
    assert isinstance(counts, torch.SymInt) == weighted


def layer_of(
    namespace: Any, name: str, x: Tensor, ids: Tensor, weights: Tensor, follows: bool
) -> Tensor:
    """A layer on a group of one rank. `follows`: global_bs is given, computed from BS."""
    common: Arguments = {"group_ep": name, "ep_world_size": 1, "ep_rank_id": 0}
    common |= {"moe_expert_num": 4, "global_bs": x.shape[0] if follows else 0}
    rows, _, triples, _, counts, _, _ = namespace.npu_moe_distribute_dispatch_v2(x, ids, **common)
    return namespace.npu_moe_distribute_combine_v2(
        rows * 2, ids, triples, counts, weights, **common
    )


def inputs_of(bs: int) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.arange(bs * 8, dtype=torch.float32).reshape(bs, 8)
    ids = (torch.arange(bs * 2, dtype=torch.int32) % 4).reshape(bs, 2)
    return x, ids, torch.ones(bs, 2)


def compile_dynamically(rank: Rank, namespace: str, follows: bool) -> tuple[int, list[bool]]:
    """How often a layer was compiled for several BS, and which results were right."""
    torch._dynamo.reset()
    operators = waybill if namespace == "waybill" else torch.ops.waybill
    graphs = []

    def backend(graph: torch.fx.GraphModule, example: list[Any]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    def function(x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        return layer_of(operators, rank.name, x, ids, weights, follows)

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=backend)
    right = []
    for bs in (5, 3, 11, 64):
        values = inputs_of(bs)
        for value in values:
            torch._dynamo.mark_dynamic(value, 0)
        right.append(torch.equal(compiled(*values), function(*values)))
    return len(graphs), right


@pytest.mark.parametrize("follows", [False, True])
def test_compile_keeps_bs_symbolic(pool_of: PoolOf, follows: bool) -> None:
    num_graphs, right = pool_of(1).run(compile_dynamically, "waybill", follows, timeout=120)[0]
    assert num_graphs == 1
    assert all(right)


def test_compile_keeps_bs_symbolic_in_public_operators(pool_of: PoolOf) -> None:
    num_graphs, right = pool_of(1).run(compile_dynamically, "torch.ops", False, timeout=120)[0]
    assert num_graphs == 1
    assert all(right)


def trace(rank: Rank, namespace: str) -> tuple[str, list[bool]]:
    """A symbolic trace with BS = 5, and whether it is right for other BS."""
    operators = waybill if namespace == "waybill" else torch.ops.waybill

    def function(x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        return layer_of(operators, rank.name, x, ids, weights, False)

    graph = make_fx(function, tracing_mode="symbolic")(*inputs_of(5))
    right = [torch.equal(graph(*inputs_of(bs)), function(*inputs_of(bs))) for bs in (5, 3, 17)]
    return graph.code, right


@pytest.mark.parametrize("namespace", ["torch.ops", "waybill"])
def test_symbolic_trace(pool_of: PoolOf, namespace: str) -> None:
    code, right = pool_of(1).run(trace, namespace)[0]
    assert "npu_moe_distribute_dispatch_v2" in code
    assert "npu_moe_distribute_combine_v2" in code
    assert all(right)
