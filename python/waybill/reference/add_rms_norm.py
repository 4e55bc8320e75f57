"""npu_moe_distribute_combine_add_rms_norm: combine, add a residual, normalise.

See docs/contract/operators.md section 7.4.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ._numerics import f32, sqrt_f32, sum_over_h
from ._returns import gather_tokens
from ._routing import PerRank, make_call, require, takes_part
from .combine import check_reserved, combine_sums


class AddRmsNormOutput(NamedTuple):
    """Outputs of npu_moe_distribute_combine_add_rms_norm on one rank."""

    y: Tensor  # (BS, 1, H), residual_x's dtype
    rstd: Tensor  # (BS, 1, 1) float32
    x: Tensor  # (BS, 1, H)


def npu_moe_distribute_combine_add_rms_norm(
    expand_x: PerRank[Tensor],
    expert_ids: PerRank[Tensor],
    expand_idx: PerRank[Tensor],
    ep_send_counts: PerRank[Tensor],
    expert_scales: PerRank[Tensor],
    residual_x: PerRank[Tensor],
    gamma: PerRank[Tensor],
    *,
    ep_world_size: int,
    moe_expert_num: int,
    tp_send_counts: PerRank[Tensor] | None = None,
    x_active_mask: PerRank[Tensor] | None = None,
    activation_scale: PerRank[Tensor] | None = None,
    weight_scale: PerRank[Tensor] | None = None,
    group_list: PerRank[Tensor] | None = None,
    expand_scales: PerRank[Tensor] | None = None,
    shared_expert_x: PerRank[Tensor] | None = None,
    elastic_info: PerRank[Tensor] | None = None,
    ori_x: PerRank[Tensor] | None = None,
    const_expert_alpha_1: PerRank[Tensor] | None = None,
    const_expert_alpha_2: PerRank[Tensor] | None = None,
    const_expert_v: PerRank[Tensor] | None = None,
    tp_world_size: int = 0,
    expert_shard_type: int = 0,
    shared_expert_num: int = 1,
    shared_expert_rank_num: int = 0,
    global_bs: int = 0,
    out_dtype: int = 0,
    comm_quant_mode: int = 0,
    group_list_type: int = 0,
    comm_alg: str = "",
    norm_eps: float = 1e-06,
    zero_expert_num: int = 0,
    copy_expert_num: int = 0,
    const_expert_num: int = 0,
) -> list[AddRmsNormOutput | None]:
    """Combine as npu_moe_distribute_combine_v2, then add residual_x and RMS-normalise with gamma.

    expand_idx: triples when it has more than BS*K elements, else occurrence indices; the same form
    on all ranks. residual_x: (BS, 1, H) or (BS, H); gamma: (H,), both of expand_x's dtype. Tokens
    that take no part get zero rows of y and x, and rstd 0.
    """
    check_reserved(activation_scale, weight_scale, group_list, out_dtype, group_list_type)
    call = make_call(
        expand_x,
        expert_ids,
        ep_world_size=ep_world_size,
        moe_expert_num=moe_expert_num,
        shared_expert_num=shared_expert_num,
        shared_expert_rank_num=shared_expert_rank_num,
        global_bs=global_bs,
        tp_world_size=tp_world_size,
        elastic_info=elastic_info,
        zero_expert_num=zero_expert_num,
        copy_expert_num=copy_expert_num,
        const_expert_num=const_expert_num,
    )
    tokens = gather_tokens(
        call,
        expert_ids,
        expert_scales,
        x_active_mask,
        shared_expert_x,
        ori_x,
        const_expert_alpha_1,
        const_expert_alpha_2,
        const_expert_v,
    )
    by_triples = are_triples(expand_idx, expert_ids)
    sums = combine_sums(
        call,
        tokens,
        expand_x,
        ep_send_counts,
        tp_send_counts,
        comm_quant_mode,
        triples=expand_idx if by_triples else None,
        occurrences=None if by_triples else expand_idx,
    )
    outputs: list[AddRmsNormOutput | None] = [None] * len(sums)
    for place, acc in enumerate(sums):
        if acc is None:
            continue
        ids = require(expert_ids[place], "expert_ids")
        mask = None if x_active_mask is None else x_active_mask[place]
        outputs[place] = add_rms_norm(
            acc,
            takes_part(ids, mask).tokens,
            require(residual_x[place], "residual_x").reshape(acc.shape),
            require(gamma[place], "gamma"),
            norm_eps,
        )
    return outputs


def are_triples(expand_idx: PerRank[Tensor], expert_ids: PerRank[Tensor]) -> bool:
    """Whether expand_idx is dispatch_v2's assist_info_for_combine rather than v1's expand_idx.

    One rank with more than BS*K elements decides: where A is 0 the triples of a rank are no longer
    than that.
    """
    return any(
        index.numel() > ids.numel()
        for index, ids in zip(expand_idx, expert_ids, strict=True)
        if index is not None and ids is not None
    )


def add_rms_norm(
    acc: Tensor, active: Tensor, residual: Tensor, gamma: Tensor, norm_eps: float
) -> AddRmsNormOutput:
    """7.4 for float32 acc (BS, H) and residual (BS, H)."""
    dtype = residual.dtype
    f = acc + residual.float()
    terms = (f * f) * f32(1.0 / f.shape[1])
    rstd = f32(1.0) / sqrt_f32(sum_over_h(terms) + f32(norm_eps))
    normalized = (f * rstd[:, None]).to(dtype)
    y = (normalized.float() * gamma.float()).to(dtype)
    nothing = ~active
    y[nothing] = 0
    rstd[nothing] = 0
    x = f.to(dtype)
    x[nothing] = 0
    return AddRmsNormOutput(y[:, None, :], rstd[:, None, None], x[:, None, :])
