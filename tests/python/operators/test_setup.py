"""The set-up/teardown family: set-ups that do not wait, the order of calls, what may be changed
in between.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import waybill
from local_groups import LocalGroups
from samples import BASE, BS, COLLECTIVE, K, M, arguments_of, inputs
from waybill import _library, reference

GroupsOf = Callable[..., LocalGroups]
Arguments = dict[str, Any]

DISPATCH_SETUP, DISPATCH_TEARDOWN = f"{BASE}dispatch_setup", f"{BASE}dispatch_teardown"
COMBINE_SETUP, COMBINE_TEARDOWN = f"{BASE}combine_setup", f"{BASE}combine_teardown"
FAMILY = (DISPATCH_SETUP, DISPATCH_TEARDOWN, COMBINE_SETUP, COMBINE_TEARDOWN)
PAIRS = [(DISPATCH_SETUP, DISPATCH_TEARDOWN), (COMBINE_SETUP, COMBINE_TEARDOWN)]
NAMES = ("wait-signals", "pull", "pull-rows", "wait-readers")
WAITING = {number for number, name in enumerate(_library.PHASES) if name in NAMES}
"""Phases in which a call waits for others or reads their rows."""
E = 2


def call(operator: str, arguments: Arguments) -> Any:
    return getattr(waybill, operator)(**arguments)


def layer_of(groups: LocalGroups, place: int) -> Arguments:
    return {**groups.where(place), "ep_world_size": groups.num_ranks}


def until(operator: str, layer: Arguments) -> tuple[Arguments, dict[str, Any]]:
    """Arguments of `operator` when the family's calls before it have been made, and what these
    gave.
    """
    results: dict[str, Any] = {}
    for earlier in FAMILY[: FAMILY.index(operator)]:
        results[earlier] = call(earlier, arguments_of(earlier, layer, results))
    return arguments_of(operator, layer, results), results


def finish(operator: str, layer: Arguments, results: dict[str, Any]) -> dict[str, Any]:
    """The family's calls from `operator` on."""
    for later in FAMILY[FAMILY.index(operator) :]:
        results[later] = call(later, arguments_of(later, layer, results))
    return results


def right_results() -> tuple[list[Any], list[Any]]:
    """dispatch_v2 and combine_v2 of the oracle, whose experts leave rows as they are."""
    x, ids, weights = (list(column) for column in zip(*map(inputs, range(E)), strict=True))
    sizes = {"ep_world_size": E, "moe_expert_num": M}
    dispatched = reference.npu_moe_distribute_dispatch_v2(x, ids, **sizes)
    combined = reference.npu_moe_distribute_combine_v2(
        [own.expand_x for own in dispatched],
        ids,
        [own.assist_info_for_combine for own in dispatched],
        [own.ep_recv_counts for own in dispatched],
        weights,
        **sizes,
    )
    return dispatched, combined


def check_right(place: int, results: dict[str, Any]) -> None:
    dispatched, combined = right_results()
    want = dispatched[place]
    rows, _, assist, nums = results[DISPATCH_TEARDOWN]
    count = int(want.ep_recv_counts[-1])
    assert torch.equal(rows[:count], want.expand_x[:count])
    assert torch.equal(assist[: len(want.ep_recv_counts)], want.ep_recv_counts)
    assert torch.equal(nums, want.expert_token_nums)
    assert torch.equal(results[COMBINE_TEARDOWN], combined[place])


@pytest.fixture
def groups(local_groups_of: GroupsOf) -> LocalGroups:
    return local_groups_of(E)


@pytest.fixture
def watched() -> Iterator[tuple[LocalGroups, dict[int, list[int]]]]:
    """Two ranks, and the phases that each thread goes through."""
    phases: dict[int, list[int]] = {}

    def on_phase(phase: int) -> None:
        phases.setdefault(threading.get_ident(), []).append(phase)

    made = LocalGroups(E, on_phase=on_phase)
    yield made, phases
    made.close()


@pytest.mark.parametrize("pair", PAIRS, ids=["dispatch", "combine"])
@pytest.mark.parametrize("rounds", [1, 3])
def test_setup_does_not_wait(
    watched: tuple[LocalGroups, dict[int, list[int]]], pair: tuple[str, str], rounds: int
) -> None:
    """The first rank's set-up is back before the other one begins its own, which it does only
    then: a set-up that waited would end in a timeout.
    """
    groups, phases = watched
    setup, _ = pair
    returned = [threading.Event() for _ in range(rounds)]

    def run(place: int) -> list[list[int]]:
        layer, during = layer_of(groups, place), []
        for event in returned:
            arguments, results = until(setup, layer)
            if place == 1:
                assert event.wait(15)
            own = phases.setdefault(threading.get_ident(), [])
            before = len(own)
            results[setup] = call(setup, arguments)
            during.append(own[before:])
            if place == 0:
                event.set()
            finish(FAMILY[FAMILY.index(setup) + 1], layer, results)
            check_right(place, results)
        return during

    for during in groups.run(run):
        assert len(during) == rounds
        for own in during:
            assert own and not WAITING & set(own)


