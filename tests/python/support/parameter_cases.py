"""A small call of every operator on all ranks, with any parameter changed, on threads and on the
oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import waybill
from comparisons import bits
from forms import over_ranks, parameters
from local_groups import LocalGroups
from waybill import reference

Arguments = dict[str, Any]
Contents = list[list[Tensor]]

BASE = "npu_moe_distribute_"
DISPATCHES = (f"{BASE}dispatch", f"{BASE}dispatch_v2")
COMBINES = (f"{BASE}combine", f"{BASE}combine_v2", f"{BASE}combine_add_rms_norm")
DISPATCH_SETUP, DISPATCH_TEARDOWN = f"{BASE}dispatch_setup", f"{BASE}dispatch_teardown"
COMBINE_SETUP, COMBINE_TEARDOWN = f"{BASE}combine_setup", f"{BASE}combine_teardown"
SETUPS = (DISPATCH_SETUP, COMBINE_SETUP)
TEARDOWNS = (DISPATCH_TEARDOWN, COMBINE_TEARDOWN)

E, BS, K, H, M = 3, 3, 2, 16, 6
NUM_SPECIAL = 3  # ids [M, M + 3) in `special_ids`
HALF = torch.tensor([True, False, True])


def random(name: str, place: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(map(ord, name)) * 100 + place)
    return torch.randn(*shape, generator=generator)


def inputs(place: int, experts: int = M) -> Arguments:
    ids = torch.argsort(random("ids", place, BS, experts), dim=1)[:, :K].int()
    return {"x": random("x", place, BS, H).bfloat16(), "expert_ids": ids}


def special_ids(place: int) -> Tensor:
    """Column 1 holds a zero, a copy and a constant expert."""
    ids: Tensor = inputs(place)["expert_ids"].clone()
    ids[:, 1] = torch.arange(M, M + NUM_SPECIAL)
    return ids


def with_special_experts(place: int) -> Arguments:
    return {
        "expert_ids": special_ids(place),
        "zero_expert_num": 1,
        "copy_expert_num": 1,
        "const_expert_num": 1,
    }


def constants(place: int) -> Arguments:
    """What combine needs for them."""
    return {
        "ori_x": random("ori", place, BS, H).bfloat16(),
        "const_expert_alpha_1": random("first", 0, 1).bfloat16(),
        "const_expert_alpha_2": random("second", 0, 1).bfloat16(),
        "const_expert_v": random("v", 0, 1, H).bfloat16(),
    }


def known(operator: str, arguments: Arguments) -> Arguments:
    return {name: value for name, value in arguments.items() if name in parameters(operator)}


def dispatch_of(operator: str) -> str:
    """The dispatch that a combine goes on from."""
    return f"{BASE}dispatch" if operator in (f"{BASE}combine", COMBINE_TEARDOWN) else DISPATCHES[1]


def build(
    operator: str,
    both: Callable[[int], Arguments],
    own: Callable[[int], Arguments],
    tp: int = 1,
) -> list[Arguments]:
    """Arguments over places of a dispatch or combine. `both` goes to the dispatch before a combine
    as well, `own` to the operator alone.
    """
    num_ranks = E if tp == 1 else 2
    common: Arguments = {"ep_world_size": num_ranks, "moe_expert_num": M if tp == 1 else 2}
    if tp == 2:
        common["tp_world_size"] = 2
    places = range(num_ranks * tp)
    given = [{**common, **inputs(p, common["moe_expert_num"]), **both(p)} for p in places]
    if operator in DISPATCHES or operator in SETUPS[:1]:
        return [{**known(operator, mine), **own(p)} for p, mine in enumerate(given)]
    before = dispatch_of(operator)
    dispatched = getattr(reference, before)(**over_ranks([known(before, mine) for mine in given]))
    arguments = []
    for place, (mine, output) in enumerate(zip(given, dispatched, strict=True)):
        x, _, third, _, counts, tp_counts, _ = output
        rest = {
            "expand_x": random("rows", place, len(x), H).bfloat16(),
            "assist_info_for_combine": third,
            "expand_idx": third,
            "ep_send_counts": counts,
            "tp_send_counts": tp_counts,
            "expert_scales": random("weights", place, BS, K),
            "residual_x": random("residual", place, BS, H).bfloat16(),
            "gamma": random("gamma", 0, H).bfloat16(),
        }
        arguments.append({**known(operator, {**mine, **rest}), **own(place)})
    return arguments


def run(groups: LocalGroups, operator: str, arguments: Sequence[Arguments]) -> list[Any]:
    """Results or exceptions of all places; set-ups together with their teardowns."""

    def call(place: int) -> Any:
        mine = {**groups.where(place), **arguments[place]}
        if operator == DISPATCH_SETUP:
            setup = waybill.npu_moe_distribute_dispatch_setup(**mine)
            rest = known(DISPATCH_TEARDOWN, {**mine, "y": setup[0], "comm_cmd_info": setup[2]})
            where = groups.where(place)
            return (*setup, *waybill.npu_moe_distribute_dispatch_teardown(**rest, **where))
        return getattr(waybill, operator)(**mine)

    return groups.outcomes(call)


def oracle(operator: str, arguments: Sequence[Arguments]) -> list[Any]:
    if operator != DISPATCH_SETUP:
        return list(getattr(reference, operator)(**over_ranks(list(arguments))))
    setup = reference.npu_moe_distribute_dispatch_setup(**over_ranks(list(arguments)))
    rest = [
        known(DISPATCH_TEARDOWN, {**mine, "y": output.y, "comm_cmd_info": output.comm_cmd_info})
        for mine, output in zip(arguments, setup, strict=True)
    ]
    teardown = reference.npu_moe_distribute_dispatch_teardown(**over_ranks(rest))
    return [(*one, *two) for one, two in zip(setup, teardown, strict=True)]


def content(operator: str, arguments: Arguments, outputs: Any) -> list[Tensor]:
    """What the contract specifies of the outputs, and all shapes."""
    if isinstance(outputs, Tensor):
        outputs = (outputs,)
    shapes = [torch.tensor(tensor.shape) for tensor in outputs]
    if operator in COMBINES:
        return [*shapes, *(bits(tensor) for tensor in outputs)]
    mask = arguments.get("x_active_mask")
    part = torch.ones(BS, dtype=torch.bool) if mask is None else mask
    part = (part[:, None] if part.dim() == 1 else part).expand(BS, K).flatten()
    quantised = arguments.get("quant_mode") == 2
    if operator == DISPATCH_SETUP:
        _, index, _, rows, scales, assist, nums = outputs
        counts = assist[: arguments["ep_world_size"] * len(nums)]
        number = int(counts.max())
        return [
            *shapes,
            index[part],
            counts,
            nums,
            bits(rows[:number]),
            *([bits(scales[:number])] if quantised else []),
        ]
    rows, scales, third, nums, counts, tp_counts, weights = outputs
    own = int(counts[: arguments["ep_world_size"] * len(nums)].max())
    number = int(tp_counts.sum()) if arguments.get("tp_world_size") == 2 else own
    third = third[: 3 * own] if operator.endswith("_v2") else third[part]
    return [
        *shapes,
        bits(rows[:number]),
        *([bits(scales[:number])] if quantised else []),
        third,
        nums,
        counts,
        tp_counts,
        bits(weights[:own]),
    ]


def same(one: list[Tensor], two: list[Tensor]) -> bool:
    return len(one) == len(two) and all(torch.equal(*pair) for pair in zip(one, two, strict=True))
