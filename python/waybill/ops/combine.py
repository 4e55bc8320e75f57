"""npu_moe_distribute_combine, _v2 and _add_rms_norm: rows back to their tokens."""

from __future__ import annotations

from torch import Tensor

from .._calls import operator

__all__ = [
    "npu_moe_distribute_combine",
    "npu_moe_distribute_combine_add_rms_norm",
    "npu_moe_distribute_combine_v2",
]


@operator
def npu_moe_distribute_combine_v2(
    expand_x: Tensor,
    expert_ids: Tensor,
    assist_info_for_combine: Tensor,
    ep_send_counts: Tensor,
    expert_scales: Tensor,
    group_ep: str,
    ep_world_size: int,
    ep_rank_id: int,
    moe_expert_num: int,
    *,
    tp_send_counts: Tensor | None = None,
    x_active_mask: Tensor | None = None,
    expand_scales: Tensor | None = None,
    shared_expert_x: Tensor | None = None,
    elastic_info: Tensor | None = None,
    ori_x: Tensor | None = None,
    const_expert_alpha_1: Tensor | None = None,
    const_expert_alpha_2: Tensor | None = None,
    const_expert_v: Tensor | None = None,
    performance_info: Tensor | None = None,
    group_tp: str = "",
    tp_world_size: int = 0,
    tp_rank_id: int = 0,
    expert_shard_type: int = 0,
    shared_expert_num: int = 1,
    shared_expert_rank_num: int = 0,
    global_bs: int = 0,
    comm_quant_mode: int = 0,
    comm_alg: str = "",
    zero_expert_num: int = 0,
    copy_expert_num: int = 0,
    const_expert_num: int = 0,
) -> Tensor:
    """Bring the experts' rows back to their tokens and sum them.

    For each active token: acc = 0; acc = acc + row*weight for k = 0..K-1, then the rows of shared
    experts and shared_expert_x with weight 1; all in float32, rounded once at the end. For a zero
    expert nothing is added, for a copy expert ori_x*weight, for constant expert j
    (ori_x*alpha_1[j] + v[j]*alpha_2[j])*weight, where alphas of (N, H) become the softmax of their
    products with ori_x. A token that takes no part is a row of zeros.

    Collective among the ranks of group_ep; blocks until all have called it, at most the group's
    timeout. Rows of expand_x in the group's memory (an output of dispatch, expert_buffer) are read
    by the other ranks where they are; the call returns when they have. Inputs may have any strides
    and are not changed. The output requires grad when an input
    does and grad mode is on, and backward through it is an error. Letters as in
    npu_moe_distribute_dispatch_v2.

    Args:
        expand_x: (n, H) bfloat16, float16 or float32, the experts' outputs in the row order of
            dispatch; n >= the rows that ep_send_counts describes.
        expert_ids: (BS, K) int32, as given to dispatch, or the logical ids it was remapped from.
        assist_info_for_combine: int32, from dispatch.
        ep_send_counts: int32, ep_recv_counts of dispatch.
        expert_scales: (BS, K) float32, the weights.
        group_ep: name of the group.
        ep_world_size: E.
        ep_rank_id: r.
        moe_expert_num: M.
        tp_send_counts: int32, tp_recv_counts of dispatch; needed with tp_world_size 2, else not
            read. Then expand_x holds this rank's rows and its peer's, and each row is first added
            to the peer's part of it.
        x_active_mask: (BS,) or (BS, K) bool, as given to dispatch.
        expand_scales: accepted and not read.
        shared_expert_x: (BS, H) or (a, b, H) with a*b = BS, expand_x's dtype; only when SR is 0.
        elastic_info, performance_info: as in dispatch.
        ori_x: (BS, H), the tokens; needed when C or N is not 0.
        const_expert_alpha_1, const_expert_alpha_2: (N,) or (N, H), both alike, expand_x's dtype;
            needed when N is not 0.
        const_expert_v: (N, H), expand_x's dtype; needed when N is not 0.
        group_tp, tp_world_size, tp_rank_id, expert_shard_type, shared_expert_num,
            shared_expert_rank_num, global_bs, comm_alg, zero_expert_num, copy_expert_num,
            const_expert_num: as in dispatch.
        comm_quant_mode: 0; 2: rows travel as int8 with a scale per 8 elements.

    Returns:
        (BS, H), expand_x's dtype.

    Raises:
        As npu_moe_distribute_dispatch_v2. A choice that no row comes back for, or two, is an
        ArgumentError that names token and slot, and the group needs a reset. Rows of different
        dispatches are a MismatchError.
    """


