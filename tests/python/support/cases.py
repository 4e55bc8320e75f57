"""Random configurations of the operators for sweeps of a back end against the oracle.

`random_case(seed)` is a pure function of its arguments, so each process of a group builds the same
`Case` and takes its own rank from it:

    case = random_case(7)
    got = waybill.npu_moe_distribute_dispatch_v2(**case.dispatch_arguments(rank), group_ep=...)
    back = waybill.npu_moe_distribute_combine_v2(**case.combine_arguments(rank, got), group_ep=...)
    want = expected(case)
    compare_dispatch(got, want.dispatch[rank], case, rank)  # of comparisons: a list of differences
    compare_combine(back, want.combine[rank], case, rank)

`rank` is a place in the oracle's lists: ep_rank_id, or 2 * ep_rank_id + tp_rank_id with TP = 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from case_draws import DTYPES, NOT_ROUTED, Draw, Sizes, draw_ids, draw_masks, draw_sizes
from waybill import reference

# Which operators a case calls: dispatch_v2 and combine_v2; dispatch and combine; each dispatch with
# combine_add_rms_norm; the set-up/teardown family.
FORMS = {
    "v2": ("v2",),
    "full": ("v2", "v2+rms"),
    "v1": ("v1", "v1+rms"),
    "setup": ("setup",),
}
COMM_ALGS = ("", "fullmesh", "fullmesh_v1", "fullmesh_v2", "hierarchy")


@dataclass
class Case:
    """One configuration: arguments of all ranks, equal for the same seed."""

    seed: int
    features: str
    form: str  # of FORMS
    dtype: str  # a key of DTYPES
    tp: int  # 1 or 2
    dispatch_options: dict[str, Any]  # int and str arguments, the same on every rank
    combine_options: dict[str, Any]
    dispatch_tensors: list[dict[str, Tensor]]  # per rank; empty for a rank that makes no call
    combine_tensors: list[dict[str, Tensor]]  # without expand_x and without dispatch's outputs
    norm_tensors: list[dict[str, Tensor]]  # what combine_add_rms_norm has beyond combine
    norm_options: dict[str, Any]
    tags: set[str]  # which options it exercises

    @property
    def ranks(self) -> list[int]:
        """Places of the ranks that make a call."""
        return [rank for rank, tensors in enumerate(self.dispatch_tensors) if tensors]

    @property
    def hidden(self) -> int:
        return self.dispatch_tensors[self.ranks[0]]["x"].shape[1]

    def dispatch_arguments(self, rank: int) -> dict[str, Any]:
        """All arguments of one rank but group names and rank ids."""
        return {**self.dispatch_tensors[rank], **self.dispatch_options}

    def combine_arguments(self, rank: int, dispatched: Sequence[Tensor]) -> dict[str, Any]:
        """The same for combine, which goes on from what dispatch returned on this rank."""
        return {**self.combine_inputs(rank, dispatched), **self.combine_options}

    def combine_inputs(self, rank: int, dispatched: Sequence[Tensor]) -> dict[str, Tensor]:
        """The Tensor arguments of combine on one rank."""
        _, _, assist, _, ep_recv_counts, tp_recv_counts, expand_scales = dispatched
        return {
            "expand_x": self.expert_rows(rank, sum(self.rows_received(ep_recv_counts))),
            "assist_info_for_combine": assist,
            "ep_send_counts": ep_recv_counts,
            "tp_send_counts": tp_recv_counts,
            "expand_scales": expand_scales,
            **self.combine_tensors[rank],
        }

    def rows_received(self, ep_recv_counts: Tensor) -> tuple[int, int]:
        """Own rows, and the TP peer's."""
        if self.tp == 1:
            return int(ep_recv_counts.max()), 0
        num_ranks = self.dispatch_options["ep_world_size"]
        own, peer = ep_recv_counts[: 2 * num_ranks].reshape(2, num_ranks).amax(dim=1).tolist()
        return own, peer

    def takes_part(self, rank: int) -> Tensor:
        """Which choices the mask and -1 leave: bool (BS*K,)."""
        tensors = self.dispatch_tensors[rank]
        ids, mask = tensors["expert_ids"], tensors.get("x_active_mask")
        part = ids != NOT_ROUTED
        if mask is not None:
            part = part & (mask[:, None] if mask.dim() == 1 else mask)
        return part.flatten()

    def expert_rows(self, rank: int, num_rows: int) -> Tensor:
        """expand_x for combine: rows unrelated to the dispatched ones, sometimes a few more."""
        draw = Draw(f"{self.seed}-{self.features}-rows-{rank}")
        rows = draw.values(self.dtype, num_rows + draw.pick([0, 0, 1, 5]), self.hidden)
        if "values:special" in self.tags:
            rows = draw.with_specials(rows, self.dtype, share=0.005)
        return draw.strided(rows) if "layout:strided" in self.tags else rows

    def describe(self) -> str:
        """One line: the sizes, then the options that are not at their plainest."""
        options = self.dispatch_options
        sizes = " ".join(
            f"{letter}={options[name]}"
            for letter, name in (
                ("E", "ep_world_size"),
                ("M", "moe_expert_num"),
                ("S", "shared_expert_num"),
                ("SR", "shared_expert_rank_num"),
                ("GBS", "global_bs"),
                ("Z", "zero_expert_num"),
                ("C", "copy_expert_num"),
                ("N", "const_expert_num"),
            )
        )
        batch_sizes = [len(own["x"]) if own else None for own in self.dispatch_tensors]
        tags = " ".join(sorted(tag for tag in self.tags if not tag.endswith((":none", ":0"))))
        return f"seed={self.seed} {self.features} {sizes} BS={batch_sizes} | {tags}"


