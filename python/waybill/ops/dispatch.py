"""npu_moe_distribute_dispatch and _v2: tokens to the ranks that own their experts."""

from __future__ import annotations

from torch import Tensor

from .._calls import operator

__all__ = ["npu_moe_distribute_dispatch", "npu_moe_distribute_dispatch_v2"]


@operator
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
    timeout. Inputs may have any strides and are not changed. Floating-point outputs
    require grad when an input does and grad mode is on, and backward through them is an error.

    Letters: E = ep_world_size, r = ep_rank_id, BS rows of x on this rank, H hidden size, K choices
    of a token, M = moe_expert_num, S = shared_expert_num (0 when SR is 0), SR =
    shared_expert_rank_num, R = SR/S, L = M/(E-SR), GBS = global_bs or BS*E, maxBS = GBS/E, TP =
    tp_world_size. A, the most rows this rank can receive: GBS*min(L,K) on a MoE rank,
    maxBS*ceil(E/R) on a shared rank, the larger of the two with elastic_info.

    Args:
        x: (BS, H) bfloat16, float16 or float32; BS may be 0.
        expert_ids: (BS, K) int32. Where the mask does not exclude it: [0, M) for a MoE expert, then
            Z zero, C copy and N constant experts, for which nothing is sent, or -1: not routed, as
            if the mask were false there.
        group_ep: name of the group, from comm_name or connect.
        ep_world_size: E, the size of the group.
        ep_rank_id: r, this rank's position in the group.
        moe_expert_num: M, divisible by E-SR. Expert e lives on rank SR + e//L.
        scales: (S+M, H) float32, smooth scales; only with quant_mode 2. Row s for shared expert s,
            S+e for expert e.
        x_active_mask: (BS,) or (BS, K) bool in any pattern: which tokens or choices take part.
        expert_scales: (BS, K) float32, the weights; gives expand_scales and the A2 form of the
            counts.
        elastic_info: (4+2E,) int32: [flag, newE, newSR, newM, new rank of each old one or -1, old
            rank of each new one or -1]. With the flag set only the ranks that it names take part,
            under their new numbers; flag 0: ignored.
        performance_info: (E,) int64, changed in place: raised to the microseconds that this call
            waited for each rank.
        group_tp: name of the TP group; read with tp_world_size 2 only.
        tp_world_size: TP, 0, 1 or 2. With 2 (needs L = 1, no elastic_info) the two ranks of
            group_tp exchange what they received.
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
        zero_expert_num, copy_expert_num, const_expert_num: Z, C and N, the numbers of zero, copy
            and constant experts, which combine computes.
        y_dtype, x_dtype, scales_dtype: None.

    Returns:
        expand_x: (A*max(TP,1), H), x's dtype, int8 with quant_mode 2. Received rows from row 0 on,
            by (local expert, source rank, place t*K+k there), on a shared rank by (source rank,
            token). Rows past the count are unspecified.
        dynamic_scales: (A*max(TP,1),) float32, per received row with quant_mode 2.
        assist_info_for_combine: (max(BS*K, A*128),) int32: (source rank, token, slot) per row.
        expert_token_nums: (L,), on a shared rank (1,), with elastic_info (max(1,L),), int64.
        ep_recv_counts: (max(TP,1)*E*L,), on a shared rank (max(TP,1)*E,), int32: inclusive prefix
            sums over (local expert, source rank). Longer with expert_scales: 2*GBS*K*max(E//8,1)
            zeros follow.
        tp_recv_counts: (TP,) int32: rows of each TP rank, zeros when TP is not 2.
        expand_scales: (A,) float32: with expert_scales the weight of each received row.

    Raises:
        ArgumentError: an argument of this rank is wrong; nothing was sent.
        MismatchError: ranks disagree, or another rank refused the call. Where it says "out of step"
            the group needs a reset.
        PeerTimeout, PeerLost: a rank did not come; the group needs a reset.
        StateError: an unknown group, one that needs a reset, a rank that has left it, a second call
            at a time, a forked child.
        WaybillError: memory is short on this rank; or, on every rank, for the rows of the one in
            .ranks. The message says when the group needs a reset.
    """


@operator
def npu_moe_distribute_dispatch(
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
    group_tp: str = "",
    tp_world_size: int = 0,
    tp_rank_id: int = 0,
    expert_shard_type: int = 0,
    shared_expert_num: int = 1,
    shared_expert_rank_num: int = 0,
    quant_mode: int = 0,
    global_bs: int = 0,
    expert_token_nums_type: int = 1,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Send every active token to the ranks that own its experts (v1).

    As npu_moe_distribute_dispatch_v2 without its newer parameters, but the third result is
    expand_idx, by which npu_moe_distribute_combine finds rows. Collective; errors as there.

    Args:
        x: (BS, H) bfloat16, float16 or float32; BS may be 0.
        expert_ids: (BS, K) int32, each in [0, M) where the mask does not exclude it, or -1: not
            routed, as if the mask were false there.
        group_ep, ep_world_size, ep_rank_id, moe_expert_num, scales, x_active_mask, expert_scales,
            group_tp, tp_world_size, tp_rank_id, expert_shard_type, shared_expert_num,
            shared_expert_rank_num, quant_mode, global_bs, expert_token_nums_type: as in
            npu_moe_distribute_dispatch_v2.

    Returns:
        expand_x, dynamic_scales, expand_idx, expert_token_nums, ep_recv_counts, tp_recv_counts,
        expand_scales: as in npu_moe_distribute_dispatch_v2, with expand_idx (BS*K,) int32 in place
        of the triples: how many earlier choices of this rank that take part named the same expert;
        unspecified for one that takes no part.
    """
