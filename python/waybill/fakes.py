"""Shapes of results without computing them, for compilers and fake tensors (section 2).

Written with symbolic sizes in mind: no comparison on BS, H or K that would fix one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from . import _library
from .operators import Operator

INT8_ROWS = (1, 2)  # quant modes whose rows are int8 by default
SMALLEST_TRIPLES = 128  # assist_info_for_combine holds this many int32 a row


def _minimum(a: Any, b: Any) -> Any:
    return torch.sym_min(a, b)


def _positive(number: Any) -> Any:
    """A divisor; a bad one is an error of the operator, not of its shapes."""
    return number if number > 0 else 1


def dispatch_v2(
    x: Tensor,
    expert_ids: Tensor,
    group_ep: str,
    ep_world_size: int,
    ep_rank_id: int,
    moe_expert_num: int,
    scales: Tensor | None = None,
    x_active_mask: Tensor | None = None,
    expert_scales: Tensor | None = None,
    elastic_info: Tensor | None = None,
    performance_info: Tensor | None = None,
    group_tp: str = "",
    tp_world_size: int = 0,
    tp_rank_id: int = 0,
    expert_shard_type: int = 0,
    shared_expert_num: int = 1,
    shared_expert_rank_num: int = 0,
    quant_mode: int = 0,
    global_bs: int = 0,
    expert_token_nums_type: int = 1,
    comm_alg: str = "",
    zero_expert_num: int = 0,
    copy_expert_num: int = 0,
    const_expert_num: int = 0,
    y_dtype: int | None = None,
    x_dtype: int | None = None,
    scales_dtype: int | None = None,
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


def combine_v2(
    expand_x: Tensor,
    expert_ids: Tensor,
    *others: Any,
    **options: Any,
) -> Tensor:
    return expand_x.new_empty((expert_ids.shape[0], expand_x.shape[1]))


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
    if not on_meta or len(on_meta) == len(tensors):
        return
    _library.refuse(
        named["group_ep"], operator.name, on_meta[0], "a tensor on the CPU", "one on meta"
    )
    raise ValueError(str(_library.last_error()))


SHAPES: dict[str, Callable[..., Any]] = {
    "npu_moe_distribute_dispatch_v2": dispatch_v2,
    "npu_moe_distribute_combine_v2": combine_v2,
}
"""The fake kernel of each operator, by its name."""


def register(operator: Operator) -> None:
    """Registers the fake kernel of an operator, and of its form with a token."""
    shapes = SHAPES[operator.name]

    names = [argument.name for argument in operator.overload._schema.arguments]

    def plain(*arguments: Any, **options: Any) -> Any:
        _check_devices(operator, {**dict(zip(names, arguments, strict=False)), **options})
        return shapes(*arguments, **options)

    def ordered(token: Tensor, *arguments: Any, **options: Any) -> Any:
        return plain(*arguments, **options)

    for name in (operator.name, operator.plain_name):
        torch.library.register_fake(f"waybill::{name}")(plain)
    torch.library.register_fake(f"waybill::{operator.ordered_name}")(ordered)