@operator
def npu_moe_distribute_combine(
    expand_x: Tensor,
    expert_ids: Tensor,
    expand_idx: Tensor,
    ep_send_counts: Tensor,
    expert_scales: Tensor,
    group_ep: str,
    ep_world_size: int,
    ep_rank_id: int,
    moe_expert_num: int,
    *,
    tp_send_counts: Tensor | None = None,
    x_active_mask: Tensor | None = None,
    activation_scale: Tensor | None = None,
    weight_scale: Tensor | None = None,
    group_list: Tensor | None = None,
    expand_scales: Tensor | None = None,
    shared_expert_x: Tensor | None = None,
    group_tp: str = "",
    tp_world_size: int = 0,
    tp_rank_id: int = 0,
    expert_shard_type: int = 0,
    shared_expert_num: int = 1,
    shared_expert_rank_num: int = 0,
    global_bs: int = 0,
    out_dtype: int = 0,
    comm_quant_mode: int = 0,
    group_list_type: int = 0,
) -> Tensor:
    """Bring the experts' rows back to their tokens and sum them (v1).

    As npu_moe_distribute_combine_v2 without its newer parameters, but rows are found by
    (expert_ids, expand_idx). Collective; errors as there.

    Args:
        expand_x: (n, H) bfloat16, float16 or float32, n >= the rows that ep_send_counts describes.
        expert_ids: (BS, K) int32, as given to dispatch.
        expand_idx: (BS*K,) int32, of npu_moe_distribute_dispatch.
        ep_send_counts: int32, ep_recv_counts of dispatch.
        expert_scales: (BS, K) float32, the weights.
        x_active_mask: (BS,) or (BS, K) bool: the one that dispatch had.
        activation_scale, weight_scale, group_list: None.
        out_dtype, group_list_type: 0.
        group_ep, ep_world_size, ep_rank_id, moe_expert_num, tp_send_counts, expand_scales,
            shared_expert_x, group_tp, tp_world_size, tp_rank_id, expert_shard_type,
            shared_expert_num, shared_expert_rank_num, global_bs, comm_quant_mode: as in
            npu_moe_distribute_combine_v2.

    Returns:
        (BS, H), expand_x's dtype.
    """


@operator
def npu_moe_distribute_combine_add_rms_norm(
    expand_x: Tensor,
    expert_ids: Tensor,
    expand_idx: Tensor,
    ep_send_counts: Tensor,
    expert_scales: Tensor,
    residual_x: Tensor,
    gamma: Tensor,
    group_ep: str,
    ep_world_size: int,
    ep_rank_id: int,
    moe_expert_num: int,
    *,
    tp_send_counts: Tensor | None = None,
    x_active_mask: Tensor | None = None,
    activation_scale: Tensor | None = None,
    weight_scale: Tensor | None = None,
    group_list: Tensor | None = None,
    expand_scales: Tensor | None = None,
    shared_expert_x: Tensor | None = None,
    elastic_info: Tensor | None = None,
    ori_x: Tensor | None = None,
    const_expert_alpha_1: Tensor | None = None,
    const_expert_alpha_2: Tensor | None = None,
    const_expert_v: Tensor | None = None,
    group_tp: str = "",
    tp_world_size: int = 0,
    tp_rank_id: int = 0,
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
) -> tuple[Tensor, Tensor, Tensor]:
    """Combine, add the residual and RMS-normalise, in one pass over the rows.

    With f = the float32 sum of npu_moe_distribute_combine_v2 before rounding, plus residual_x:
    x = RNE(f), rstd = 1/sqrt(sum over h of (f*f)*(1/H) + norm_eps), y = RNE(float(RNE(f*rstd)) *
    gamma). The order of the sum is fixed (docs/numerics.md). A token that takes no part has zero
    rows of y and x, and rstd 0. Collective; errors as npu_moe_distribute_combine_v2.

    Args:
        expand_idx: int32: assist_info_for_combine of npu_moe_distribute_dispatch_v2 when it has
            more than BS*K elements, else expand_idx of npu_moe_distribute_dispatch. The same form
            on all ranks.
        residual_x: (BS, 1, H) or (BS, H), expand_x's dtype.
        gamma: (H,), expand_x's dtype.
        norm_eps: used as float32.
        activation_scale, weight_scale, group_list: None.
        out_dtype, group_list_type: 0.
        expand_x, expert_ids, ep_send_counts, expert_scales, group_ep, ep_world_size, ep_rank_id,
            moe_expert_num, tp_send_counts, x_active_mask, expand_scales, shared_expert_x,
            elastic_info, ori_x, const_expert_alpha_1, const_expert_alpha_2, const_expert_v,
            group_tp, tp_world_size, tp_rank_id, expert_shard_type, shared_expert_num,
            shared_expert_rank_num, global_bs, comm_quant_mode, comm_alg, zero_expert_num,
            copy_expert_num, const_expert_num: as in npu_moe_distribute_combine_v2.

    Returns:
        y: (BS, 1, H), expand_x's dtype.
        rstd: (BS, 1, 1) float32.
        x: (BS, 1, H), expand_x's dtype.
    """
