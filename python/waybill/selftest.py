"""The self test: every operator on this machine against the oracle, over processes."""

from __future__ import annotations

import multiprocessing
import pickle
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from . import groups, ops, reference, selftest_family

SIZES = (1, 2, 3, 5, 8)
SPECIAL = ("zero_expert_num", "copy_expert_num", "const_expert_num")
JOIN_SECONDS = 30.0
ANSWER_SECONDS = 60.0


@dataclass
class Case:
    """One layer: what all ranks agree on, and the tensors of each rank."""

    common: dict[str, Any]
    dispatch: dict[str, Any]
    combine: dict[str, Any]
    row_seed: int
    x: list[Tensor] = field(default_factory=list)
    ids: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    masks: list[Tensor | None] = field(default_factory=list)
    smooth: list[Tensor | None] = field(default_factory=list)
    given: list[Tensor | None] = field(default_factory=list)  # expert_scales of dispatch
    shared_x: list[Tensor | None] = field(default_factory=list)
    ori_x: list[Tensor | None] = field(default_factory=list)
    constants: dict[str, Tensor] = field(default_factory=dict)  # alphas and v, on every rank

    @property
    def has_special(self) -> bool:
        return bool(self.constants)

    def residual(self, rank: int) -> Tensor:
        return self.x[rank] * 0.5

    def gamma(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.row_seed)
        return torch.randn(self.x[0].shape[1], generator=generator).to(self.x[0].dtype)

    def expert_rows(self, rank: int, shape: tuple[int, int]) -> Tensor:
        """What the experts of a rank return; any process can make it again."""
        generator = torch.Generator().manual_seed(self.row_seed + rank)
        return torch.randn(shape, generator=generator).to(self.x[0].dtype)


