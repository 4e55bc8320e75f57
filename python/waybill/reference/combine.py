"""npu_moe_distribute_combine and _v2: rows back to their tokens, weighted.

Sections are those of docs/contract/operators.md; this is sections 5 to 7.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._numerics import comm_quantize_round_trip, softmax_pair, sum_over_h
from ._returns import (
    Tokens,
    gather_tokens,
    homes_by_occurrence,
    homes_by_triples,
    num_rows,
    own_prefix,
    own_rows,
)
from ._routing import Call, PerRank, make_call, require


def npu_moe_distribute_combine_v2(
    expand_x: PerRank[Tensor],
    expert_ids: PerRank[Tensor],
    assist_info_for_combine: PerRank[Tensor],
    ep_send_counts: PerRank[Tensor],
    expert_scales: PerRank[Tensor],
    *,
    ep_world_size: int,
    moe_expert_num: int,
    tp_send_counts: PerRank[Tensor] | None = None,
    x_active_mask: PerRank[Tensor] | None = None,
    expand_scales: PerRank[Tensor] | None = None,
    shared_expert_x: PerRank[Tensor] | None = None,
    elastic_info: PerRank[Tensor] | None = None,
    ori_x: PerRank[Tensor] | None = None,
    const_expert_alpha_1: PerRank[Tensor] | None = None,
    const_expert_alpha_2: PerRank[Tensor] | None = None,
    const_expert_v: PerRank[Tensor] | None = None,
    performance_info: PerRank[Tensor] | None = None,
    tp_world_size: int = 0,
    expert_shard_type: int = 0,
    shared_expert_num: int = 1,
    shared_expert_rank_num: int = 0,
    global_bs: int = 0,
    comm_quant_mode: int = 0,
    comm_alg: str = "",
    zero_expert_num: int = 0,
    copy_expert_num: int = 0,
    const_expert_num: int = 0,
) -> list[Tensor | None]:
    """Bring every row home by the triples of dispatch_v2 and sum: (BS, H) of expand_x's dtype.

    Lists as in npu_moe_distribute_dispatch_v2. expand_x: (n, H), n >= the rows received.
    expert_ids: (BS, K) int32. assist_info_for_combine, ep_send_counts, tp_send_counts: int32,
    dispatch's outputs. expert_scales: (BS, K) float32. x_active_mask: (BS,) or (BS, K) bool.
    shared_expert_x: (BS, H) or (a, b, H), only without shared ranks. ori_x: (BS, H);
    const_expert_alpha_1 and _2: (N,) or (N, H); const_expert_v: (N, H), all of expand_x's dtype.
    expand_scales, performance_info, expert_shard_type and comm_alg do not change results.
    """
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
    sums = combine_sums(
        call,
        tokens,
        expand_x,
        ep_send_counts,
        tp_send_counts,
        comm_quant_mode,
        triples=assist_info_for_combine,
    )
    return round_sums(sums, expand_x)


def npu_moe_distribute_combine(
    expand_x: PerRank[Tensor],
    expert_ids: PerRank[Tensor],
    expand_idx: PerRank[Tensor],
    ep_send_counts: PerRank[Tensor],
    expert_scales: PerRank[Tensor],
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
    tp_world_size: int = 0,
    expert_shard_type: int = 0,
    shared_expert_num: int = 1,
    shared_expert_rank_num: int = 0,
    global_bs: int = 0,
    out_dtype: int = 0,
    comm_quant_mode: int = 0,
    group_list_type: int = 0,
) -> list[Tensor | None]:
    """As npu_moe_distribute_combine_v2, but rows are found by (expert_ids, expand_idx).

    expand_idx: (BS*K,) int32. x_active_mask: the one that dispatch had. activation_scale,
    weight_scale, group_list, out_dtype and group_list_type must be at their defaults.
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
    )
    tokens = gather_tokens(call, expert_ids, expert_scales, x_active_mask, shared_expert_x)
    sums = combine_sums(
        call,
        tokens,
        expand_x,
        ep_send_counts,
        tp_send_counts,
        comm_quant_mode,
        occurrences=expand_idx,
    )
    return round_sums(sums, expand_x)


def check_reserved(*arguments: PerRank[Tensor] | int | None) -> None:
    """Refuse activation_scale, weight_scale, group_list and the two types unless at defaults."""
    for argument in arguments:
        given = list(argument) if isinstance(argument, Sequence) else []
        if given == [] and argument:
            raise ValueError("out_dtype and group_list_type must be 0")
        if any(entry is not None for entry in given):
            raise ValueError("activation_scale, weight_scale and group_list must be None")