def test_input_may_be_overwritten(groups: LocalGroups) -> None:
    """What dispatch_setup read: x, ids, mask and scales."""

    def run(place: int) -> tuple[Tensor, Tensor]:
        layer = {**layer_of(groups, place), "quant_mode": 2, "moe_expert_num": M}
        x, ids, _ = inputs(place)
        scales, mask = torch.full((M, x.shape[1]), 2.0), torch.ones(BS, dtype=torch.bool)
        y, _, commands = waybill.npu_moe_distribute_dispatch_setup(
            x, ids, scales=scales, x_active_mask=mask, **layer
        )
        for tensor in (x, scales):
            tensor.fill_(float("nan"))
        ids.fill_(-1)
        mask.fill_(False)
        y.zero_()
        rows, row_scales, *_ = waybill.npu_moe_distribute_dispatch_teardown(
            x, y, ids, commands, **layer
        )
        return rows, row_scales

    x, ids, _ = (list(column) for column in zip(*map(inputs, range(E)), strict=True))
    want = reference.npu_moe_distribute_dispatch_v2(
        x,
        ids,
        scales=[torch.full((M, x[0].shape[1]), 2.0)] * E,
        quant_mode=2,
        ep_world_size=E,
        moe_expert_num=M,
    )
    for place, (rows, row_scales) in enumerate(groups.run(run)):
        right = want[place]
        assert right is not None
        count = int(right.ep_recv_counts[-1])
        assert torch.equal(rows[:count], right.expand_x[:count])
        assert torch.equal(row_scales[:count], right.dynamic_scales[:count])


@pytest.mark.parametrize("in_place", [True, False])
def test_expand_x_may_be_dropped(groups: LocalGroups, in_place: bool) -> None:
    """Its memory is not used again until the teardown is back."""

    def run(place: int) -> None:
        layer = layer_of(groups, place)
        arguments, results = until(COMBINE_SETUP, layer)
        if not in_place:
            arguments["expand_x"] = arguments["expand_x"].clone()
        results[COMBINE_SETUP] = call(COMBINE_SETUP, arguments)
        shape, dtype = arguments["expand_x"].shape, arguments["expand_x"].dtype
        kept = [tensor.clone() for tensor in results[DISPATCH_TEARDOWN]]
        del arguments
        results[DISPATCH_TEARDOWN] = kept
        gc.collect()
        buffers = [
            waybill.expert_buffer(groups.name(place), shape[0], shape[1], dtype) for _ in range(3)
        ]
        for buffer in (*buffers, torch.empty(shape, dtype=dtype)):
            buffer.fill_(777)
        kept[0].zero_()
        own = arguments_of(COMBINE_TEARDOWN, layer, results)
        results[COMBINE_TEARDOWN] = call(COMBINE_TEARDOWN, own)
        assert torch.equal(results[COMBINE_TEARDOWN], right_results()[1][place])

    groups.run(run)


def test_a_pair_is_one_call(groups: LocalGroups) -> None:
    def run(place: int) -> list[int]:
        layer = layer_of(groups, place)
        results: dict[str, Any] = {}
        numbers = []
        for operator in FAMILY:
            before = waybill.stats(groups.name(place))["calls"]
            results[operator] = call(operator, arguments_of(operator, layer, results))
            numbers.append(waybill.stats(groups.name(place))["calls"] - before)
        return numbers

    for numbers in groups.run(run):
        assert sum(numbers) == 2
        assert numbers[0] + numbers[1] == numbers[2] + numbers[3] == 1


@pytest.mark.parametrize(
    ("pair", "other"), [(pair, other) for pair in PAIRS for other in COLLECTIVE if other != pair[1]]
)
def test_only_the_teardown_is_legal(groups: LocalGroups, pair: tuple[str, str], other: str) -> None:
    """Anything else is a StateError of this rank alone, names the teardown, and takes no number."""
    setup, teardown = pair

    def run(place: int) -> None:
        layer = layer_of(groups, place)
        before: dict[str, Any] = {}
        for earlier in COLLECTIVE:
            before[earlier] = call(earlier, arguments_of(earlier, layer, before))
        arguments, results = until(setup, layer)
        results[setup] = call(setup, arguments)
        number = waybill.stats(groups.name(place))["calls"]
        if place == 0:
            with pytest.raises(waybill.StateError) as caught:
                call(other, arguments_of(other, layer, before))
            assert caught.value.operator == other
            assert teardown in str(caught.value)
            assert waybill.stats(groups.name(place))["calls"] == number
        finish(FAMILY[FAMILY.index(setup) + 1], layer, results)
        check_right(place, results)

    groups.run(run)


@pytest.mark.parametrize("pair", PAIRS, ids=["dispatch", "combine"])
def test_teardown_without_setup(groups: LocalGroups, pair: tuple[str, str]) -> None:
    setup, teardown = pair

    def run(place: int) -> None:
        layer = layer_of(groups, place)
        _, results = until(setup, layer)
        finish(setup, layer, results)
        number = waybill.stats(groups.name(place))["calls"]
        with pytest.raises(waybill.StateError) as caught:
            call(teardown, arguments_of(teardown, layer, results))
        assert caught.value.operator == teardown
        assert "an open setup" in str(caught.value)
        assert waybill.stats(groups.name(place))["calls"] == number

    groups.run(run)


