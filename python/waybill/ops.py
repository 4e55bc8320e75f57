"""The operators: the names, arguments and results of the vendor's."""

from __future__ import annotations

from torch import Tensor

from . import fakes, operators
from ._calls import call
from .operators import COMBINE_V2, DISPATCH_V2, OPERATORS

for _operator in OPERATORS:
    operators.register(_operator)
    fakes.register(_operator)

_DISPATCH_V2 = DISPATCH_V2.ordered
_COMBINE_V2 = COMBINE_V2.ordered


def npu_moe_distribute_dispatch_v2(
    x: Tensor,
    expert_ids: Tensor,
    group_ep: str,
    ep_world_size: int,
    ep_rank_id: int,
    moe_expert_num: int,
    *,
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
    """Send every active token to the ranks that own its experts.

    Collective among the ranks of group_ep; blocks until all have called it, at most the group's
    timeout. Inputs may have any strides and are not changed. Outputs never require grad.

    Letters: E = ep_world_size, r = ep_rank_id, BS rows of x on this rank, H hidden size, K choices
    of a token, M = moe_expert_num, S = shared_expert_num (0 when SR is 0), SR =
    shared_expert_rank_num, R = SR/S, L = M/(E-SR), GBS = global_bs or BS*E, maxBS = GBS/E, TP =
    tp_world_size. A, the most rows this rank can receive: GBS*min(L,K) on a MoE rank,
    maxBS*ceil(E/R) on a shared rank, the larger of the two with elastic_info.

    Args:
        x: (BS, H) bfloat16, float16 or float32; BS may be 0.
        expert_ids: (BS, K) int32, each in [0, M) where the mask does not exclude it.
        group_ep: name of the group, from comm_name or connect.
        ep_world_size: E, the size of the group.
        ep_rank_id: r, this rank's position in the group.
        moe_expert_num: M, divisible by E-SR. Expert e lives on rank SR + e//L.
        scales: (S+M, H) float32, smooth scales; only with quant_mode 2. Row s for shared expert s,
            S+e for expert e.
        x_active_mask: (BS,) or (BS, K) bool in any pattern: which tokens or choices take part.
        expert_scales: (BS, K) float32, the weights; gives expand_scales and the A2 form of the
            counts.
        elastic_info: (4+2E,) int32. Not supported yet.
        performance_info: (E,) int64, microseconds of waiting per rank, in place. Not supported yet.
        group_tp: name of the TP group; read with tp_world_size 2 only.
        tp_world_size: 0 or 1; 2 is not supported yet.
        tp_rank_id: position in group_tp.
        expert_shard_type: 0.
        shared_expert_num: shared experts, each replicated on R ranks.
        shared_expert_rank_num: ranks [0, SR) hold shared experts; divisible by S.
        quant_mode: 0: rows are copied; 2: int8 with a float32 scale per row.
        global_bs: 0 when all ranks have the same BS, else a multiple of E, at least BS*E. Sets
            capacities only.
        expert_token_nums_type: 1: expert_token_nums are counts; 0: inclusive prefix sums.
        comm_alg: "", "fullmesh", "fullmesh_v1", "fullmesh_v2" or "hierarchy": a hint that never
            changes results.
        zero_expert_num, copy_expert_num, const_expert_num: special experts. Not supported yet.
        y_dtype, x_dtype, scales_dtype: None.

    Returns:
        expand_x: (A*max(TP,1), H), x's dtype, int8 with quant_mode 2. Received rows from row 0 on,
            by (local expert, source rank, place t*K+k there), on a shared rank by (source rank,
            token). Rows past the count are unspecified.
        dynamic_scales: (A*max(TP,1),) float32, per received row with quant_mode 2.
        assist_info_for_combine: (max(BS*K, A*128),) int32: (source rank, token, slot) per row.
        expert_token_nums: (L,), on a shared rank (1,), int64.
        ep_recv_counts: (max(TP,1)*E*L,), on a shared rank (max(TP,1)*E,), int32: inclusive prefix
            sums over (local expert, source rank). Longer with expert_scales: 2*GBS*K*max(E//8,1)
            zeros follow.
        tp_recv_counts: (TP,) int32.
        expand_scales: (A,) float32: with expert_scales the weight of each received row.

    Raises:
        ArgumentError: an argument of this rank is wrong; nothing was sent.
        MismatchError: ranks disagree, or another rank's arguments are wrong.
        PeerTimeout, PeerLost: a rank did not come; the group needs a reset.
        StateError: an unknown group, one that needs a reset, a second call at a time, a forked
            child.
        WaybillError: memory is short.
    """
    outputs: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor] = call(
        _DISPATCH_V2,
        group_ep,
        x,
        expert_ids,
        group_ep,
        ep_world_size,
        ep_rank_id,
        moe_expert_num,
        scales,
        x_active_mask,
        expert_scales,
        elastic_info,
        performance_info,
        group_tp,
        tp_world_size,
        tp_rank_id,
        expert_shard_type,
        shared_expert_num,
        shared_expert_rank_num,
        quant_mode,
        global_bs,
        expert_token_nums_type,
        comm_alg,
        zero_expert_num,
        copy_expert_num,
        const_expert_num,
        y_dtype,
        x_dtype,
        scales_dtype,
    )
    return outputs


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
    experts and shared_expert_x with weight 1; all in float32, rounded once at the end. A token that
    takes no part is a row of zeros.

    Collective among the ranks of group_ep; blocks until all have called it, at most the group's
    timeout. Rows of expand_x in the group's memory (an output of dispatch, expert_buffer) are read
    by the other ranks where they are; the call returns when they have. Inputs may have any strides
    and are not changed. The output never requires grad. Letters as in
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
        tp_send_counts: int32, tp_recv_counts of dispatch; read with tp_world_size 2 only.
        x_active_mask: (BS,) or (BS, K) bool, as given to dispatch.
        expand_scales: accepted and not read.
        shared_expert_x: (BS, H) or (a, b, H) with a*b = BS, expand_x's dtype; only when SR is 0.
        elastic_info, performance_info: not supported yet.
        ori_x, const_expert_alpha_1, const_expert_alpha_2, const_expert_v: for special experts, not
            supported yet.
        group_tp, tp_world_size, tp_rank_id, expert_shard_type, shared_expert_num,
            shared_expert_rank_num, global_bs, comm_alg, zero_expert_num, copy_expert_num,
            const_expert_num: as in dispatch.
        comm_quant_mode: 0; 2: rows travel as int8 with a scale per 8 elements.

    Returns:
        (BS, H), expand_x's dtype.

    Raises:
        As npu_moe_distribute_dispatch_v2. A choice that no row comes back for, or two, is an
        ArgumentError that names token and slot.
    """
    output: Tensor = call(
        _COMBINE_V2,
        group_ep,
        expand_x,
        expert_ids,
        assist_info_for_combine,
        ep_send_counts,
        expert_scales,
        group_ep,
        ep_world_size,
        ep_rank_id,
        moe_expert_num,
        tp_send_counts,
        x_active_mask,
        expand_scales,
        shared_expert_x,
        elastic_info,
        ori_x,
        const_expert_alpha_1,
        const_expert_alpha_2,
        const_expert_v,
        performance_info,
        group_tp,
        tp_world_size,
        tp_rank_id,
        expert_shard_type,
        shared_expert_num,
        shared_expert_rank_num,
        global_bs,
        comm_quant_mode,
        comm_alg,
        zero_expert_num,
        copy_expert_num,
        const_expert_num,
    )
    return output
