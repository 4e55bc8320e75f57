"""Gradients are never lost in silence: results claim one, and a backward pass is an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import waybill
from compiled_layers import prepare
from local_groups import LocalGroups
from ranks import Rank, RankPool
from samples import COLLECTIVE, Arguments, arguments_of
from waybill.operators import OPERATORS, named

PoolOf = Callable[..., RankPool]
BASE = "npu_moe_distribute_"
BARRIER = named("_npu_distribute_barrier")
NAMES = ("waybill.dispatch", "waybill.combine", "torch.no_grad()", "have no gradient")
BS, K, H, M = 5, 2, 16, 4
TIMEOUT = 120.0


@pytest.fixture
def alone() -> Iterator[LocalGroups]:
    groups = LocalGroups(1)
    yield groups
    groups.close()


def operators_of(namespace: str) -> Any:
    return waybill if namespace == "waybill" else torch.ops.waybill


def tensors_of(results: Any) -> list[Tensor]:
    return [results] if isinstance(results, Tensor) else list(results)


def float_inputs(operator: str) -> list[str]:
    """Arguments that can require grad."""
    overload = getattr(torch.ops.waybill, operator).default
    kinds = ("Tensor", "Optional[Tensor]")
    names = [a.name for a in overload._schema.arguments if str(a.type) in kinds]
    integers = ("ids", "idx", "mask", "info", "for_combine", "counts", "list", "time_out")
    reserved = ("activation_scale", "weight_scale", "quant_expand_x")
    return [name for name in names if not name.endswith(integers) and name not in reserved]


def sample(operator: str, groups: LocalGroups) -> Arguments:
    """A good call with every floating-point argument; the calls before it have been made."""
    layer = {**groups.where(0), "ep_world_size": 1}
    results: dict[str, Any] = {}
    for earlier in COLLECTIVE[: COLLECTIVE.index(operator)]:
        results[earlier] = getattr(waybill, earlier)(**arguments_of(earlier, layer, results))
    arguments = arguments_of(operator, layer, results)
    if operator == BARRIER.name:
        return arguments
    bs = arguments["expert_ids"].shape[0]
    if operator in (f"{BASE}combine_v2", f"{BASE}combine_add_rms_norm"):
        rows = torch.ones(bs, arguments["expand_x"].shape[1]).bfloat16()
        arguments |= {
            "const_expert_num": 1,
            "ori_x": rows,
            "const_expert_v": rows[:1],
            "const_expert_alpha_1": torch.ones(1).bfloat16(),
            "const_expert_alpha_2": torch.ones(1).bfloat16(),
        }
    if "combine" in operator and "setup" not in operator:
        hidden = arguments["expand_x"].shape[1]
        arguments["shared_expert_x"] = torch.ones(bs, hidden).bfloat16()
        if "teardown" not in operator:
            arguments["expand_scales"] = torch.ones(arguments["expand_x"].shape[0])
    if operator in (f"{BASE}dispatch", f"{BASE}dispatch_v2"):
        arguments["expert_scales"] = torch.ones(arguments["expert_ids"].shape)
    return arguments


def raises_no_gradient(operator: str, output: Tensor) -> None:
    with pytest.raises(waybill.WaybillError) as raised:
        output.sum().backward()
    text = str(raised.value)
    assert text.startswith(f"{operator}: ")
    assert all(name in text for name in NAMES), text


CLAIMS = [
    (operator, argument)
    for operator in COLLECTIVE
    if operator != BARRIER.name
    for argument in float_inputs(operator)
    if argument != "scales"
]


@pytest.mark.parametrize("namespace", ["waybill", "torch.ops"])
@pytest.mark.parametrize(("operator", "argument"), CLAIMS)
def test_results_hang_on_every_input(
    alone: LocalGroups, namespace: str, operator: str, argument: str
) -> None:
    arguments = sample(operator, alone)
    arguments[argument] = arguments[argument].clone().requires_grad_()
    outputs = tensors_of(getattr(operators_of(namespace), operator)(**arguments))
    assert [o.requires_grad for o in outputs] == [o.is_floating_point() for o in outputs]
    for output in outputs:
        if output.requires_grad:
            raises_no_gradient(operator, output)
            assert arguments[argument].grad is None
    finish(alone, operator, arguments, outputs)


def finish(groups: LocalGroups, operator: str, arguments: Arguments, outputs: list[Tensor]) -> None:
    """Tears down what a set-up has left open."""
    layer = {**groups.where(0), "ep_world_size": 1}
    results: dict[str, Any] = {operator: tuple(outputs)}
    if operator == f"{BASE}dispatch_setup":
        teardown = f"{BASE}dispatch_teardown"
        waybill.npu_moe_distribute_dispatch_teardown(**arguments_of(teardown, layer, results))


@pytest.mark.parametrize("namespace", ["waybill", "torch.ops"])
@pytest.mark.parametrize("kind", ["no grad", "inference", "nothing requires it", "detached"])
def test_nobody_claims_what_nobody_wants(alone: LocalGroups, namespace: str, kind: str) -> None:
    modes = {"no grad": torch.no_grad, "inference": torch.inference_mode}
    layer = {**alone.where(0), "ep_world_size": 1}
    results: dict[str, Any] = {}
    with modes.get(kind, torch.enable_grad)():
        for operator in COLLECTIVE:
            arguments = arguments_of(operator, layer, results)
            for name in float_inputs(operator):
                value = arguments.get(name)
                if value is None or kind == "nothing requires it":
                    continue
                wanted = value.clone().requires_grad_(not value.is_inference())
                arguments[name] = wanted.detach() if kind == "detached" else wanted
            if operator.endswith("combine_teardown"):  # the rows that its set-up has
                arguments["expand_x"] = results["rows"]
            if operator.endswith("combine_setup"):
                results["rows"] = arguments["expand_x"]
            outputs = getattr(operators_of(namespace), operator)(**arguments)
            results[operator] = outputs
            if operator != BARRIER.name:
                assert not any(o.requires_grad for o in tensors_of(outputs)), operator


def test_quantised_rows_have_scales_that_claim(alone: LocalGroups) -> None:
    arguments = sample(f"{BASE}dispatch_v2", alone)
    scales = torch.ones(M, arguments["x"].shape[1]).requires_grad_()
    outputs = waybill.npu_moe_distribute_dispatch_v2(**arguments, scales=scales, quant_mode=2)
    claims = [o.requires_grad for o in outputs]
    assert claims == [False, True, False, False, False, False, True]
    raises_no_gradient(f"{BASE}dispatch_v2", outputs[1])


@pytest.mark.parametrize("namespace", ["waybill", "torch.ops"])
def test_barrier_has_the_gradient_of_its_input(alone: LocalGroups, namespace: str) -> None:
    x = torch.ones(3, requires_grad=True)
    got = operators_of(namespace)._npu_distribute_barrier(x, alone.name(0), 1)
    assert (got is x) == (namespace == "waybill")
    (got * 2).sum().backward()
    assert torch.equal(x.grad, torch.full((3,), 2.0))


def test_performance_info_stays_what_it_was(alone: LocalGroups) -> None:
    arguments = sample(f"{BASE}dispatch_v2", alone)
    arguments["x"] = arguments["x"].clone().requires_grad_()
    waited = torch.zeros(1, dtype=torch.int64)
    waybill.npu_moe_distribute_dispatch_v2(**arguments, performance_info=waited)
    assert not waited.requires_grad and waited.grad_fn is None


def test_local_operators_have_integers_alone() -> None:
    """They are not looked at; no result of theirs could claim a gradient."""
    local = [operator for operator in OPERATORS if operator.group is None]
    scales = torch.tensor([[0.5, 0.5]], requires_grad=True)
    balanced, keep = waybill.npu_moe_update_expert(
        torch.tensor([[0, 0]]),
        torch.tensor([[1, 0]], dtype=torch.int32),
        expert_scales=scales,
        pruning_threshold=torch.zeros(2),
        balance_mode=1,
    )
    assert not balanced.requires_grad and not keep.requires_grad
    assert [operator.name for operator in local] == [
        "npu_moe_update_expert",
        "npu_moe_eplb_update_expert",
    ]


class Router(torch.nn.Module):
    """A layer whose weights come from a gate, as in training."""

    def __init__(self, rank: Rank, namespace: str, *, residual: bool = True) -> None:
        super().__init__()
        torch.manual_seed(rank.rank)
        self.gate = torch.nn.Parameter(torch.randn(H, M))
        self.common = {**rank.layer, "moe_expert_num": M}
        self.operators = operators_of(namespace)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        weights, ids = (x @ self.gate).softmax(-1).topk(K)
        ids = ids.int()
        rows, _, triples, _, counts, _, _ = self.operators.npu_moe_distribute_dispatch_v2(
            x, ids, **self.common
        )
        combined = self.operators.npu_moe_distribute_combine_v2(
            rows * 2, ids, triples, counts, weights, **self.common
        )
        return combined + x if self.residual else combined


def train(rank: Rank, namespace: str, backend: str, wants: bool) -> dict[str, Any]:
    """A step of training. With `wants` x is a leaf that requires grad, too."""
    prepare()
    layer = Router(rank, namespace)
    x = torch.randn(BS, H, requires_grad=wants)
    step = layer if backend == "none" else torch.compile(layer, fullgraph=True, backend=backend)

    def calls() -> int:
        return int(waybill.stats(rank.name)["calls"])

    start = calls()
    y = step(x)
    forward = calls()
    found = {"claims": y.requires_grad, "forward": forward - start, "error": ""}
    with torch.no_grad():
        found["same"] = torch.equal(layer(x), y)
    before = calls()
    try:
        y.sum().backward()
    except waybill.WaybillError as error:
        found["error"] = str(error)
    return {**found, "backward": calls() - before, "gradients": [layer.gate.grad, x.grad]}


@pytest.mark.parametrize(
    ("backend", "namespace", "wants"),
    [
        ("none", "waybill", True),
        ("none", "torch.ops", False),
        ("eager", "waybill", False),
        ("aot_eager", "waybill", True),
        ("aot_eager", "torch.ops", False),
        ("inductor", "waybill", False),
    ],
)
def test_a_router_does_not_train_in_silence(
    pool_of: PoolOf, backend: str, namespace: str, wants: bool
) -> None:
    for found in pool_of(2).run(train, namespace, backend, wants, timeout=TIMEOUT):
        assert found["claims"] and found["same"]
        assert (found["forward"], found["backward"]) == (2, 0)
        assert found["error"].startswith(f"{BASE}combine_v2: ")
        assert all(name in found["error"] for name in NAMES)
        assert found["gradients"] == [None, None]


def graphs(rank: Rank, namespace: str) -> dict[str, list[str]]:
    """The operators of the graphs that a compiler gets, forward and backward."""
    from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
    from torch._dynamo.backends.common import aot_autograd

    found: dict[str, list[str]] = {}

    def note(kind: str) -> Any:
        def compiler(graph: Any, example: Any) -> Any:
            found[kind] = [str(node.target) for node in graph.graph.nodes if node.op != "output"]
            return make_boxed_func(graph)

        return compiler

    def run(kind: str, wants: bool, grad: bool) -> None:
        prepare()
        layer = Router(rank, namespace, residual=False).requires_grad_(wants)
        backend = aot_autograd(
            fw_compiler=note(kind),
            bw_compiler=note(f"{kind} backward"),
            partition_fn=min_cut_rematerialization_partition,  # inductor's
        )
        with torch.set_grad_enabled(grad):
            y = torch.compile(layer, fullgraph=True, backend=backend)(torch.randn(BS, H))
        if y.requires_grad:
            with pytest.raises(waybill.WaybillError):
                y.sum().backward()  # its graph is compiled now

    run("plain", wants=False, grad=True)
    run("no grad", wants=True, grad=False)
    run("wanted", wants=True, grad=True)
    return found


@pytest.mark.parametrize("namespace", ["waybill", "torch.ops"])
def test_graphs_stay_as_they_are(pool_of: PoolOf, namespace: str) -> None:
    """Only a backward graph says that there is no gradient."""
    for found in pool_of(2).run(graphs, namespace, timeout=TIMEOUT):
        assert found["plain"] == found["no grad"]
        assert "plain backward" not in found and "no grad backward" not in found
        for kind in ("plain", "wanted"):
            assert not any("_no_gradient" in target for target in found[kind])
        assert calls_in(found["plain"]) == calls_in(found["wanted"])
        assert any("_no_gradient" in target for target in found["wanted backward"])
        assert not calls_in(found["wanted backward"]), found


def calls_in(graph: list[str]) -> list[str]:
    return [target for target in graph if "functionalized" in target or BASE in target]


def exported(rank: Rank, namespace: str) -> list[bool]:
    layer = Router(rank, namespace)
    x = torch.randn(BS, H)
    program = torch.export.export(layer, (x,))
    targets = [str(node.target) for node in program.graph.nodes]
    with torch.no_grad():
        same = torch.equal(program.module()(x), layer(x))
    return [same, any("_no_gradient" in target for target in targets)]


@pytest.mark.parametrize("namespace", ["waybill", "torch.ops"])
def test_export(pool_of: PoolOf, namespace: str) -> None:
    assert pool_of(2).run(exported, namespace, timeout=TIMEOUT) == [[True, False]] * 2
