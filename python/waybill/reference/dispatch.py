"""npu_moe_distribute_dispatch and _v2: every row to its expert.

Sections are those of docs/contract/operators.md; this is sections 3 to 7.1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ._numerics import quantize_rows
from ._routing import (
    Call,
    PerRank,
    Sent,
    check_ids,
    counts_to_prefix,
    make_call,
    occurrence_indices,
    require,
    rows_sent,
    takes_part,
)


class DispatchV2Output(NamedTuple):
    """Outputs of npu_moe_distribute_dispatch_v2 on one rank."""

    expand_x: Tensor  # (A*max(TP,1), H), x's dtype or int8
    dynamic_scales: Tensor  # (A*max(TP,1),) float32
    assist_info_for_combine: Tensor  # (max(BS*K, A*128),) int32
    expert_token_nums: Tensor  # (localE,) int64
    ep_recv_counts: Tensor  # (max(TP,1)*E*localE,) int32, longer with expert_scales
    tp_recv_counts: Tensor  # (TP,) int32
    expand_scales: Tensor  # (A,) float32


class DispatchOutput(NamedTuple):
    """Outputs of npu_moe_distribute_dispatch on one rank."""

    expand_x: Tensor
    dynamic_scales: Tensor
    expand_idx: Tensor  # (BS*K,) int32
    expert_token_nums: Tensor
    ep_recv_counts: Tensor
    tp_recv_counts: Tensor
    expand_scales: Tensor


class Received(NamedTuple):
    """The rows that one rank gets from its EP group, in the order of section 4."""

    rows: Tensor  # (n, H)
    row_scales: Tensor  # (n,) float32
    weights: Tensor  # (n,) float32, expand_scales
    triples: Tensor  # (n, 3): source, token, slot
    prefix: Tensor  # (localE, E): ep_recv_counts in the numbering in force

    def nums(self, token_nums_type: int) -> Tensor:
        """expert_token_nums, int64 (localE,)."""
        inclusive = self.prefix[:, -1]
        if token_nums_type == 0:
            return inclusive
        return torch.diff(inclusive, prepend=inclusive.new_zeros(1))


def npu_moe_distribute_dispatch_v2(
    x: PerRank[Tensor],
    expert_ids: PerRank[Tensor],
    *,
    ep_world_size: int,
    moe_expert_num: int,
    scales: PerRank[Tensor] | None = None,
    x_active_mask: PerRank[Tensor] | None = None,
    expert_scales: PerRank[Tensor] | None = None,
    elastic_info: PerRank[Tensor] | None = None,
    performance_info: PerRank[Tensor] | None = None,
    tp_world_size: int = 0,
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
) -> list[DispatchV2Output | None]:
    """Send each active token's row to its experts.

    Lists have one entry per rank (2*ep_rank_id + tp_rank_id when TP is 2), None for ranks that
    elastic_info removed; so has the result. x: (BS, H) bf16, fp16 or float32. expert_ids: (BS, K)
    int32. scales: (S+M, H) float32. x_active_mask: (BS,) or (BS, K) bool. expert_scales: (BS, K)
    float32. elastic_info: (4+2E,) int32. performance_info, expert_shard_type and comm_alg do not
    change results. Outputs: section 2; what is unspecified there is 0 here.
    """
    check_quantization(quant_mode, scales, y_dtype, x_dtype, scales_dtype)
    call = make_call(
        x,
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
    received = [
        exchange(
            call,
            call.args_of_tp_rank(x, tp_rank),
            call.args_of_tp_rank(expert_ids, tp_rank),
            call.args_of_tp_rank(x_active_mask, tp_rank),
            call.args_of_tp_rank(scales, tp_rank),
            call.args_of_tp_rank(expert_scales, tp_rank),
            quant_mode,
        )
        for tp_rank in range(call.tp)
    ]
    outputs: list[DispatchV2Output | None] = [None] * len(x)
    for rank, member in enumerate(call.members):
        for tp_rank in range(call.tp):
            place = call.tp * member + tp_rank
            outputs[place] = assemble(
                call,
                rank,
                tp_rank,
                own=received[tp_rank][rank],
                peer=received[1 - tp_rank][rank] if call.tp == 2 else None,
                bs=len(require(expert_ids[place], "expert_ids")),
                tp_world_size=tp_world_size,
                token_nums_type=expert_token_nums_type,
                with_weights=expert_scales is not None and expert_scales[place] is not None,
            )
    return outputs


def npu_moe_distribute_dispatch(
    x: PerRank[Tensor],
    expert_ids: PerRank[Tensor],
    *,
    ep_world_size: int,
    moe_expert_num: int,
    scales: PerRank[Tensor] | None = None,
    x_active_mask: PerRank[Tensor] | None = None,
    expert_scales: PerRank[Tensor] | None = None,
    tp_world_size: int = 0,
    expert_shard_type: int = 0,
    shared_expert_num: int = 1,
    shared_expert_rank_num: int = 0,
    quant_mode: int = 0,
    global_bs: int = 0,
    expert_token_nums_type: int = 1,
) -> list[DispatchOutput | None]:
    """As npu_moe_distribute_dispatch_v2, but the third output is expand_idx, (BS*K,) int32."""
    outputs: list[DispatchOutput | None] = []
    for place, output in enumerate(
        npu_moe_distribute_dispatch_v2(
            x,
            expert_ids,
            ep_world_size=ep_world_size,
            moe_expert_num=moe_expert_num,
            scales=scales,
            x_active_mask=x_active_mask,
            expert_scales=expert_scales,
            tp_world_size=tp_world_size,
            expert_shard_type=expert_shard_type,
            shared_expert_num=shared_expert_num,
            shared_expert_rank_num=shared_expert_rank_num,
            quant_mode=quant_mode,
            global_bs=global_bs,
            expert_token_nums_type=expert_token_nums_type,
        )
    ):
        ids = require(expert_ids[place], "expert_ids")
        mask = None if x_active_mask is None else x_active_mask[place]
        expand_idx = occurrence_indices(ids, takes_part(ids, mask))
        fields = require(output, "output")._asdict()
        del fields["assist_info_for_combine"]
        outputs.append(DispatchOutput(expand_idx=expand_idx, **fields))
    return outputs


def check_quantization(
    quant_mode: int, scales: PerRank[Tensor] | None, *output_types: int | None
) -> None:
    """Refuse what the oracle does not compute."""
    if quant_mode not in (0, 2) or any(code is not None for code in output_types):
        raise ValueError("not yet: the quantisation modes of section 12")
    if quant_mode == 0 and scales is not None and any(s is not None for s in scales):
        raise ValueError("scales must be None with quant_mode 0")


def exchange(
    call: Call,
    x: list[Tensor | None],
    expert_ids: list[Tensor | None],
    x_active_mask: list[Tensor | None],
    scales: list[Tensor | None],
    expert_scales: list[Tensor | None],
    quant_mode: int,
) -> list[Received]:
    """The exchange within one EP group; all lists are in the ranks' order in force."""
    sent: list[Sent] = []
    payloads: list[tuple[Tensor, Tensor]] = []
    weights: list[Tensor] = []
    for source in range(call.now.num_ranks):
        ids = require(expert_ids[source], "expert_ids")
        part = takes_part(ids, x_active_mask[source])
        check_ids(call, source, ids, part)
        rows = rows_sent(call, source, ids, part)
        sent.append(rows)
        payloads.append(row_payload(require(x[source], "x"), rows, scales[source], quant_mode))
        weights.append(row_weights(rows, call.top_k, expert_scales[source]))
    return deliver(call, sent, payloads, weights)


