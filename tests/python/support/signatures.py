"""The signatures of docs/contract/operators.md section 1, as the contract prints them."""

from __future__ import annotations

import ast
import inspect
from typing import Any

SIGNATURES = {
    "npu_moe_distribute_dispatch": """
        x, expert_ids, group_ep, ep_world_size, ep_rank_id, moe_expert_num, *,
        scales=None, x_active_mask=None, expert_scales=None, group_tp="", tp_world_size=0,
        tp_rank_id=0, expert_shard_type=0, shared_expert_num=1, shared_expert_rank_num=0,
        quant_mode=0, global_bs=0, expert_token_nums_type=1""",
    "npu_moe_distribute_dispatch_v2": """
        x, expert_ids, group_ep, ep_world_size, ep_rank_id, moe_expert_num, *, scales=None,
        x_active_mask=None, expert_scales=None, elastic_info=None, performance_info=None,
        group_tp="", tp_world_size=0, tp_rank_id=0, expert_shard_type=0, shared_expert_num=1,
        shared_expert_rank_num=0, quant_mode=0, global_bs=0, expert_token_nums_type=1,
        comm_alg="", zero_expert_num=0, copy_expert_num=0, const_expert_num=0, y_dtype=None,
        x_dtype=None, scales_dtype=None""",
    "npu_moe_distribute_combine": """
        expand_x, expert_ids, expand_idx, ep_send_counts, expert_scales, group_ep,
        ep_world_size, ep_rank_id, moe_expert_num, *, tp_send_counts=None, x_active_mask=None,
        activation_scale=None, weight_scale=None, group_list=None, expand_scales=None,
        shared_expert_x=None, group_tp="", tp_world_size=0, tp_rank_id=0, expert_shard_type=0,
        shared_expert_num=1, shared_expert_rank_num=0, global_bs=0, out_dtype=0,
        comm_quant_mode=0, group_list_type=0""",
    "npu_moe_distribute_combine_v2": """
        expand_x, expert_ids, assist_info_for_combine, ep_send_counts, expert_scales, group_ep,
        ep_world_size, ep_rank_id, moe_expert_num, *, tp_send_counts=None, x_active_mask=None,
        expand_scales=None, shared_expert_x=None, elastic_info=None, ori_x=None,
        const_expert_alpha_1=None, const_expert_alpha_2=None, const_expert_v=None,
        performance_info=None, group_tp="", tp_world_size=0, tp_rank_id=0, expert_shard_type=0,
        shared_expert_num=1, shared_expert_rank_num=0, global_bs=0, comm_quant_mode=0,
        comm_alg="", zero_expert_num=0, copy_expert_num=0, const_expert_num=0""",
    "npu_moe_distribute_combine_add_rms_norm": """
        expand_x, expert_ids, expand_idx, ep_send_counts, expert_scales, residual_x, gamma,
        group_ep, ep_world_size, ep_rank_id, moe_expert_num, *, tp_send_counts=None,
        x_active_mask=None, activation_scale=None, weight_scale=None, group_list=None,
        expand_scales=None, shared_expert_x=None, elastic_info=None, ori_x=None,
        const_expert_alpha_1=None, const_expert_alpha_2=None, const_expert_v=None, group_tp="",
        tp_world_size=0, tp_rank_id=0, expert_shard_type=0, shared_expert_num=1,
        shared_expert_rank_num=0, global_bs=0, out_dtype=0, comm_quant_mode=0,
        group_list_type=0, comm_alg="", norm_eps=1e-06, zero_expert_num=0, copy_expert_num=0,
        const_expert_num=0""",
    "npu_moe_distribute_dispatch_setup": """
        x, expert_ids, group_ep, ep_world_size, ep_rank_id, moe_expert_num, *, scales=None,
        x_active_mask=None, expert_shard_type=0, shared_expert_num=1, shared_expert_rank_num=0,
        quant_mode=0, global_bs=0, comm_type=0, comm_alg="", y_dtype=None""",
    "npu_moe_distribute_dispatch_teardown": """
        x, y, expert_ids, comm_cmd_info, group_ep, ep_world_size, ep_rank_id, moe_expert_num, *,
        expert_shard_type=0, shared_expert_num=1, shared_expert_rank_num=0, quant_mode=0,
        global_bs=0, expert_token_nums_type=1, comm_type=0, comm_alg=""
        """,
    "npu_moe_distribute_combine_setup": """
        expand_x, expert_ids, assist_info_for_combine, group_ep, ep_world_size, ep_rank_id,
        moe_expert_num, *, expert_shard_type=0, shared_expert_num=1, shared_expert_rank_num=0,
        global_bs=0, comm_quant_mode=0, comm_type=0, comm_alg=""
        """,
    "npu_moe_distribute_combine_teardown": """
        expand_x, quant_expand_x, expert_ids, expand_idx, expert_scales, comm_cmd_info,
        group_ep, ep_world_size, ep_rank_id, moe_expert_num, *, x_active_mask=None,
        shared_expert_x=None, expert_shard_type=0, shared_expert_num=1,
        shared_expert_rank_num=0, global_bs=0, comm_quant_mode=0, comm_type=0, comm_alg=""
        """,
    "npu_moe_update_expert": """
        expert_ids, eplb_table, *, expert_scales=None, pruning_threshold=None, active_mask=None,
        local_rank_id=-1, world_size=-1, balance_mode=0""",
    "npu_moe_eplb_update_expert": """
        expert_ids, eplb_table, local_rank_id, world_size, *, balance_mode=0""",
    "_npu_distribute_barrier": """
        x_ref, group, world_size, *, time_out=None, elastic_info=None""",
}
INTEGERS = ("ep_world_size", "ep_rank_id", "moe_expert_num", "local_rank_id", "world_size")
OPTIONAL_INTEGERS = ("y_dtype", "x_dtype", "scales_dtype")
STRINGS = ("group_ep", "group")

Parameter = tuple[str, bool, Any, str]  # name, keyword only, default, type in a schema


def signature(name: str) -> list[Parameter]:
    """The parameters of an operator."""
    text = " ".join(SIGNATURES[name].split())
    function = ast.parse(f"def f({text}): pass").body[0]
    assert isinstance(function, ast.FunctionDef)
    names = [argument.arg for argument in function.args.args]
    parameters: list[Parameter] = [(n, False, inspect.Parameter.empty, type_of(n)) for n in names]
    for argument, value in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        assert value is not None
        default = ast.literal_eval(value)
        parameters.append((argument.arg, True, default, type_of(argument.arg, default)))
    return parameters


def type_of(name: str, *default: Any) -> str:
    if name in OPTIONAL_INTEGERS:
        return "Optional[int]"
    if default and isinstance(default[0], float):
        return "float"
    if name in INTEGERS or isinstance(next(iter(default), ""), int):
        return "int"
    if name in STRINGS or default == ("",):
        return "str"
    return "Optional[Tensor]" if default else "Tensor"
