"""A valid small call of every operator, on one rank of a group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

BASE = "npu_moe_distribute_"
BS, K, H, M = 4, 2, 16, 4

Arguments = dict[str, Any]
Results = dict[str, Any]

ORDER = (
    f"{BASE}dispatch",
    f"{BASE}combine",
    f"{BASE}dispatch_v2",
    f"{BASE}combine_v2",
    f"{BASE}combine_add_rms_norm",
    f"{BASE}dispatch_setup",
    f"{BASE}dispatch_teardown",
    f"{BASE}combine_setup",
    f"{BASE}combine_teardown",
    "_npu_distribute_barrier",
    "npu_moe_update_expert",
    "npu_moe_eplb_update_expert",
)
"""One in which all of them may be called; set-ups have their teardowns behind them."""

COLLECTIVE = ORDER[:10]


def inputs(rank: int, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor, Tensor]:
    """x, expert_ids, expert_scales."""
    random = torch.Generator().manual_seed(rank)
    x = torch.randn(BS, H, generator=random).to(dtype)
    ids = torch.argsort(torch.rand(BS, M, generator=random), dim=1)[:, :K].int()
    return x, ids, torch.rand(BS, K, generator=random)


TABLE = torch.tensor([[1, 0, -1], [2, 1, 4], [1, 2, -1], [2, 3, 5]], dtype=torch.int32)


def arguments_of(operator: str, layer: Mapping[str, Any], results: Results) -> Arguments:
    """Those of a good call. `layer`: group_ep, ep_world_size, ep_rank_id; `results`: of earlier
    operators, by their names.
    """
    rank = int(layer["ep_rank_id"])
    x, ids, weights = inputs(rank)
    common = {**layer, "moe_expert_num": M, "expert_ids": ids}
    if operator in (f"{BASE}dispatch", f"{BASE}dispatch_v2", f"{BASE}dispatch_setup"):
        return {**common, "x": x}
    if operator == f"{BASE}dispatch_teardown":
        y, _, commands = results[f"{BASE}dispatch_setup"]
        return {**common, "x": x, "y": y, "comm_cmd_info": commands}
    if operator in (f"{BASE}combine", f"{BASE}combine_v2", f"{BASE}combine_add_rms_norm"):
        older = operator == f"{BASE}combine"
        dispatched = results[f"{BASE}dispatch" if older else f"{BASE}dispatch_v2"]
        takes_triples = operator.endswith("_v2")
        own = {
            **common,
            "expand_x": dispatched[0],
            "assist_info_for_combine" if takes_triples else "expand_idx": dispatched[2],
            "ep_send_counts": dispatched[4],
            "expert_scales": weights,
        }
        if operator.endswith("norm"):
            own |= {"residual_x": x * 3, "gamma": x[0] + 1}
        return own
    if operator == f"{BASE}combine_setup":
        rows, _, assist, _ = results[f"{BASE}dispatch_teardown"]
        return {**common, "expand_x": rows, "assist_info_for_combine": assist}
    if operator == f"{BASE}combine_teardown":
        reserved, commands = results[f"{BASE}combine_setup"]
        return {
            **common,
            "expand_x": results[f"{BASE}dispatch_teardown"][0],
            "quant_expand_x": reserved,
            "expand_idx": results[f"{BASE}dispatch_setup"][1],
            "expert_scales": weights,
            "comm_cmd_info": commands,
        }
    if operator == "_npu_distribute_barrier":
        return {"x_ref": x, "group": layer["group_ep"], "world_size": layer["ep_world_size"]}
    rank_of = {"local_rank_id": rank, "world_size": 2}
    return {"expert_ids": ids, "eplb_table": TABLE, **rank_of}


def walk(layer: Mapping[str, Any], call: Callable[[str, Arguments], Any]) -> Results:
    """All operators in ORDER, by `call`."""
    results: Results = {}
    for operator in ORDER:
        results[operator] = call(operator, arguments_of(operator, layer, results))
    return results
