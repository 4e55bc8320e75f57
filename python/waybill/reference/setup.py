"""The set-up/teardown family (docs/contract/operators.md section 9).

The oracle keeps no state between the two halves. Its `dispatch_setup` puts the rows themselves
into `y` and their destinations into `comm_cmd_info`, where its `dispatch_teardown` finds them;
`combine_setup` puts the place of each row into `comm_cmd_info`. The contract leaves these tensors
opaque: other back ends fill them otherwise, so only what the oracle's own set-up returned may be
handed to the oracle's teardown.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ._returns import gather_tokens, num_rows, own_prefix
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
from .combine import combine_sums, round_sums
from .dispatch import check_quantization, deliver, padded, row_payload

RECORD = 16  # int32 of comm_cmd_info per message or row
SCALE_BYTES = 4


class DispatchSetupOutput(NamedTuple):
    """Outputs of npu_moe_distribute_dispatch_setup on one rank."""

    y: Tensor  # (BS*(K+S0), token_msg_size), x's dtype or int8; opaque
    expand_idx: Tensor  # (BS*K,) int32
    comm_cmd_info: Tensor  # ((BS*(K+S0) + E*localE)*16,) int32; opaque


class DispatchTeardownOutput(NamedTuple):
    """Outputs of npu_moe_distribute_dispatch_teardown on one rank."""

    expand_x: Tensor  # (A, H)
    dynamic_scales: Tensor  # (A,) float32
    assist_info_for_combine: Tensor  # (max(A*128, E*localE),) int32: ep_recv_counts, unspecified
    expert_token_nums: Tensor  # (localE,) int64


class CombineSetupOutput(NamedTuple):
    """Outputs of npu_moe_distribute_combine_setup on one rank."""

    quant_expand_x: Tensor  # (A, Align512(Align32(H) + Align8(H)/8*4)) int8; reserved
    comm_cmd_info: Tensor  # ((A+E)*16,) int32; opaque


def npu_moe_distribute_dispatch_setup(
    x: PerRank[Tensor],
    expert_ids: PerRank[Tensor],
    *,
    ep_world_size: int,
    moe_expert_num: int,
    scales: PerRank[Tensor] | None = None,
    x_active_mask: PerRank[Tensor] | None = None,
    expert_shard_type: int = 0,
    shared_expert_num: int = 1,
    shared_expert_rank_num: int = 0,
    quant_mode: int = 0,
    global_bs: int = 0,
    comm_type: int = 0,
    comm_alg: str = "",
    y_dtype: int | None = None,
) -> list[DispatchSetupOutput]:
    """Quantise and address every row.

    Inputs as npu_moe_distribute_dispatch_v2, but x_active_mask is (BS,), and scales (S0+M, H), or
    (M, H) when there is no shared rank.
    """
    check_quantization(quant_mode, scales, y_dtype)
    call = make_call(
        x,
        expert_ids,
        ep_world_size=ep_world_size,
        moe_expert_num=moe_expert_num,
        shared_expert_num=shared_expert_num,
        shared_expert_rank_num=shared_expert_rank_num,
        global_bs=global_bs,
    )
    outputs = []
    for rank in range(ep_world_size):
        ids = require(expert_ids[rank], "expert_ids")
        part = takes_part(ids, None if x_active_mask is None else x_active_mask[rank])
        check_ids(call, rank, ids, part)
        rows = rows_sent(call, rank, ids, part)
        own_scales = None if scales is None else scales[rank]
        if own_scales is not None and shared_expert_rank_num == 0:
            own_scales = own_scales[len(own_scales) - moe_expert_num :]
        values, row_scales = row_payload(require(x[rank], "x"), rows, own_scales, quant_mode)
        num_messages = len(ids) * (call.top_k + shared_expert_num)
        num_records = num_messages + ep_world_size * call.now.num_local(rank)
        outputs.append(
            DispatchSetupOutput(
                y=write_messages(values, row_scales, num_messages, quant_mode),
                expand_idx=occurrence_indices(ids, part),
                comm_cmd_info=write_addresses(rows, num_records),
            )
        )
    return outputs


def npu_moe_distribute_dispatch_teardown(
    x: PerRank[Tensor],
    y: PerRank[Tensor],
    expert_ids: PerRank[Tensor],
    comm_cmd_info: PerRank[Tensor],
    *,
    ep_world_size: int,
    moe_expert_num: int,
    expert_shard_type: int = 0,
    shared_expert_num: int = 1,
    shared_expert_rank_num: int = 0,
    quant_mode: int = 0,
    global_bs: int = 0,
    expert_token_nums_type: int = 1,
    comm_type: int = 0,
    comm_alg: str = "",
) -> list[DispatchTeardownOutput]:
    """Deliver what the set-up addressed.

    x and expert_ids give shapes only; y and comm_cmd_info are the set-up's.
    """
    call = make_call(
        x,
        expert_ids,
        ep_world_size=ep_world_size,
        moe_expert_num=moe_expert_num,
        shared_expert_num=shared_expert_num,
        shared_expert_rank_num=shared_expert_rank_num,
        global_bs=global_bs,
    )
    sent, payloads = [], []
    for rank in range(ep_world_size):
        rows = read_addresses(require(comm_cmd_info[rank], "comm_cmd_info"))
        sent.append(rows)
        messages = require(y[rank], "y")[: len(rows.token)]
        payloads.append(read_messages(messages, call.hidden, quant_mode))
    no_weights = [torch.zeros(len(rows.token), dtype=torch.float32) for rows in sent]

    outputs = []
    for rank, received in enumerate(deliver(call, sent, payloads, no_weights)):
        capacity = call.capacity(rank)
        counts = received.prefix.flatten().to(torch.int32)
        outputs.append(
            DispatchTeardownOutput(
                expand_x=padded(received.rows, capacity),
                dynamic_scales=padded(received.row_scales, capacity),
                assist_info_for_combine=padded(counts, max(capacity * 128, len(counts))),
                expert_token_nums=received.nums(expert_token_nums_type),
            )
        )
    return outputs


def npu_moe_distribute_combine_setup(
    expand_x: PerRank[Tensor],
    expert_ids: PerRank[Tensor],
    assist_info_for_combine: PerRank[Tensor],
    *,
    ep_world_size: int,
    moe_expert_num: int,
    expert_shard_type: int = 0,
    shared_expert_num: int = 1,
    shared_expert_rank_num: int = 0,
    global_bs: int = 0,
    comm_quant_mode: int = 0,
    comm_type: int = 0,
    comm_alg: str = "",
) -> list[CombineSetupOutput]:
    """Note where each row of expand_x (A, H) came from, by dispatch_teardown's assist_info."""
    call = make_combine_call(
        expand_x,
        expert_ids,
        ep_world_size,
        moe_expert_num,
        shared_expert_num,
        shared_expert_rank_num,
        global_bs,
    )
    outputs = []
    for rank in range(ep_world_size):
        rows = require(expand_x[rank], "expand_x")
        prefix = own_prefix(
            call, rank, require(assist_info_for_combine[rank], "assist_info_for_combine")
        )
        if len(rows) < num_rows(prefix):
            raise ValueError(f"expand_x of rank {rank} has fewer than {num_rows(prefix)} rows")
        counts = torch.diff(prefix.flatten(), prepend=prefix.new_zeros(1))
        records = torch.zeros(len(rows) + ep_world_size, RECORD, dtype=torch.int32)
        # 1 + local expert * E + source, so that 0 means no row.
        cells = torch.repeat_interleave(torch.arange(1, len(counts) + 1), counts)
        records[: len(cells), 0] = cells.to(torch.int32)
        width = align(align(call.hidden, 32) + align(call.hidden, 8) // 8 * SCALE_BYTES, 512)
        outputs.append(
            CombineSetupOutput(
                quant_expand_x=torch.zeros(len(rows), width, dtype=torch.int8),
                comm_cmd_info=records.flatten(),
            )
        )
    return outputs


def npu_moe_distribute_combine_teardown(
    expand_x: PerRank[Tensor],
    quant_expand_x: PerRank[Tensor],
    expert_ids: PerRank[Tensor],
    expand_idx: PerRank[Tensor],
    expert_scales: PerRank[Tensor],
    comm_cmd_info: PerRank[Tensor],
    *,
    ep_world_size: int,
    moe_expert_num: int,
    x_active_mask: PerRank[Tensor] | None = None,
    shared_expert_x: PerRank[Tensor] | None = None,
    expert_shard_type: int = 0,
    shared_expert_num: int = 1,
    shared_expert_rank_num: int = 0,
    global_bs: int = 0,
    comm_quant_mode: int = 0,
    comm_type: int = 0,
    comm_alg: str = "",
) -> list[Tensor | None]:
    """The result of npu_moe_distribute_combine, (BS, H) per rank.

    expand_x is the set-up's, unchanged; expand_idx dispatch_setup's; x_active_mask the one it had.
    """
    call = make_combine_call(
        expand_x,
        expert_ids,
        ep_world_size,
        moe_expert_num,
        shared_expert_num,
        shared_expert_rank_num,
        global_bs,
    )
    ep_send_counts = []
    for rank in range(ep_world_size):
        cells = require(comm_cmd_info[rank], "comm_cmd_info").reshape(-1, RECORD)[:, 0].long()
        cells = cells[cells > 0] - 1
        prefix = counts_to_prefix(
            cells // ep_world_size,
            cells % ep_world_size,
            call.now.num_local(rank),
            ep_world_size,
        )
        ep_send_counts.append(prefix.flatten())
    tokens = gather_tokens(call, expert_ids, expert_scales, x_active_mask, shared_expert_x)
    sums = combine_sums(
        call, tokens, expand_x, ep_send_counts, None, comm_quant_mode, occurrences=expand_idx
    )
    return round_sums(sums, expand_x)


def make_combine_call(
    expand_x: PerRank[Tensor],
    expert_ids: PerRank[Tensor],
    ep_world_size: int,
    moe_expert_num: int,
    shared_expert_num: int,
    shared_expert_rank_num: int,
    global_bs: int,
) -> Call:
    return make_call(
        expand_x,
        expert_ids,
        ep_world_size=ep_world_size,
        moe_expert_num=moe_expert_num,
        shared_expert_num=shared_expert_num,
        shared_expert_rank_num=shared_expert_rank_num,
        global_bs=global_bs,
    )


def align(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def write_messages(
    values: Tensor, row_scales: Tensor, num_messages: int, quant_mode: int
) -> Tensor:
    """y: row i begins with the i-th row sent; in quant_mode 2 its scale follows at Align32(H)."""
    n, hidden = values.shape
    quantised_bytes = align(hidden, 32) + SCALE_BYTES
    width = align(quantised_bytes, 512) if quant_mode == 2 else align(hidden, 256)
    y = values.new_zeros(num_messages, width)
    y[:n, :hidden] = values
    if quant_mode == 2:
        begin = align(hidden, 32)
        scale_bytes = row_scales.view(torch.int8).reshape(n, SCALE_BYTES)
        y[:n, begin : begin + SCALE_BYTES] = scale_bytes
    return y


def read_messages(messages: Tensor, hidden: int, quant_mode: int) -> tuple[Tensor, Tensor]:
    """The rows and their scales, as `write_messages` wrote them."""
    if quant_mode == 0:
        return messages[:, :hidden], torch.zeros(len(messages), dtype=torch.float32)
    begin = align(hidden, 32)
    scale_bytes = messages[:, begin : begin + SCALE_BYTES].contiguous()
    return messages[:, :hidden], scale_bytes.view(torch.float32).flatten()


def write_addresses(rows: Sent, num_records: int) -> Tensor:
    """comm_cmd_info: record i holds 1 and the columns of the i-th row sent."""
    records = torch.zeros(num_records, RECORD, dtype=torch.int32)
    records[: len(rows.token), 0] = 1
    for column, values in enumerate(rows, start=1):
        records[: len(rows.token), column] = values.to(torch.int32)
    return records.flatten()


def read_addresses(comm_cmd_info: Tensor) -> Sent:
    records = comm_cmd_info.reshape(-1, RECORD).long()
    records = records[records[:, 0] == 1]
    return Sent(*(records[:, column] for column in range(1, 1 + len(Sent._fields))))