def round_sums(sums: list[Tensor | None], expand_x: PerRank[Tensor]) -> list[Tensor | None]:
    return [
        None if acc is None else acc.to(require(expand_x[place], "expand_x").dtype)
        for place, acc in enumerate(sums)
    ]


def combine_sums(
    call: Call,
    tokens: list[list[Tokens]],
    expand_x: PerRank[Tensor],
    ep_send_counts: PerRank[Tensor],
    tp_send_counts: PerRank[Tensor] | None,
    comm_quant_mode: int,
    *,
    triples: PerRank[Tensor] | None = None,
    occurrences: PerRank[Tensor] | None = None,
) -> list[Tensor | None]:
    """acc of 7.2 before rounding, float32 (BS, H) per entry of the lists.

    Rows are found by `triples`, or else by `occurrences`.
    """
    if comm_quant_mode not in (0, 2) or (comm_quant_mode and call.tp == 2):
        raise ValueError("comm_quant_mode is 0 or 2, and 0 with tp_world_size 2")
    sums: list[Tensor | None] = [None] * len(expand_x)
    for tp_rank, group in enumerate(tokens):
        prefixes = [
            own_prefix(call, rank, require(counts, "ep_send_counts"))
            for rank, counts in enumerate(call.args_of_tp_rank(ep_send_counts, tp_rank))
        ]
        rows = [
            own_rows(call, rank, tp_rank, num_rows(prefix), expand_x, tp_send_counts)
            for rank, prefix in enumerate(prefixes)
        ]
        if triples is not None:
            assist = call.args_of_tp_rank(triples, tp_rank)
            homes = homes_by_triples(call, group, assist, [len(r) for r in rows])
        else:
            indices = call.args_of_tp_rank(occurrences, tp_rank)
            homes = homes_by_occurrence(call, group, indices, prefixes)
        all_rows = torch.cat(rows)
        if comm_quant_mode == 2:
            all_rows = comm_quantize_round_trip(all_rows)
        for member, own, home in zip(call.members, group, homes, strict=True):
            sums[call.tp * member + tp_rank] = weighted_sum(call, own, all_rows, home)
    return sums


def weighted_sum(call: Call, own: Tokens, all_rows: Tensor, home: Tensor) -> Tensor:
    """acc of 7.2, float32 (BS, H), for all tokens of a rank side by side.

    k by k, then the shared experts, then shared_expert_x.
    """
    acc = torch.zeros(len(own.ids), call.hidden, dtype=torch.float32)
    for k in range(call.top_k):
        weight = own.weights[:, k, None]
        ids = own.ids[:, k]

        sent = own.moe[:, k].nonzero().flatten()
        acc[sent] = acc[sent] + all_rows[home[sent, k]].float() * weight[sent]

        special = torch.where(own.part.pairs[:, k], ids.long() - call.special_begin, -1)
        copies = (special >= call.zero) & (special < call.zero + call.copy)
        t = copies.nonzero().flatten()
        if len(t):
            acc[t] = acc[t] + require(own.ori_x, "ori_x")[t].float() * weight[t]

        t = (special >= call.zero + call.copy).nonzero().flatten()
        if len(t):
            constant = const_expert_rows(own, t, special[t] - (call.zero + call.copy))
            acc[t] = acc[t] + constant * weight[t]

    active = own.part.tokens.nonzero().flatten()
    for s in range(call.now.num_shared):
        acc[active] = acc[active] + all_rows[home[active, call.top_k + s]].float()
    if own.shared_expert_x is not None:
        acc[active] = acc[active] + own.shared_expert_x[active].float()
    return acc


def const_expert_rows(own: Tokens, token: Tensor, expert: Tensor) -> Tensor:
    """const_j of 7.2 for each (token, j), float32 (n, H)."""
    ori_x = require(own.ori_x, "ori_x")[token].float()
    first = require(own.alpha_1, "const_expert_alpha_1")[expert].float()
    second = require(own.alpha_2, "const_expert_alpha_2")[expert].float()
    v = require(own.v, "const_expert_v")[expert].float()
    if first.dim() == 2:
        first, second = softmax_pair(sum_over_h(ori_x * first), sum_over_h(ori_x * second))
    return ori_x * first[:, None] + v * second[:, None]
