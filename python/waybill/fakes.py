"""Shapes of results without computing them, for compilers and fake tensors.

The shapes are those of docs/contract/operators.md section 2.

A function here has the name of an operator and those of its parameters, by their names, that its
shapes follow.

Written with symbolic sizes in mind: no comparison on BS, H or K that would fix one of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from . import _library
from ._forwarding import check_names
from .operators import Operator

INT8_ROWS = (1, 2)  # quant modes whose rows are int8 by default
SMALLEST_TRIPLES = 128  # assist_info_for_combine holds this many int32 a row


def _minimum(a: Any, b: Any) -> Any:
    return torch.sym_min(a, b)


def _positive(number: Any) -> Any:
    """A divisor; a bad one is an error of the operator, not of its shapes."""
    return number if number > 0 else 1


def npu_moe_distribute_dispatch_v2(
    x: Tensor,
    expert_ids: Tensor,
    ep_world_size: int,
    ep_rank_id: int,
    moe_expert_num: int,
    shared_expert_num: int,
    shared_expert_rank_num: int,
    quant_mode: int,
    global_bs: int,
    expert_scales: Tensor | None = None,
    elastic_info: Tensor | None = None,
    tp_world_size: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    num_tokens, hidden = x.shape
    top_k = expert_ids.shape[1]
    total_batch = num_tokens * ep_world_size if _is_zero(global_bs) else global_bs
    moe_ranks = _positive(ep_world_size - shared_expert_rank_num)
    experts_per_rank = moe_expert_num // moe_ranks
    is_shared = ep_rank_id < shared_expert_rank_num
    elastic = elastic_info is not None

    moe_rows = total_batch * _minimum(experts_per_rank, top_k)
    shared_rows = 0
    if shared_expert_rank_num > 0:
        ranks_per_shared = _positive(shared_expert_rank_num // _positive(shared_expert_num))
        sources = -(-ep_world_size // ranks_per_shared)
        shared_rows = total_batch // ep_world_size * sources
    if elastic:
        capacity = torch.sym_max(moe_rows, shared_rows)
    else:
        capacity = shared_rows if is_shared else moe_rows

    local = max(1, experts_per_rank) if elastic else experts_per_rank
    num_counted = local if elastic or not is_shared else 1
    parts = max(tp_world_size, 1)
    num_counts = parts * ep_world_size * (1 if is_shared and not elastic else local)
    if expert_scales is not None:
        num_counts = num_counts + 2 * total_batch * top_k * max(ep_world_size // 8, 1)

    triples = capacity * SMALLEST_TRIPLES
    # A >= BS wherever a rank receives at all, so for usual K the second term never counts.
    if not (isinstance(top_k, int) and top_k <= SMALLEST_TRIPLES and _receives(capacity)):
        triples = torch.sym_max(num_tokens * top_k, triples)
    row_dtype = torch.int8 if quant_mode in INT8_ROWS else x.dtype

    return (
        x.new_empty((capacity * parts, hidden), dtype=row_dtype),
        x.new_empty((capacity * parts,), dtype=torch.float32),
        x.new_empty((triples,), dtype=torch.int32),
        x.new_empty((num_counted,), dtype=torch.int64),
        x.new_empty((num_counts,), dtype=torch.int32),
        x.new_empty((tp_world_size,), dtype=torch.int32),
        x.new_empty((capacity,), dtype=torch.float32),
    )


def _is_zero(number: Any) -> bool:
    """Without a guard on a symbolic number: one that follows BS is not the constant 0."""
    return isinstance(number, int) and number == 0


def _receives(capacity: Any) -> bool:
    return not _is_zero(capacity)


def npu_moe_distribute_combine_v2(expand_x: Tensor, expert_ids: Tensor) -> Tensor:
    return expand_x.new_empty((expert_ids.shape[0], expand_x.shape[1]))


npu_moe_distribute_combine = npu_moe_distribute_combine_v2
npu_moe_distribute_combine_teardown = npu_moe_distribute_combine_v2


def _check_devices(operator: Operator, named: dict[str, Any]) -> None:
    """One tensor on the meta device makes torch ask for shapes, though the others are real.

    That is a bad call like any other, so the other ranks hear of it.
    """
    tensors = {
        name: value
        for name, value in named.items()
        if isinstance(value, Tensor) and not isinstance(value, FakeTensor)
    }
    on_meta = [name for name, value in tensors.items() if value.device.type == "meta"]
    if operator.group is None or not on_meta or len(on_meta) == len(tensors):
        return
    _library.refuse(
        named[operator.group], operator.name, on_meta[0], "a tensor on the CPU", "one on meta"
    )
    raise ValueError(str(_library.last_error()))


def npu_moe_distribute_dispatch(
    x: Tensor,
    expert_ids: Tensor,
    ep_world_size: int,
    ep_rank_id: int,
    moe_expert_num: int,
    shared_expert_num: int,
    shared_expert_rank_num: int,
    quant_mode: int,
    global_bs: int,
    expert_scales: Tensor | None,
    tp_world_size: int,
) -> tuple[Tensor, ...]:
    outputs = npu_moe_distribute_dispatch_v2(
        x,
        expert_ids,
        ep_world_size=ep_world_size,
        ep_rank_id=ep_rank_id,
        moe_expert_num=moe_expert_num,
        shared_expert_num=shared_expert_num,
        shared_expert_rank_num=shared_expert_rank_num,
        quant_mode=quant_mode,
        global_bs=global_bs,
        expert_scales=expert_scales,
        tp_world_size=tp_world_size,
    )
    return (*outputs[:2], _expand_idx(expert_ids), *outputs[3:])


def npu_moe_distribute_combine_add_rms_norm(
    expand_x: Tensor, expert_ids: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    num_tokens, hidden = expert_ids.shape[0], expand_x.shape[1]
    return (
        expand_x.new_empty((num_tokens, 1, hidden)),
        expand_x.new_empty((num_tokens, 1, 1), dtype=torch.float32),
        expand_x.new_empty((num_tokens, 1, hidden)),
    )


def _expand_idx(expert_ids: Tensor) -> Tensor:
    num_tokens, top_k = expert_ids.shape
    return expert_ids.new_empty((num_tokens * top_k,), dtype=torch.int32)


def _align(value: Any, multiple: int) -> Any:
    return (value + multiple - 1) // multiple * multiple


def _local_experts(
    ep_world_size: int, ep_rank_id: int, moe_expert_num: int, shared_expert_rank_num: int
) -> int:
    """localE."""
    if ep_rank_id < shared_expert_rank_num:
        return 1
    return moe_expert_num // _positive(ep_world_size - shared_expert_rank_num)


RECORD = 16  # int32 of comm_cmd_info per message or row


def npu_moe_distribute_dispatch_setup(
    x: Tensor,
    expert_ids: Tensor,
    ep_world_size: int,
    ep_rank_id: int,
    moe_expert_num: int,
    shared_expert_num: int,
    shared_expert_rank_num: int,
    quant_mode: int,
) -> tuple[Tensor, Tensor, Tensor]:
    num_tokens, hidden = x.shape
    local = _local_experts(ep_world_size, ep_rank_id, moe_expert_num, shared_expert_rank_num)
    messages = num_tokens * (expert_ids.shape[1] + shared_expert_num)
    quantised = quant_mode in INT8_ROWS
    width = _align(_align(hidden, 32) + 4, 512) if quantised else _align(hidden, 256)
    return (
        x.new_empty((messages, width), dtype=torch.int8 if quantised else x.dtype),
        _expand_idx(expert_ids),
        x.new_empty(((messages + ep_world_size * local) * RECORD,), dtype=torch.int32),
    )


def npu_moe_distribute_dispatch_teardown(
    x: Tensor,
    expert_ids: Tensor,
    ep_world_size: int,
    ep_rank_id: int,
    moe_expert_num: int,
    shared_expert_num: int,
    shared_expert_rank_num: int,
    quant_mode: int,
    global_bs: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, scales, _, nums, counts, *_ = npu_moe_distribute_dispatch_v2(
        x,
        expert_ids,
        ep_world_size=ep_world_size,
        ep_rank_id=ep_rank_id,
        moe_expert_num=moe_expert_num,
        shared_expert_num=shared_expert_num,
        shared_expert_rank_num=shared_expert_rank_num,
        quant_mode=quant_mode,
        global_bs=global_bs,
    )
    size = torch.sym_max(rows.shape[0] * SMALLEST_TRIPLES, counts.shape[0])
    return rows, scales, x.new_empty((size,), dtype=torch.int32), nums


def npu_moe_distribute_combine_setup(expand_x: Tensor, ep_world_size: int) -> tuple[Tensor, Tensor]:
    rows, hidden = expand_x.shape
    width = _align(_align(hidden, 32) + _align(hidden, 8) // 8 * 4, 512)
    return (
        expand_x.new_empty((rows, width), dtype=torch.int8),
        expand_x.new_empty(((rows + ep_world_size) * RECORD,), dtype=torch.int32),
    )


def _npu_distribute_barrier(x_ref: Tensor) -> Tensor:
    return torch.empty_like(x_ref)


def npu_moe_update_expert(expert_ids: Tensor) -> tuple[Tensor, Tensor]:
    shape = tuple(expert_ids.shape)
    return expert_ids.new_empty(shape), expert_ids.new_empty(shape, dtype=torch.bool)


def npu_moe_eplb_update_expert(expert_ids: Tensor) -> Tensor:
    return expert_ids.new_empty(tuple(expert_ids.shape))


def by_name(operator: Operator, shapes: Callable[..., Any]) -> Callable[..., Any]:
    """The fake kernel of an operator: gives `shapes` those arguments that its parameters name.

    Raises:
        ImportError: one of them is no parameter of the operator.
    """
    arguments = operator.arguments
    names = [argument.name for argument in arguments]
    check_names(shapes, names, operator)
    wanted = tuple(inspect.signature(shapes).parameters)
    # torch leaves out what has its default.
    defaults = {a.name: a.default_value for a in arguments if a.has_default_value()}

    def fake(*given: Any, **options: Any) -> Any:
        named = {**defaults, **dict(zip(names, given, strict=False)), **options}
        _check_devices(operator, named)
        return shapes(**{name: named[name] for name in wanted})

    return fake


def register(operator: Operator) -> None:
    """Registers the fake kernel of an operator, the function of its name, for all its forms."""
    plain = by_name(operator, globals()[operator.name])
    torch.library.register_fake(f"waybill::{operator.name}")(plain)
    if operator.writes:
        torch.library.register_fake(f"waybill::{operator.plain_name}")(plain)
    if operator.group is None:
        return

    def ordered(token: Tensor, *arguments: Any, **options: Any) -> Any:
        outputs = plain(*arguments, **options)
        return None if operator.gives_input_back else outputs

    torch.library.register_fake(f"waybill::{operator.ordered_name}")(ordered)
