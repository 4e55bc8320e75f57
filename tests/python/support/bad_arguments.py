"""Bad arguments of dispatch_v2 and combine_v2: what rank 1 of two gives, what its error says."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from waybill import reference

E, BS, K, H, M = 2, 4, 2, 8, 4
DISPATCH = "npu_moe_distribute_dispatch_v2"
COMBINE = "npu_moe_distribute_combine_v2"
COMMON = {"ep_world_size": E, "moe_expert_num": M}


class Layer(NamedTuple):
    """Good inputs over ranks, and what the oracle makes of them."""

    x: list[Tensor]
    expert_ids: list[Tensor]
    expert_scales: list[Tensor]
    dispatched: list[reference.DispatchV2Output]
    combined: list[Tensor]


@lru_cache
def layer() -> Layer:
    random = torch.Generator().manual_seed(1)
    x = [torch.randn(BS, H, generator=random).bfloat16() for _ in range(E)]
    ids = [torch.tensor([[0, 2], [3, 2], [1, 3], [2, 0]], dtype=torch.int32) for _ in range(E)]
    scales = [torch.randn(BS, K, generator=random) for _ in range(E)]
    dispatched = reference.npu_moe_distribute_dispatch_v2(x, ids, **COMMON)
    combined = reference.npu_moe_distribute_combine_v2(
        [d.expand_x for d in dispatched],
        ids,
        [d.assist_info_for_combine for d in dispatched],
        [d.ep_recv_counts for d in dispatched],
        scales,
        **COMMON,
    )
    return Layer(x, ids, scales, dispatched, combined)


def good(operator: str, rank: int) -> dict[str, Any]:
    """Arguments of a good call."""
    all_ranks = layer()
    both = {**COMMON, "ep_rank_id": rank, "expert_ids": all_ranks.expert_ids[rank]}
    if operator == DISPATCH:
        return {**both, "x": all_ranks.x[rank]}
    dispatched = all_ranks.dispatched[rank]
    return {
        **both,
        "expand_x": dispatched.expand_x,
        "assist_info_for_combine": dispatched.assist_info_for_combine,
        "ep_send_counts": dispatched.ep_recv_counts,
        "expert_scales": all_ranks.expert_scales[rank],
    }


class Bad(NamedTuple):
    operator: str
    argument: str
    changes: dict[str, Any]
    words: tuple[str, ...] = ()  # in the message besides operator, argument, expected, got


def int32(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def changed(values: Tensor, place: Any, value: int) -> Tensor:
    copy = values.clone()
    copy[place] = value
    return copy


def bad_elastic(operator: str) -> dict[str, Bad]:
    """E = 2 and M = 4: [flag, newE, newSR, newM, table1[2], table2[2]], each wrong in one entry."""

    def bad(info: Tensor, *words: str) -> Bad:
        return Bad(operator, "elastic_info", {"elastic_info": info}, words)

    return {
        "elastic-dtype": bad(int32(1, 2, 0, 4, 0, 1, 0, 1).long(), "int32", "int64"),
        "elastic-length": bad(int32(1, 2, 0, 4, 0, 1, 0), "(7,)"),
        "elastic-2d": bad(int32(1, 2, 0, 4, 0, 1, 0, 1).reshape(1, 8), "(1, 8)"),
        "elastic-ranks-0": bad(int32(1, 0, 0, 4, -1, -1, -1, -1), "got 0"),
        "elastic-ranks-more": bad(int32(1, 3, 0, 4, 0, 1, 0, 1), "got 3"),
        "elastic-shared-ranks": bad(int32(1, 2, 2, 4, 0, 1, 0, 1)),
        "elastic-shared-ranks-new": bad(int32(1, 2, 1, 2, 0, 1, 0, 1)),
        "elastic-experts-not-multiple": bad(int32(1, 2, 0, 3, 0, 1, 0, 1), "got 3"),
        "elastic-experts-per-rank": bad(int32(1, 2, 0, 2, 0, 1, 0, 1)),
        "elastic-experts-negative": bad(int32(1, 2, 0, -4, 0, 1, 0, 1), "got -4"),
        "elastic-not-inverse": bad(int32(1, 2, 0, 4, 0, 1, 1, 0)),
        "elastic-twice": bad(int32(1, 2, 0, 4, 0, 0, 0, 1)),
        "elastic-past": bad(int32(1, 2, 0, 4, 0, 2, 0, 1), "got 2"),
        "elastic-own-rank": bad(int32(1, 1, 0, 2, 0, -1, 0, -1)),
        "elastic-left-over": bad(int32(1, 1, 0, 2, -1, 0, 1, 0)),
    }


def bad_layers(operator: str) -> dict[str, Bad]:
    """Those that dispatch and combine have in common."""

    def bad(argument: str, value: Any, *words: str, **others: Any) -> Bad:
        return Bad(operator, argument, {argument: value, **others}, words)

    ids = good(operator, 1)["expert_ids"]
    return {
        "ep_world_size": bad("ep_world_size", 3, "group, 2", "got 3"),
        "ep_world_size-0": bad("ep_world_size", 0, "got 0"),
        "ep_world_size-huge": bad("ep_world_size", 2**40),
        "ep_world_size-str": bad("ep_world_size", "2", "an int"),
        "ep_rank_id": bad("ep_rank_id", 0, "group, 1", "got 0"),
        "ep_rank_id-negative": bad("ep_rank_id", -1, "got -1"),
        "moe_expert_num": bad("moe_expert_num", 3, "multiple", "got 3"),
        "moe_expert_num-negative": bad("moe_expert_num", -2, "got -2"),
        "moe_expert_num-huge": bad("moe_expert_num", 2**31, "2^31"),
        "expert_shard_type": bad("expert_shard_type", 1, "got 1"),
        "shared-ranks-all": bad("shared_expert_rank_num", 2, "SR < E = 2", "got 2"),
        "shared-ranks-more": bad("shared_expert_rank_num", 3, "got 3"),
        "shared-ranks-negative": bad("shared_expert_rank_num", -1, "got -1"),
        "shared-ranks-not-multiple": bad(
            "shared_expert_rank_num", 1, "multiple of shared_expert_num = 2", shared_expert_num=2
        ),
        "shared-experts-without-ranks": Bad(
            operator, "shared_expert_rank_num", {"shared_expert_num": 2}, ("SR > 0", "got 0")
        ),
        "shared-ranks-without-experts": Bad(
            operator,
            "shared_expert_num",
            {"shared_expert_num": 0, "shared_expert_rank_num": 1},
            ("S > 0", "got 0"),
        ),
        "shared-experts-negative": bad("shared_expert_num", -1, "got -1"),
        "ids-dtype": bad("expert_ids", ids.long(), "int32", "int64"),
        "ids-float": bad("expert_ids", ids.float(), "int32", "float32"),
        "ids-1d": bad("expert_ids", ids.flatten(), "(BS, K)", "(8,)"),
        "ids-3d": bad("expert_ids", ids[None], "(1, 4, 2)"),
        "ids-4d": bad("expert_ids", ids[None, None], "4 dimensions"),
        "ids-k-0": bad("expert_ids", ids[:, :0], "K >= 1", "(4, 0)"),
        "ids-none": bad("expert_ids", None, "a Tensor", "None"),
        "ids-sparse": bad("expert_ids", ids.to_sparse(), "strided", "sparse"),
        "mask-length": bad("x_active_mask", torch.ones(3, dtype=torch.bool), "(4,)", "(3,)"),
        "mask-width": bad("x_active_mask", torch.ones(4, 3, dtype=torch.bool), "(4, 2)", "(4, 3)"),
        "mask-0d": bad("x_active_mask", torch.tensor(True), "()"),
        "mask-3d": bad("x_active_mask", torch.ones(4, 2, 1, dtype=torch.bool), "(4, 2, 1)"),
        "mask-dtype": bad("x_active_mask", torch.ones(4, dtype=torch.int32), "bool", "int32"),
        "mask-2d-dtype": bad("x_active_mask", torch.ones(4, 2), "bool", "float32"),
        "weights-dtype": bad("expert_scales", torch.ones(BS, K).bfloat16(), "float32", "bfloat16"),
        "weights-shape": bad("expert_scales", torch.ones(BS, K + 1), "(4, 2)", "(4, 3)"),
        "weights-1d": bad("expert_scales", torch.ones(BS), "(4, 2)", "(4,)"),
        "global-bs-not-multiple": bad("global_bs", 9, "multiple of E = 2", "got 9"),
        "global-bs-small": bad("global_bs", 6, "at least BS*E = 8", "got 6"),
        "global-bs-negative": bad("global_bs", -2, "got -2"),
        "global-bs-huge": bad("global_bs", 2**40, "2^31"),
        "comm-alg": bad("comm_alg", "ring", "hierarchy", '"ring"'),
        "comm-alg-int": bad("comm_alg", 1, "a str", "1 (int)"),
        "tp-2": bad("group_tp", "", "other than group_ep", tp_world_size=2),
        "tp-2-same": bad("group_tp", "nobody", tp_world_size=2),
        "tp-3": bad("tp_world_size", 3, "0, 1 or 2", "got 3"),
        "tp-negative": bad("tp_world_size", -1, "got -1"),
        "zero-experts-huge": bad("zero_expert_num", 2**31, "2^31"),
        "zero-experts-negative": bad("zero_expert_num", -1, ">= 0", "got -1"),
        "copy-experts-huge": bad("copy_expert_num", 2**31, "2^31"),
        "copy-experts-negative": bad("copy_expert_num", -1, ">= 0", "got -1"),
        "const-experts-huge": bad("const_expert_num", 2**31, "2^31"),
        "const-experts-negative": bad("const_expert_num", -1, ">= 0", "got -1"),
        "performance-dtype": bad("performance_info", int32(0, 0), "int64", "int32"),
        "performance-length": bad("performance_info", torch.zeros(3).long(), "(2,)", "(3,)"),
        **bad_elastic(operator),
    }


def bad_dispatches() -> dict[str, Bad]:
    def bad(argument: str, value: Any, *words: str, **others: Any) -> Bad:
        return Bad(DISPATCH, argument, {argument: value, **others}, words)

    x, ids = (good(DISPATCH, 1)[name] for name in ("x", "expert_ids"))
    return {
        "x-double": bad("x", x.double(), "bfloat16", "float64"),
        "x-int8": bad("x", x.to(torch.int8), "int8"),
        "x-1d": bad("x", x.flatten(), "(BS, H)", "(32,)"),
        "x-3d": bad("x", x[None], "(1, 4, 8)"),
        "x-h-0": bad("x", x[:, :0], "1 <= H", "(4, 0)"),
        "x-list": bad("x", [1.0], "a Tensor", "list"),
        "ids-rows": bad("expert_ids", ids[:3], "BS = 4", "(3, 2)"),
        "ids-past-range": bad(
            "expert_ids",
            changed(ids, (2, 1), 4),
            "[0, 4)",
            "got 4",
            "token 2",
            "k 1",
            "-1 or false in x_active_mask leaves a choice out",
        ),
        "ids-far": bad("expert_ids", changed(ids, (0, 0), 2**31 - 1), str(2**31 - 1), "token 0"),
        "ids-negative": bad("expert_ids", changed(ids, (3, 0), -2), "got -2", "token 3", "k 0"),
        "quant-1": bad("quant_mode", 1, "not yet", "got 1"),
        "quant-3": bad("quant_mode", 3, "not yet", "got 3"),
        "quant-4": bad("quant_mode", 4, "not yet", "got 4"),
        "quant-7": bad("quant_mode", 7, "0 or 2", "got 7"),
        "quant-negative": bad("quant_mode", -1, "0 or 2", "got -1"),
        "scales-unquantised": bad("scales", torch.ones(M, H), "None", "quant_mode is 0"),
        "scales-rows": bad("scales", torch.ones(M + 1, H), "(4, 8)", "(5, 8)", quant_mode=2),
        "scales-hidden": bad("scales", torch.ones(M, H - 1), "(4, 8)", "(4, 7)", quant_mode=2),
        "scales-1d": bad("scales", torch.ones(H), "(8,)", quant_mode=2),
        "scales-dtype": bad("scales", torch.ones(M, H).half(), "float32", "float16", quant_mode=2),
        "token-nums-type": bad("expert_token_nums_type", 2, "0 or 1", "got 2"),
        "y-dtype": bad("y_dtype", 24, "24", quant_mode=2),
        "x-dtype": bad("x_dtype", 1, "None", "got 1"),
        "scales-dtype-code": bad("scales_dtype", 1, "None", "got 1"),
    }


def without(values: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if not key.endswith(name)}


def bad_combines() -> dict[str, Bad]:
    def bad(argument: str, value: Any, *words: str, **others: Any) -> Bad:
        return Bad(COMBINE, argument, {argument: value, **others}, words)

    arguments = good(COMBINE, 1)
    rows, triples, counts = (
        arguments[name] for name in ("expand_x", "assist_info_for_combine", "ep_send_counts")
    )
    shared = torch.ones(BS, H).bfloat16()
    constants = {
        "const_expert_num": 2,
        "ori_x": shared,
        "const_expert_alpha_1": torch.ones(2).bfloat16(),
        "const_expert_alpha_2": torch.ones(2).bfloat16(),
        "const_expert_v": shared[:2],
    }
    return {
        "rows-double": bad("expand_x", rows.double(), "bfloat16", "float64"),
        "rows-int8": bad("expand_x", rows.to(torch.int8), "int8"),
        "rows-1d": bad("expand_x", rows.flatten(), "(n, H)"),
        "rows-3d": bad("expand_x", rows[None], "(1, 16, 8)"),
        "rows-h-0": bad("expand_x", rows[:, :0], "1 <= H", "(16, 0)"),
        "triples-dtype": bad("assist_info_for_combine", triples.long(), "int32", "int64"),
        "triples-2d": bad("assist_info_for_combine", triples[None], "vector"),
        "triples-short": bad("assist_info_for_combine", triples[:20], "at least 30", "(20,)"),
        "triples-source": bad(
            "assist_info_for_combine", changed(triples, 6, 2), "source rank < 2", "(2, ", "row 2"
        ),
        "triples-source-negative": bad(
            "assist_info_for_combine", changed(triples, 0, -1), "(-1, ", "row 0"
        ),
        "triples-token": bad(
            "assist_info_for_combine", changed(triples, 4, 4), "token < 4", ", 4, ", "row 1"
        ),
        "triples-slot": bad("assist_info_for_combine", changed(triples, 5, 2), "slot < 2", ", 2)"),
        "counts-dtype": bad("ep_send_counts", counts.long(), "int32", "int64"),
        "counts-2d": bad("ep_send_counts", counts.reshape(2, 2), "vector", "(2, 2)"),
        "counts-short": bad("ep_send_counts", counts[:3], "at least 4", "(3,)"),
        "counts-large": bad("ep_send_counts", changed(counts, 3, 17), "16 rows", "got 17"),
        "counts-negative": bad("ep_send_counts", changed(counts, 3, -1), "got -1"),
        "weights-none": bad("expert_scales", None, "a Tensor", "None"),
        "comm-quant-1": bad("comm_quant_mode", 1, "0 or 2", "got 1"),
        "comm-quant-3": bad("comm_quant_mode", 3, "0 or 2", "got 3"),
        "comm-quant-negative": bad("comm_quant_mode", -2, "0 or 2", "got -2"),
        "shared-x-with-ranks": Bad(
            COMBINE,
            "shared_expert_x",
            {
                "shared_expert_x": shared,
                "shared_expert_rank_num": 1,
                "ep_send_counts": torch.zeros(E * M, dtype=torch.int32),
            },
            ("None", "(4, 8)"),
        ),
        "constants-none": bad("ori_x", None, const_expert_num=1),
        "copies-none": bad("ori_x", None, copy_expert_num=1),
        "ori-shape": bad("ori_x", shared[:3], "(4, 8)", "(3, 8)", copy_expert_num=1),
        "ori-dtype": bad("ori_x", shared.half(), "bfloat16", "float16", copy_expert_num=1),
        "alpha-1-none": bad("const_expert_alpha_1", None, **without(constants, "alpha_1")),
        "alpha-2-none": bad("const_expert_alpha_2", None, **without(constants, "alpha_2")),
        "v-none": bad("const_expert_v", None, **without(constants, "v")),
        "alpha-shape": bad("const_expert_alpha_1", shared[:3], **without(constants, "alpha_1")),
        "alphas-differ": bad("const_expert_alpha_2", shared[:2], **without(constants, "alpha_2")),
        "v-shape": bad("const_expert_v", shared[:1], "(2, 8)", **without(constants, "v")),
        "v-dtype": bad("const_expert_v", shared[:2].half(), **without(constants, "v")),
        "shared-x-rows": bad("shared_expert_x", shared[:3], "(4, 8)", "(3, 8)"),
        "shared-x-hidden": bad("shared_expert_x", shared[:, :7], "(4, 8)", "(4, 7)"),
        "shared-x-3d": bad("shared_expert_x", shared[None, :3], "a*b = BS", "(1, 3, 8)"),
        "shared-x-1d": bad("shared_expert_x", shared.flatten(), "(32,)"),
        "shared-x-dtype": bad("shared_expert_x", shared.half(), "bfloat16", "float16"),
    }


def all_bad() -> dict[str, Bad]:
    return {
        **{f"dispatch-{name}": bad for name, bad in bad_layers(DISPATCH).items()},
        **{f"dispatch-{name}": bad for name, bad in bad_dispatches().items()},
        **{f"combine-{name}": bad for name, bad in bad_layers(COMBINE).items()},
        **{f"combine-{name}": bad for name, bad in bad_combines().items()},
    }
