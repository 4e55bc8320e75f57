"""The operators that a case calls, in each of its forms, on a back end and on the oracle."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

import waybill
from cases import Case, by_argument
from comparisons import compare_combine, compare_rows, compare_shapes
from comparisons import compare_dispatch as compare_dispatch_v2
from waybill import reference

Arguments = dict[str, Any]
BASE = "npu_moe_distribute_"


class Outputs(NamedTuple):
    """What the calls of one rank returned, in their order."""

    calls: list[list[Tensor]]
    performance: list[Tensor]  # performance_info after each call that had it


@lru_cache
def parameters(operator: str) -> frozenset[str]:
    return frozenset(inspect.signature(getattr(reference, operator)).parameters)


def accepted(operator: str, arguments: Arguments) -> Arguments:
    """Those that the operator has; the others must not ask for anything."""
    known = {"group_ep", "ep_rank_id", "group_tp", "tp_rank_id"} | parameters(operator)
    for name, value in arguments.items():
        plain = isinstance(value, int | str) and value in (0, 1, "")
        assert name in known or plain or name in IGNORABLE, f"{operator} has no {name}"
    return {name: value for name, value in arguments.items() if name in known}


# What a dispatch returns and only some forms of combine take.
IGNORABLE = frozenset({"expand_scales", "tp_send_counts", "performance_info"})


def names_of(form: str) -> tuple[str, str]:
    """The dispatch and the combine of a form other than setup."""
    first, _, second = form.partition("+")
    suffix = "_v2" if first == "v2" else ""
    combine = "combine_add_rms_norm" if second else f"combine{suffix}"
    return f"{BASE}dispatch{suffix}", f"{BASE}{combine}"


def combine_arguments(
    case: Case, rank: int, operator: str, dispatched: Sequence[Tensor]
) -> Arguments:
    arguments = case.combine_arguments(rank, dispatched)
    where_from = arguments.pop("assist_info_for_combine")
    if "rms" in case.form:
        arguments |= {**case.norm_tensors[rank], **case.norm_options}
    takes_triples = operator.endswith("_v2")
    arguments["assist_info_for_combine" if takes_triples else "expand_idx"] = where_from
    return accepted(operator, arguments)


def in_buffer(case: Case, name: str, arguments: Arguments) -> Arguments:
    """With expand_x in the group's memory, where the case asks for it."""
    rows: Tensor = arguments["expand_x"]
    if "rows:buffer" not in case.tags or len(rows) == 0:
        return arguments
    buffer = waybill.expert_buffer(name, len(rows), rows.shape[1], rows.dtype)
    buffer.copy_(rows)
    return {**arguments, "expand_x": buffer}


def call_operator(operator: str, arguments: Arguments) -> Any:
    return getattr(waybill, operator)(**arguments)


def run_form(
    case: Case, rank: int, where: Arguments, call: Callable[[str, Arguments], Any] = call_operator
) -> Outputs:
    """All calls of one rank. `where`: group names and rank ids. `call` makes each of them."""
    if case.form == "setup":
        return run_setup(case, rank, where, call)
    dispatch, combine = names_of(case.form)
    given = accepted(dispatch, case.dispatch_arguments(rank))
    dispatched = call(dispatch, {**given, **where})
    performance = [given["performance_info"]] if "performance_info" in given else []
    arguments = combine_arguments(case, rank, combine, dispatched)
    arguments = in_buffer(case, where["group_ep"], arguments)
    combined = call(combine, {**arguments, **where})
    if "performance_info" in arguments:
        performance.append(arguments["performance_info"])
    outputs = [combined] if isinstance(combined, Tensor) else list(combined)
    return Outputs([list(dispatched), outputs], performance)


def run_setup(
    case: Case, rank: int, where: Arguments, call: Callable[[str, Arguments], Any]
) -> Outputs:
    def make(operator: str, arguments: Arguments) -> Any:
        own = accepted_quietly(f"{BASE}{operator}", arguments)
        return call(f"{BASE}{operator}", {**own, **where})

    given = case.dispatch_arguments(rank)
    setup = make("dispatch_setup", accepted(f"{BASE}dispatch_setup", given))
    teardown = make("dispatch_teardown", {**given, **layout_of(setup)})
    arguments = combine_setup_arguments(case, rank, setup, teardown)
    arguments = in_buffer(case, where["group_ep"], arguments)
    combine_setup = make("combine_setup", arguments)
    back = make("combine_teardown", {**arguments, **layout_of_combine(combine_setup)})
    return Outputs([list(setup), list(teardown), list(combine_setup), [back]], [])


def accepted_quietly(operator: str, arguments: Arguments) -> Arguments:
    """The arguments among them that the operator has: a teardown takes fewer than its set-up."""
    return {name: value for name, value in arguments.items() if name in parameters(operator)}


def layout_of(setup: Sequence[Tensor]) -> Arguments:
    return {"y": setup[0], "comm_cmd_info": setup[2]}


def layout_of_combine(setup: Sequence[Tensor]) -> Arguments:
    return {"quant_expand_x": setup[0], "comm_cmd_info": setup[1]}


def combine_setup_arguments(
    case: Case, rank: int, setup: Sequence[Tensor], teardown: Sequence[Tensor]
) -> Arguments:
    """Of combine_setup and of its teardown."""
    counts = teardown[2][: num_counts(case, rank)]
    return {
        **case.combine_tensors[rank],
        **case.combine_options,
        "expand_x": case.expert_rows(rank, int(counts.max())),
        "assist_info_for_combine": teardown[2],
        "expand_idx": setup[1],
    }