class Outline(NamedTuple):
    """What a case is about, before any of its tensors is made."""

    draw: Draw  # goes on with the tensors
    dtype: str
    sizes: Sizes
    choices: dict[str, Any]
    tags: set[str]

    @property
    def num_places(self) -> int:
        return self.sizes.e * self.sizes.tp


def outline(seed: int, *, max_ranks: int = 16, features: str = "v2") -> Outline:
    """The sizes and options of random_case with the same arguments; cheap."""
    if features not in FORMS:
        raise ValueError(f"features are one of {', '.join(FORMS)}, got {features!r}")
    draw = Draw(f"{seed}-{features}-{max_ranks}")
    dtype = draw.pick(list(DTYPES))
    tags = {f"dtype:{dtype}"}
    sizes = draw_sizes(draw, DTYPES[dtype].itemsize, max_ranks, features, tags)
    choices = draw_choices(draw, sizes, features)
    tags |= {f"{option}:{value or 'none'}" for option, value in choices.items()}
    return Outline(draw, dtype, sizes, choices, tags)


def random_case(seed: int, *, max_ranks: int = 16, features: str = "v2") -> Case:
    """A valid case of at most `max_ranks` ranks (with TP = 2 that is twice E).

    features "v2": dtypes, shared experts, unequal BS, masks, both quantisations, expert_scales,
    shared_expert_x, comm_alg, strides, duplicates, special values. "full": special experts, alphas,
    elastic_info, TP = 2 and performance_info as well. "v1": what the operators without _v2 can do,
    TP = 2 among it. "setup": what the set-up/teardown family can do.
    """
    draw, dtype, sizes, choices, tags = outline(seed, max_ranks=max_ranks, features=features)
    masks = draw_masks(draw, sizes, choices["mask"])
    ids = draw_ids(draw, sizes, masks, bool(choices["not_routed"]), tags)
    passed_shared = sizes.s if sizes.sr else draw.pick([0, 1])

    dispatch_tensors: list[dict[str, Tensor]] = [{} for _ in sizes.batch_sizes]
    combine_tensors: list[dict[str, Tensor]] = [{} for _ in sizes.batch_sizes]
    norm_tensors: list[dict[str, Tensor]] = [{} for _ in sizes.batch_sizes]
    for place in sizes.places:
        scale_rows = sizes.m + (passed_shared if features == "setup" else sizes.s)
        if features == "setup" and sizes.sr == 0 and draw.chance(0.3):
            scale_rows = sizes.m
        bs = sizes.batch_sizes[place]
        dispatch, combine = draw_tensors(draw, sizes, dtype, choices, bs, scale_rows)
        if "rms" in choices["form"]:
            shape = (bs, 1, sizes.h) if draw.chance(0.5) else (bs, sizes.h)
            norm_tensors[place]["residual_x"] = draw.values(dtype, *shape)
            norm_tensors[place]["gamma"] = draw.values(dtype, sizes.h)
        both = {"expert_ids": ids[place], "x_active_mask": masks[place]}
        if sizes.elastic.info is not None:
            both["elastic_info"] = torch.tensor(sizes.elastic.info, dtype=torch.int32)
        if choices["performance"]:
            both["performance_info"] = torch.zeros(sizes.e, dtype=torch.int64)
        for target, tensors in ((dispatch_tensors, dispatch), (combine_tensors, combine)):
            given = {name: t for name, t in {**tensors, **both}.items() if t is not None}
            if choices["layout"] == "strided":
                given = {
                    name: draw.strided(tensor)
                    if name != "performance_info" and draw.chance(0.7)
                    else tensor
                    for name, tensor in given.items()
                }
            target[place] = given

    common = {
        "ep_world_size": sizes.e,
        "moe_expert_num": sizes.m,
        "shared_expert_num": passed_shared,
        "shared_expert_rank_num": sizes.sr,
        "global_bs": sizes.global_bs,
        "tp_world_size": choices["tp"],
        "comm_alg": choices["comm_alg"],
        "zero_expert_num": sizes.z,
        "copy_expert_num": sizes.c,
        "const_expert_num": sizes.n,
    }
    if features == "setup":
        common["comm_type"] = choices["comm_type"]
    return Case(
        seed=seed,
        features=features,
        form=choices["form"],
        dtype=dtype,
        tp=sizes.tp,
        dispatch_options={
            **common,
            "quant_mode": choices["quant"],
            "expert_token_nums_type": choices["nums_type"],
        },
        combine_options={**common, "comm_quant_mode": choices["comm_quant"]},
        dispatch_tensors=dispatch_tensors,
        combine_tensors=combine_tensors,
        norm_tensors=norm_tensors,
        norm_options={"norm_eps": draw.pick([1e-6, 1e-6, 1e-5, 0.3])},
        tags=tags,
    )