class Draw:
    """Random numbers of one case."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def below(self, limit: int) -> int:
        return int(torch.randint(limit, (), generator=self.generator))

    def pick(self, *values: Any) -> Any:
        return values[self.below(len(values))]

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def flags(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator) < 0.7


def draw_case(seed: int, num_ranks: int) -> Case:
    draw = Draw(seed)
    shared_ranks = draw.pick(0, 0, 1, 2) if num_ranks > 2 else 0
    experts = (num_ranks - shared_ranks) * draw.pick(1, 2, 3)
    hidden, dtype = draw.pick(1, 31, 64, 576), draw.pick(*reference_dtypes())
    top_k = 1 + draw.below(min(experts, 8))
    quant = draw.pick(0, 2)
    smooth = quant == 2 and draw.pick(True, False)
    given = draw.pick(True, False)
    shared_x = shared_ranks == 0 and draw.pick(True, False)
    sizes = [draw.below(9) for _ in range(num_ranks)]
    special = draw.pick(0, 1)  # zero, copy and constant experts each
    common = {
        "ep_world_size": num_ranks,
        "moe_expert_num": experts,
        "shared_expert_num": 1,
        "shared_expert_rank_num": shared_ranks,
        "global_bs": num_ranks * max(*sizes, 1),
        **({name: 1 for name in SPECIAL} if special else {}),
    }
    case = Case(
        common=common,
        dispatch={"quant_mode": quant, "expert_token_nums_type": draw.pick(0, 1)},
        combine={"comm_quant_mode": draw.pick(0, 2)},
        row_seed=seed * 1000,
    )
    for bs in sizes:
        case.x.append(draw.normal(bs, hidden).to(dtype))
        scores = torch.rand((bs, experts + 3 * special), generator=draw.generator)
        case.ids.append(scores.topk(top_k).indices.int())
        case.weights.append(draw.normal(bs, top_k))
        case.masks.append(draw.pick(None, draw.flags(bs), draw.flags(bs, top_k)))
        rows = experts + (1 if shared_ranks else 0)
        case.smooth.append(draw.normal(rows, hidden) if smooth else None)
        case.given.append(draw.normal(bs, top_k) if given else None)
        case.shared_x.append(draw.normal(bs, hidden).to(dtype) if shared_x else None)
        case.ori_x.append(draw.normal(bs, hidden).to(dtype) if special else None)
    if special:
        width = (1, hidden) if draw.pick(True, False) else (1,)
        alphas = {f"const_expert_alpha_{i}": draw.normal(*width).to(dtype) for i in (1, 2)}
        case.constants = {**alphas, "const_expert_v": draw.normal(1, hidden).to(dtype)}
    return case


def reference_dtypes() -> tuple[torch.dtype, ...]:
    return (torch.bfloat16, torch.float16, torch.float32)


@dataclass
class Results:
    """What one rank got."""

    sent: list[Tensor]
    back: Tensor
    normed: list[Tensor]
    problems: list[str]


def run_operators(case: Case, rank: int, group: str) -> Results:
    where = {"group_ep": group, "ep_rank_id": rank, **case.common}
    dispatch: dict[str, Any] = {
        "x": case.x[rank],
        "expert_ids": case.ids[rank],
        "scales": case.smooth[rank],
        "x_active_mask": case.masks[rank],
        "expert_scales": case.given[rank],
        **where,
        **case.dispatch,
    }
    sent = ops.npu_moe_distribute_dispatch_v2(**dispatch)
    rows = case.expert_rows(rank, (sent[0].shape[0], case.x[rank].shape[1]))
    combine: dict[str, Any] = {
        "expert_scales": case.weights[rank],
        "x_active_mask": case.masks[rank],
        "shared_expert_x": case.shared_x[rank],
        **where,
        **case.combine,
    }
    special: dict[str, Any] = {"ori_x": case.ori_x[rank], **case.constants}
    back = ops.npu_moe_distribute_combine_v2(
        rows, case.ids[rank], sent[2], sent[4], **combine, **special
    )
    norm: dict[str, Any] = {"residual_x": case.residual(rank), "gamma": case.gamma()}
    normed = ops.npu_moe_distribute_combine_add_rms_norm(
        rows, case.ids[rank], sent[2], sent[4], **combine, **special, **norm
    )
    problems = selftest_family.check_local(
        group, case.common["ep_world_size"], rank, case.ids[rank], case.weights[rank]
    )
    if not case.has_special:
        problems += selftest_family.check_v1(same, sent, dispatch, combine, rows)
        problems += selftest_family.check_setup(
            same,
            case.x[rank],
            case.ids[rank],
            case.weights[rank],
            where,
            case.dispatch["quant_mode"],
        )
    return Results(list(sent), back, list(normed), problems)


def differences(case: Case, results: list[Results]) -> list[str]:
    """What differs from the oracle, by rank and output."""
    dispatched = reference.npu_moe_distribute_dispatch_v2(
        case.x,
        case.ids,
        scales=case.smooth,
        x_active_mask=case.masks,
        expert_scales=case.given,
        **case.common,
        **case.dispatch,
    )
    want = [out for out in dispatched if out is not None]
    returned = (
        [
            case.expert_rows(rank, (out.expand_x.shape[0], case.x[rank].shape[1]))
            for rank, out in enumerate(want)
        ],
        case.ids,
        [out.assist_info_for_combine for out in want],
        [out.ep_recv_counts for out in want],
        case.weights,
    )
    options: dict[str, Any] = {
        "x_active_mask": case.masks,
        "shared_expert_x": case.shared_x,
        "ori_x": case.ori_x,
        **{name: [tensor] * len(want) for name, tensor in case.constants.items()},
        **case.common,
        **case.combine,
    }
    sums = reference.npu_moe_distribute_combine_v2(*returned, **options)
    normed = reference.npu_moe_distribute_combine_add_rms_norm(
        *returned,
        residual_x=[case.residual(rank) for rank in range(len(want))],
        gamma=[case.gamma()] * len(want),
        **options,
    )
    problems = []
    for rank, got in enumerate(results):
        rows = int(want[rank].ep_recv_counts.max())
        for name, mine, right in zip(want[rank]._fields, got.sent, want[rank], strict=True):
            end = specified_end(name, case, rows, len(right))
            if mine.shape != right.shape or not same(mine[:end], right[:end]):
                problems.append(f"rank {rank}: dispatch_v2 {name}")
        total, norm = sums[rank], normed[rank]
        if total is None or not same(got.back, total):
            problems.append(f"rank {rank}: combine_v2")
        if norm is None or not all(map(same, got.normed, norm)):
            problems.append(f"rank {rank}: combine_add_rms_norm")
        problems += [f"rank {rank}: {text}" for text in got.problems]
    return problems


def specified_end(name: str, case: Case, rows: int, whole: int) -> int:
    """Where the specified part of an output of dispatch ends.

    See docs/contract/operators.md section 2.
    """
    if name == "expand_x":
        return rows
    if name == "dynamic_scales":
        return rows if case.dispatch["quant_mode"] == 2 else 0
    if name == "assist_info_for_combine":
        return 3 * rows
    if name == "expand_scales" and case.given[0] is not None:
        return rows
    return whole


def same(got: Tensor, want: Tensor) -> bool:
    """Equal bits; a NaN that arithmetic made equals any other."""
    if got.dtype != want.dtype or got.shape != want.shape:
        return False
    if not got.is_floating_point():
        return torch.equal(got, want)
    views = {2: torch.int16, 4: torch.int32}
    view = views[got.element_size()]
    equal = got.contiguous().view(view) == want.contiguous().view(view)
    return bool((equal | (got.isnan() & want.isnan())).all())


def serve(rank: int, folder: str, pipe: Connection) -> None:
    """The life of a rank: a group of each size that it belongs to, then cases until None."""
    torch.set_num_threads(1)
    names = {}
    for size in SIZES:
        if rank < size:
            store = dist.FileStore(f"{folder}/{size}", size)
            names[size] = groups.connect(store, rank, size, f"selftest-{size}", timeout=30)
    pipe.send_bytes(pickle.dumps(None))
    while (message := pickle.loads(pipe.recv_bytes())) is not None:
        seed, size = message
        try:
            answer: Any = run_operators(draw_case(seed, size), rank, names[size])
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        pipe.send_bytes(pickle.dumps(answer))


class Ranks:
    """The processes of the self test."""

    def __init__(self, folder: str) -> None:
        context = multiprocessing.get_context("fork")
        self.pipes = []
        self.processes = []
        for rank in range(max(SIZES)):
            mine, theirs = context.Pipe()
            process = context.Process(target=serve, args=(rank, folder, theirs), daemon=True)
            process.start()
            self.pipes.append(mine)
            self.processes.append(process)
        for rank in range(len(self.pipes)):
            self.answer(rank)

    def answer(self, rank: int) -> Any:
        if not self.pipes[rank].poll(ANSWER_SECONDS):
            raise RuntimeError(f"rank {rank} of the self test does not answer")
        return pickle.loads(self.pipes[rank].recv_bytes())

    def run(self, seed: int, size: int) -> list[str]:
        for pipe in self.pipes[:size]:
            pipe.send_bytes(pickle.dumps((seed, size)))
        results = [self.answer(rank) for rank in range(size)]
        errors = [f"rank {r}: {text}" for r, text in enumerate(results) if isinstance(text, str)]
        return errors or differences(draw_case(seed, size), results)

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.send_bytes(pickle.dumps(None))
        for process in self.processes:
            process.join(JOIN_SECONDS)
            if process.is_alive():
                process.kill()


def run(seconds: float, progress: Callable[[int, float], None]) -> tuple[int, list[str]]:
    """Cases for about `seconds`; how many ran, and what was wrong.

    progress(cases so far, part of the time that is over) is called after each case.
    """
    torch.set_num_threads(1)
    cases = 0
    found: list[str] = []
    with tempfile.TemporaryDirectory(prefix="waybill-selftest-") as folder:
        ranks = Ranks(folder)
        begin = time.monotonic()
        while (over := (time.monotonic() - begin) / seconds) < 1 and len(found) < 10:
            size = SIZES[cases % len(SIZES)]
            found += [f"case {cases}, {size} ranks: {text}" for text in ranks.run(cases, size)]
            cases += 1
            progress(cases, over)
        ranks.close()
    return cases, found