def row_payload(
    x: Tensor, rows: Sent, scales: Tensor | None, quant_mode: int
) -> tuple[Tensor, Tensor]:
    """What travels (7.1): (n, H) of x's dtype or int8, and the scales (n,); 0 in quant_mode 0."""
    values = x.index_select(0, rows.token)
    if quant_mode == 0:
        return values, torch.zeros(len(values), dtype=torch.float32)
    values = values.float()
    if scales is not None:
        values = values * scales.index_select(0, rows.expert)
    return quantize_rows(values)


def row_weights(rows: Sent, top_k: int, expert_scales: Tensor | None) -> Tensor:
    """expand_scales of the rows: the weight of (t, k), 1.0 for a shared expert, 0 without any."""
    if expert_scales is None:
        return torch.zeros(len(rows.token), dtype=torch.float32)
    weights = torch.ones(len(rows.token), dtype=torch.float32)
    moe = rows.slot < top_k
    weights[moe] = expert_scales[rows.token[moe], rows.slot[moe]]
    return weights


def deliver(
    call: Call, sent: list[Sent], payloads: list[tuple[Tensor, Tensor]], weights: list[Tensor]
) -> list[Received]:
    """Sort what all sources send into the order of section 4 at every destination."""
    everything = Sent(*(torch.cat(columns) for columns in zip(*sent, strict=True)))
    lengths = torch.tensor([len(rows.token) for rows in sent])
    source = torch.repeat_interleave(torch.arange(len(sent)), lengths)
    all_rows = torch.cat([rows for rows, _ in payloads])
    all_scales = torch.cat([row_scales for _, row_scales in payloads])
    all_weights = torch.cat(weights)

    received = []
    for rank in range(call.now.num_ranks):
        # `everything` is ordered by source and position, so a stable sort by local expert is all
        # that is missing.
        arriving = (everything.dest == rank).nonzero().flatten()
        arriving = arriving[torch.argsort(everything.cell[arriving], stable=True)]
        if len(arriving) > call.capacity(rank):
            raise ValueError(
                f"rank {call.members[rank]} would receive {len(arriving)} rows, it has room for "
                f"A = {call.capacity(rank)}: expert_ids of a token name an expert more than once"
            )
        triples = torch.stack([source, everything.token, everything.slot], dim=1)[arriving]
        prefix = counts_to_prefix(
            everything.cell[arriving],
            source[arriving],
            call.now.num_local(rank),
            call.now.num_ranks,
        )
        received.append(
            Received(
                rows=all_rows[arriving],
                row_scales=all_scales[arriving],
                weights=all_weights[arriving],
                triples=triples,
                prefix=prefix,
            )
        )
    return received