def draw_choices(draw: Draw, sizes: Sizes, features: str) -> dict[str, Any]:
    """The options that do not change sizes; each becomes a tag `option:value`."""
    quant = draw.pick([0, 2])
    full, setup = features == "full", features == "setup"
    needs_ori_x = sizes.c + sizes.n > 0
    return {
        "quant": quant,
        "smooth": "yes" if quant == 2 and draw.chance(0.5) else "",
        "a2": "yes" if not setup and draw.chance(0.3) else "",
        "comm_quant": 0 if sizes.tp == 2 else draw.pick([0, 0, 2]),
        "mask": draw.pick(["", "1d"] if setup else ["", "", "1d", "2d", "mixed"]),
        "alphas": draw.pick(["1d", "2d"]) if sizes.n else "",
        "shared_x": draw.pick(["2d", "3d"]) if sizes.sr == 0 and draw.chance(0.3) else "",
        "nums_type": draw.pick([0, 1]),
        "comm_alg": "" if features == "v1" else draw.pick(COMM_ALGS),
        "tp": 2 if sizes.tp == 2 else 0 if setup else draw.pick([0, 0, 1]),
        "values": "special" if draw.chance(0.25) else "",
        "layout": "strided" if draw.chance(0.3) else "",
        "ori_x": "ignored" if full and not needs_ori_x and draw.chance(0.2) else "",
        "comm_type": draw.pick([0, 2]) if setup else 0,
        "performance": "yes" if full and draw.chance(0.2) else "",
        "rows": draw.pick(["", "", "buffer"]),
        "form": draw.pick(FORMS[features]),
        "not_routed": draw.pick(["", "", "yes"]),
    }


def draw_tensors(
    draw: Draw, sizes: Sizes, dtype: str, choices: dict[str, Any], bs: int, scale_rows: int
) -> tuple[dict[str, Tensor | None], dict[str, Tensor | None]]:
    """Dispatch's and combine's tensors of one rank, but for ids, masks and elastic_info."""
    x = draw.values(dtype, bs, sizes.h)
    weights = draw.bell(bs, sizes.k)
    if choices["values"] == "special":
        x = draw.with_specials(x, dtype, share=0.01)
        weights = draw.with_specials(weights, "fp32", share=0.02)
    dispatch: dict[str, Tensor | None] = {"x": x}
    combine: dict[str, Tensor | None] = {"expert_scales": weights}
    if choices["a2"]:
        dispatch["expert_scales"] = weights
    if choices["smooth"]:
        dispatch["scales"] = draw.bell(scale_rows, sizes.h) * draw.pick([1.0, 2.0**-7])
    if choices["shared_x"]:
        rows = draw.values(dtype, bs, sizes.h)
        parts = draw.pick([d for d in range(1, bs + 1) if bs % d == 0] or [1])
        folded = rows.reshape(parts, bs // parts, sizes.h)
        combine["shared_expert_x"] = folded if choices["shared_x"] == "3d" else rows
    if sizes.c or sizes.n:
        combine["ori_x"] = x if draw.chance(0.5) else draw.values(dtype, bs, sizes.h)
    elif choices["ori_x"] == "ignored":
        combine["ori_x"] = draw.values(dtype, 2, 3)
    if sizes.n:
        flat = choices["alphas"] == "1d"
        for name in ("const_expert_alpha_1", "const_expert_alpha_2"):
            alpha = draw.bell(sizes.n, 1 if flat else sizes.h)
            # With H terms the logits differ by about 2, sometimes by so much that exp is 0.
            alpha = alpha if flat else alpha * (2 / sizes.h**0.5) * draw.pick([1, 1, 64])
            alpha = alpha.to(DTYPES[dtype])
            combine[name] = alpha.flatten() if flat else alpha
        combine["const_expert_v"] = draw.values(dtype, sizes.n, sizes.h)
    return dispatch, combine


class Expected(NamedTuple):
    """The oracle's outputs over places, None where a rank makes no call."""

    dispatch: list[reference.DispatchV2Output | None]
    combine: list[Tensor | None]


def expected(case: Case) -> Expected:
    dispatched = reference.npu_moe_distribute_dispatch_v2(
        **by_argument(case.dispatch_tensors), **case.dispatch_options
    )
    inputs = [
        {} if output is None else case.combine_inputs(rank, output)
        for rank, output in enumerate(dispatched)
    ]
    combined = reference.npu_moe_distribute_combine_v2(
        **by_argument(inputs), **case.combine_options
    )
    return Expected(dispatched, combined)


def by_argument(per_rank: list[dict[str, Tensor]]) -> dict[str, Any]:
    """From a dict of arguments per rank to a list over ranks per argument."""
    names = sorted({name for tensors in per_rank for name in tensors})
    return {name: [tensors.get(name) for tensors in per_rank] for name in names}
