"""The set-up/teardown family: dispatch and combine in two halves, to compute in between."""

from __future__ import annotations

from torch import Tensor

from .._calls import operator

__all__ = [
    "npu_moe_distribute_combine_setup",
    "npu_moe_distribute_combine_teardown",
    "npu_moe_distribute_dispatch_setup",
    "npu_moe_distribute_dispatch_teardown",
]


@operator
def npu_moe_distribute_dispatch_setup(
    x: Tensor,
    expert_ids: Tensor,
    group_ep: str,
    ep_world_size: int,
    ep_rank_id: int,
    moe_expert_num: int,
    *,
    scales: Tensor | None = None,
    x_active_mask: Tensor | None = None,
    expert_shard_type: int = 0,
    shared_expert_num: int = 1,
    shared_expert_rank_num: int = 0,
    quant_mode: int = 0,
    global_bs: int = 0,
    comm_type: int = 0,
    comm_alg: str = "",
    y_dtype: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Publish what npu_moe_distribute_dispatch_teardown will deliver.

    Local: returns without waiting for another rank (after successful calls). What it read may be
    overwritten at once. Until the teardown, which belongs to the same call, nothing else is legal
    on the group: it would be a StateError that says what was expected and changes nothing.

    Letters as in npu_moe_distribute_dispatch_v2; S0 = shared_expert_num as passed, AlignN(v) =
    ceil(v/N)*N, localE = 1 on a shared rank, else L.

    Args:
        x: (BS, H) bfloat16, float16 or float32.
        expert_ids: (BS, K) int32, each in [0, M) where the mask does not exclude it, or -1: not
            routed.
        scales: (S0+M, H) float32, only with quant_mode 2; row S0+e for expert e. Without shared
            ranks and S0 = 1 also (M, H).
        x_active_mask: (BS,) bool.
        quant_mode: 0 or 2.
        comm_type: 0 or 2, without effect.
        y_dtype: None.
        group_ep, ep_world_size, ep_rank_id, moe_expert_num, expert_shard_type, shared_expert_num,
            shared_expert_rank_num, global_bs, comm_alg: as in npu_moe_distribute_dispatch_v2.

    Returns:
        y: (BS*(K+S0), token_msg_size), x's dtype, int8 with quant_mode 2; token_msg_size is
            Align256(H), with quant_mode 2 Align512(Align32(H)+4). Reserved: nothing reads it.
        expand_idx: (BS*K,) int32, as npu_moe_distribute_dispatch.
        comm_cmd_info: ((BS*(K+S0) + E*localE)*16,) int32, opaque, for the teardown.

    Raises:
        As npu_moe_distribute_dispatch_v2; what other ranks did wrong is raised by the teardown.
    """


@operator
def npu_moe_distribute_dispatch_teardown(
    x: Tensor,
    y: Tensor,
    expert_ids: Tensor,
    comm_cmd_info: Tensor,
    group_ep: str,
    ep_world_size: int,
    ep_rank_id: int,
    moe_expert_num: int,
    *,
    expert_shard_type: int = 0,
    shared_expert_num: int = 1,
    shared_expert_rank_num: int = 0,
    quant_mode: int = 0,
    global_bs: int = 0,
    expert_token_nums_type: int = 1,
    comm_type: int = 0,
    comm_alg: str = "",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Deliver what npu_moe_distribute_dispatch_setup published.

    Collective; waits for the other ranks' setups. All arguments that the setup had are repeated and
    equal (else StateError, and the setup stays open).

    Args:
        x: (BS, H), of which shape and dtype are read.
        y: the setup's; not read.
        expert_ids: (BS, K) int32, of which the shape is read.
        comm_cmd_info: the setup's.
        expert_token_nums_type: 1: counts; 0: inclusive prefix sums.
        group_ep, ep_world_size, ep_rank_id, moe_expert_num, expert_shard_type, shared_expert_num,
            shared_expert_rank_num, quant_mode, global_bs, comm_type, comm_alg: the setup's.

    Returns:
        expand_x, dynamic_scales, expert_token_nums: the bits of npu_moe_distribute_dispatch_v2.
        assist_info_for_combine: (max(A*128, E*localE),) int32: first the E*localE entries of
            ep_recv_counts, the rest unspecified.

    Raises:
        As npu_moe_distribute_dispatch_v2; StateError without an open setup.
    """


@operator
def npu_moe_distribute_combine_setup(
    expand_x: Tensor,
    expert_ids: Tensor,
    assist_info_for_combine: Tensor,
    group_ep: str,
    ep_world_size: int,
    ep_rank_id: int,
    moe_expert_num: int,
    *,
    expert_shard_type: int = 0,
    shared_expert_num: int = 1,
    shared_expert_rank_num: int = 0,
    global_bs: int = 0,
    comm_quant_mode: int = 0,
    comm_type: int = 0,
    comm_alg: str = "",
) -> tuple[Tensor, Tensor]:
    """Publish the experts' rows for npu_moe_distribute_combine_teardown.

    Local: returns without waiting for another rank (after successful calls). expand_x must not
    change until the teardown has returned; dropping it is fine. Rows in the group's memory are not
    copied. Otherwise as npu_moe_distribute_dispatch_setup.

    Args:
        expand_x: (A, H) bfloat16, float16 or float32, in the row order of dispatch.
        expert_ids: (BS, K) int32, of which the shape is read.
        assist_info_for_combine: of npu_moe_distribute_dispatch_teardown.
        comm_quant_mode: 0; 2: rows travel as int8 with a scale per 8 elements.
        comm_type: 0 or 2, without effect.
        group_ep, ep_world_size, ep_rank_id, moe_expert_num, expert_shard_type, shared_expert_num,
            shared_expert_rank_num, global_bs, comm_alg: as in npu_moe_distribute_dispatch_v2.

    Returns:
        quant_expand_x: (A, Align512(Align32(H) + Align8(H)/8*4)) int8, reserved: nothing reads it.
        comm_cmd_info: ((A+E)*16,) int32, opaque, for the teardown.

    Raises:
        As npu_moe_distribute_combine_v2; what other ranks did wrong is raised by the teardown.
    """


@operator
def npu_moe_distribute_combine_teardown(
    expand_x: Tensor,
    quant_expand_x: Tensor,
    expert_ids: Tensor,
    expand_idx: Tensor,
    expert_scales: Tensor,
    comm_cmd_info: Tensor,
    group_ep: str,
    ep_world_size: int,
    ep_rank_id: int,
    moe_expert_num: int,
    *,
    x_active_mask: Tensor | None = None,
    shared_expert_x: Tensor | None = None,
    expert_shard_type: int = 0,
    shared_expert_num: int = 1,
    shared_expert_rank_num: int = 0,
    global_bs: int = 0,
    comm_quant_mode: int = 0,
    comm_type: int = 0,
    comm_alg: str = "",
) -> Tensor:
    """Sum the rows that npu_moe_distribute_combine_setup published.

    Collective; waits for the other ranks' setups and returns when every reader of this rank's rows
    is done. All arguments that the setup had are repeated and equal (else StateError, and the setup
    stays open).

    Args:
        expand_x: (A, H), the setup's, of which shape and dtype are read.
        quant_expand_x: the setup's; not read.
        expert_ids: (BS, K) int32, as given to npu_moe_distribute_dispatch_setup.
        expand_idx: (BS*K,) int32, of npu_moe_distribute_dispatch_setup.
        expert_scales: (BS, K) float32, the weights.
        comm_cmd_info: the setup's.
        x_active_mask: (BS,) bool: the one that npu_moe_distribute_dispatch_setup had.
        shared_expert_x: (BS, H) or (a, b, H) with a*b = BS, expand_x's dtype; only when SR is 0.
        group_ep, ep_world_size, ep_rank_id, moe_expert_num, expert_shard_type, shared_expert_num,
            shared_expert_rank_num, global_bs, comm_quant_mode, comm_type, comm_alg: the setup's.

    Returns:
        (BS, H), expand_x's dtype: the bits of npu_moe_distribute_combine_v2.

    Raises:
        As npu_moe_distribute_combine_v2; StateError without an open setup.
    """