def assemble(
    call: Call,
    rank: int,
    tp_rank: int,
    *,
    own: Received,
    peer: Received | None,
    bs: int,
    tp_world_size: int,
    token_nums_type: int,
    with_weights: bool,
) -> DispatchV2Output:
    """Outputs of full shape (section 2) from what a rank and its TP peer received (section 6)."""
    both = [own] if peer is None else [own, peer]
    capacity = call.capacity(rank)
    num_local = call.local_experts_of_shapes(rank)

    num_counts = call.tp * call.original.num_ranks * num_local
    if with_weights:
        hosts = max(call.original.num_ranks // 8, 1)
        num_counts += 2 * call.global_bs * call.top_k * hosts

    tp_recv_counts = torch.zeros(tp_world_size, dtype=torch.int32)
    if peer is not None:
        tp_recv_counts[tp_rank] = len(own.rows)
        tp_recv_counts[1 - tp_rank] = len(peer.rows)

    nums = torch.stack([part.nums(token_nums_type) for part in both]).sum(dim=0)
    return DispatchV2Output(
        expand_x=padded(torch.cat([part.rows for part in both]), capacity * call.tp),
        dynamic_scales=padded(torch.cat([part.row_scales for part in both]), capacity * call.tp),
        assist_info_for_combine=padded(
            own.triples.flatten().to(torch.int32), max(bs * call.top_k, capacity * 128)
        ),
        expert_token_nums=padded(nums, num_local),
        ep_recv_counts=padded(
            torch.cat([part.prefix.flatten() for part in both]).to(torch.int32), num_counts
        ),
        tp_recv_counts=tp_recv_counts,
        expand_scales=padded(own.weights, capacity),
    )


def padded(values: Tensor, length: int) -> Tensor:
    """`values` lengthened with zeros along the first dimension."""
    result = values.new_zeros(length, *values.shape[1:])
    result[: len(values)] = values
    return result