def num_counts(case: Case, rank: int) -> int:
    """E*localE."""
    options = case.dispatch_options
    num_ranks, shared_ranks = options["ep_world_size"], options["shared_expert_rank_num"]
    if rank < shared_ranks:
        return int(num_ranks)
    return int(num_ranks * (options["moe_expert_num"] // (num_ranks - shared_ranks)))


def expected_form(case: Case) -> list[list[Any]]:
    """The oracle's outputs: for each call a list over places."""
    if case.form == "setup":
        return expected_setup(case)
    dispatch, combine = names_of(case.form)
    options = accepted(dispatch, case.dispatch_options)
    dispatched = getattr(reference, dispatch)(**by_argument(case.dispatch_tensors), **options)
    inputs = [
        {} if output is None else combine_arguments(case, rank, combine, output)
        for rank, output in enumerate(dispatched)
    ]
    combined = getattr(reference, combine)(**over_ranks(inputs))
    return [dispatched, combined]


def expected_setup(case: Case) -> list[list[Any]]:
    given = [case.dispatch_arguments(rank) for rank in case.ranks]
    setup = reference.npu_moe_distribute_dispatch_setup(
        **over_ranks([accepted(f"{BASE}dispatch_setup", own) for own in given])
    )
    teardown = reference.npu_moe_distribute_dispatch_teardown(
        **over_ranks(
            [
                accepted_quietly(f"{BASE}dispatch_teardown", {**own, **layout_of(output)})
                for own, output in zip(given, setup, strict=True)
            ]
        )
    )
    arguments = [
        combine_setup_arguments(case, rank, setup[rank], teardown[rank]) for rank in case.ranks
    ]
    combine_setup = reference.npu_moe_distribute_combine_setup(
        **over_ranks([accepted_quietly(f"{BASE}combine_setup", own) for own in arguments])
    )
    combined = reference.npu_moe_distribute_combine_teardown(
        **over_ranks(
            [
                accepted_quietly(f"{BASE}combine_teardown", {**own, **layout_of_combine(output)})
                for own, output in zip(arguments, combine_setup, strict=True)
            ]
        )
    )
    return [setup, teardown, combine_setup, combined]


def over_ranks(per_rank: list[Arguments]) -> Arguments:
    """The oracle's arguments: tensors as lists, the rest as the first rank that calls has it."""
    first = next(own for own in per_rank if own)
    tensors = [
        {name: value for name, value in own.items() if isinstance(value, Tensor)}
        for own in per_rank
    ]
    options = {name: value for name, value in first.items() if not isinstance(value, Tensor)}
    return {**by_argument(tensors), **options}


def compare_form(case: Case, rank: int, got: Outputs, want: list[list[Any]]) -> list[str]:
    """Differences on one rank; empty when right."""
    found = compare_dispatches(case, rank, got, want)
    results = want[-1][rank]
    names = getattr(results, "_fields", (BASE,))
    rights = [results] if isinstance(results, Tensor) else list(results)
    if len(rights) != len(got.calls[-1]):
        return [*found, f"rank {rank}: combine has {len(got.calls[-1])} outputs"]
    for name, mine, right in zip(names, got.calls[-1], rights, strict=True):
        found += compare_combine(mine, right, case, rank, name)
    for waited in got.performance:
        if (waited < 0).any() or (waited > 60_000_000).any():
            found.append(f"rank {rank}: performance_info is {waited.tolist()}")
    return found


def compare_dispatches(case: Case, rank: int, got: Outputs, want: list[list[Any]]) -> list[str]:
    if case.form.startswith("v2"):
        return compare_dispatch_v2(got.calls[0], want[0][rank], case, rank)
    if case.form == "setup":
        found = compare_shapes(got.calls[0], want[0][rank], rank)
        found += compare_shapes(got.calls[1], want[1][rank], rank)
        found += compare_shapes(got.calls[2], want[2][rank], rank)
        return found or compare_teardown(case, rank, got, want)
    right = want[0][rank]
    found = compare_shapes(got.calls[0], right, rank)
    own, peer = case.rows_received(right.ep_recv_counts)
    weighted = "expert_scales" in case.dispatch_tensors[rank]
    specified = {
        "expand_x": own + peer,
        "dynamic_scales": own + peer if case.dispatch_options["quant_mode"] == 2 else 0,
        "expand_scales": own if weighted else len(right.expand_scales),
    }
    return found or compare_rows(got.calls[0], right, case, rank, specified)


def compare_teardown(case: Case, rank: int, got: Outputs, want: list[list[Any]]) -> list[str]:
    part = case.takes_part(rank)
    found = []
    if not torch.equal(got.calls[0][1][part], want[0][rank].expand_idx[part]):
        found.append(f"rank {rank}: expand_idx differs")
    right = want[1][rank]
    counts = num_counts(case, rank)
    rows = int(right.assist_info_for_combine[:counts].max())
    specified = {
        "expand_x": rows,
        "dynamic_scales": rows if case.dispatch_options["quant_mode"] == 2 else 0,
        "assist_info_for_combine": counts,
    }
    return found + compare_rows(got.calls[1], right, case, rank, specified)
