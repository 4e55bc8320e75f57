"""What a back end returned for a case of cases.py against what the oracle says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from case_draws import INTEGERS
from cases import Case
from waybill import reference


def compare_dispatch(
    got: Sequence[Tensor], want: reference.DispatchV2Output, case: Case, rank: int
) -> list[str]:
    """Differences between what a back end returned on `rank` and the oracle; empty when right."""
    differences = compare_shapes(got, want, rank)
    if differences:
        return differences
    own, peer = case.rows_received(want.ep_recv_counts)
    quantised = case.dispatch_options["quant_mode"] == 2
    weighted = "expert_scales" in case.dispatch_tensors[rank]
    specified = {
        "expand_x": own + peer,
        "dynamic_scales": own + peer if quantised else 0,
        "assist_info_for_combine": 3 * own,
        "expand_scales": own if weighted else len(want.expand_scales),
    }
    return compare_rows(got, want, case, rank, specified)


def compare_shapes(got: Sequence[Tensor], want: Any, rank: int) -> list[str]:
    """How shapes and dtypes differ from those of the oracle's named tuple."""
    fields = want._fields
    if len(got) != len(fields):
        return [f"rank {rank}: {len(got)} outputs, expected {len(fields)}"]
    return [
        f"rank {rank}: {name} is {tuple(mine.shape)} {mine.dtype}, "
        f"expected {tuple(right.shape)} {right.dtype}"
        for name, mine, right in zip(fields, got, want, strict=True)
        if (mine.shape, mine.dtype) != (right.shape, right.dtype)
    ]


def compare_rows(
    got: Sequence[Tensor], want: Any, case: Case, rank: int, specified: dict[str, int]
) -> list[str]:
    """The content of what a dispatch returned; `specified`: how much of it the contract fixes."""
    differences: list[str] = []
    quantised = case.dispatch_options["quant_mode"] == 2
    # Rows with NaN or infinity: 7.1 only bounds the values and asks for a scale that shows it.
    wild = ~want.dynamic_scales[: specified["expand_x"]].isfinite()
    for name, mine, right in zip(want._fields, got, want, strict=True):
        length = specified.get(name, len(right))
        mine, right = mine[:length], right[:length]
        if quantised and name == "dynamic_scales" and mine[wild].isfinite().any():
            differences.append(f"rank {rank}: dynamic_scales is finite for a row with NaN or inf")
        if quantised and name == "expand_x" and (mine[wild] == -128).any():
            differences.append(f"rank {rank}: expand_x of a row with NaN or inf holds -128")
        skip = torch.zeros(len(right), dtype=torch.bool)
        if quantised and name in ("expand_x", "dynamic_scales"):
            skip = wild
        if name == "expand_idx":
            skip = ~case.takes_part(rank)
        unequal = bits(mine) != bits(right)
        unequal[skip] = False
        differences += first_difference(f"rank {rank}: {name}", mine, right, unequal)
    return differences


def compare_combine(
    got: Tensor, want: Tensor, case: Case, rank: int, name: str = "combine"
) -> list[str]:
    """As compare_dispatch. A NaN equals every NaN: arithmetic does not specify its payload."""
    if (got.shape, got.dtype) != (want.shape, want.dtype):
        return [
            f"rank {rank}: {name} is {tuple(got.shape)} {got.dtype}, "
            f"expected {tuple(want.shape)} {want.dtype}"
        ]
    unequal = bits(got) != bits(want)
    if case.combine_options["comm_quant_mode"] == 2:
        # The oracle makes NaN of groups of 8 that hold NaN or infinity: these are unspecified.
        unequal &= ~want.isnan()
    unequal &= ~(got.isnan() & want.isnan())
    return first_difference(f"rank {rank}: {name}", got, want, unequal)


def bits(values: Tensor) -> Tensor:
    """Floats as integers, so that zeros and NaNs are told apart."""
    if not values.is_floating_point():
        return values
    # contiguous() keeps odd strides of dimensions of size 1, and view refuses these.
    plain = values.clone(memory_format=torch.contiguous_format)
    return plain.view(INTEGERS[values.element_size()])


def first_difference(name: str, got: Tensor, want: Tensor, unequal: Tensor) -> list[str]:
    places = unequal.nonzero().tolist()
    if not places:
        return []
    at = tuple(places[0])
    values = f"got {got[at].item()!r}, expected {want[at].item()!r}"
    return [f"{name}{list(at)}: {values} ({len(places)} of {want.numel()} differ)"]