DIFFERENT: dict[str, Any] = {
    "moe_expert_num": 2 * M,
    "global_bs": E * (BS + 1),
    "comm_alg": "fullmesh",
    "comm_type": 2,
    "shared_expert_num": 0,
    "shared_expert_rank_num": 1,
    "quant_mode": 2,
    "comm_quant_mode": 2,
    "x": torch.ones(BS, 8).bfloat16(),
    "expand_x": torch.ones(3, 16).bfloat16(),
    "expert_ids": torch.zeros(BS, K + 1, dtype=torch.int32),
}


ONLY_OF = {
    "quant_mode": DISPATCH_SETUP,
    "x": DISPATCH_SETUP,
    "comm_quant_mode": COMBINE_SETUP,
    "expand_x": COMBINE_SETUP,
}


@pytest.mark.parametrize(
    ("setup", "teardown", "argument"),
    [
        (*pair, name)
        for pair in PAIRS
        for name in DIFFERENT
        if ONLY_OF.get(name, pair[0]) == pair[0]
    ],
)
def test_teardown_with_other_arguments(
    groups: LocalGroups, setup: str, teardown: str, argument: str
) -> None:
    """A StateError; the setup stays open for the right call."""

    def run(place: int) -> None:
        layer = layer_of(groups, place)
        arguments, results = until(setup, layer)
        results[setup] = call(setup, arguments)
        good = arguments_of(teardown, layer, results)
        if place == 1:
            with pytest.raises(waybill.StateError) as caught:
                call(teardown, {**good, argument: DIFFERENT[argument]})
            assert caught.value.operator == teardown
            assert argument in str(caught.value)
        results = finish(teardown, layer, results)
        check_right(place, results)

    groups.run(run)


@pytest.mark.parametrize(("setup", "teardown"), PAIRS, ids=["dispatch", "combine"])
def test_commands_of_another_call(groups: LocalGroups, setup: str, teardown: str) -> None:
    def run(place: int) -> None:
        layer = layer_of(groups, place)
        _, first = until(setup, layer)
        first = finish(setup, layer, first)
        arguments, results = until(setup, layer)
        results[setup] = call(setup, arguments)
        good = arguments_of(teardown, layer, results)
        old = arguments_of(teardown, layer, first)["comm_cmd_info"]
        with pytest.raises(waybill.WaybillError) as caught:
            call(teardown, {**good, "comm_cmd_info": old})
        assert isinstance(caught.value, waybill.StateError | waybill.ArgumentError)
        assert "comm_cmd_info" in str(caught.value)
        check_right(place, finish(teardown, layer, results))

    groups.run(run)


def test_two_micro_batches_overlap(groups: LocalGroups) -> None:
    second = LocalGroups(E)

    def run(place: int) -> None:
        results: list[dict[str, Any]] = [{}, {}]
        layers = [layer_of(own, place) for own in (groups, second)]
        for operator in FAMILY:
            for layer, own in zip(layers, results, strict=True):
                own[operator] = call(operator, arguments_of(operator, layer, own))
        for own in results:
            check_right(place, own)

    groups.run(run)
    second.close()


def test_reset_closes_a_setup(groups: LocalGroups) -> None:
    def run(place: int) -> None:
        layer = layer_of(groups, place)
        arguments, results = until(DISPATCH_SETUP, layer)
        results[DISPATCH_SETUP] = call(DISPATCH_SETUP, arguments)
        waybill.reset(groups.name(place))
        with pytest.raises(waybill.StateError):
            call(DISPATCH_TEARDOWN, arguments_of(DISPATCH_TEARDOWN, layer, results))
        check_right(place, finish(DISPATCH_SETUP, layer, {}))

    groups.run(run)


def test_others_hear_of_a_bad_setup_in_teardown(groups: LocalGroups) -> None:
    """A refused setup is closed at once; the other rank's is when its teardown has raised."""

    def run(place: int) -> BaseException:
        layer = layer_of(groups, place)
        arguments, results = until(DISPATCH_SETUP, layer)
        if place == 1:
            with pytest.raises(waybill.ArgumentError) as refused:
                call(DISPATCH_SETUP, {**arguments, "comm_alg": "ring"})
            error: BaseException = refused.value
        else:
            results[DISPATCH_SETUP] = call(DISPATCH_SETUP, arguments)
            with pytest.raises(waybill.MismatchError) as heard:
                call(DISPATCH_TEARDOWN, arguments_of(DISPATCH_TEARDOWN, layer, results))
            error = heard.value
        check_right(place, finish(DISPATCH_SETUP, layer, {}))
        return error

    heard, refused = groups.outcomes(run)
    assert heard.ranks == [1] and heard.argument == "comm_alg"
    assert str(refused) in str(heard)
