"""Bad arguments: the rank that gives them is told, the others hear of it, and work goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import waybill
from bad_arguments import BS, COMBINE, DISPATCH, K, all_bad, changed, good, int32, layer
from ranks import Rank, RankPool

PoolOf = Callable[..., RankPool]


def call(rank: Rank, operator: str, changes: dict[str, Any]) -> Any:
    arguments = {"group_ep": rank.name, **good(operator, rank.rank), **changes}
    return getattr(waybill, operator)(**arguments)


class Attempt(NamedTuple):
    error: BaseException | None
    result: Any
    dispatched: tuple[Tensor, ...]
    combined: Tensor


def attempt(
    rank: Rank, operator: str, changes: dict[str, Any], *, needs_reset: bool = False
) -> Attempt:
    """What a call gives, and what good calls give after it, or after a reset of all."""
    error, result = None, None
    try:
        result = call(rank, operator, changes)
    except waybill.WaybillError as raised:
        error = raised
    if needs_reset:
        with pytest.raises(waybill.StateError):
            call(rank, DISPATCH, {})
        waybill.reset(rank.name)
    return Attempt(error, result, call(rank, DISPATCH, {}), call(rank, COMBINE, {}))


def attempt_alone(rank: Rank, operator: str, changes: dict[str, Any]) -> Attempt:
    """Of a failure that only one rank has."""
    return attempt(rank, operator, changes, needs_reset=True)


def check_good(attempts: list[Attempt]) -> None:
    want = layer()
    for rank, got in enumerate(attempts):
        right = want.dispatched[rank]
        rows = int(right.ep_recv_counts[-1])
        assert torch.equal(got.dispatched[0][:rows], right.expand_x[:rows])
        assert torch.equal(got.dispatched[2][: 3 * rows], right.assist_info_for_combine[: 3 * rows])
        assert torch.equal(got.dispatched[3], right.expert_token_nums)
        assert torch.equal(got.dispatched[4], right.ep_recv_counts)
        assert torch.equal(got.combined, want.combined[rank])


@pytest.mark.parametrize("name", list(all_bad()))
def test_one_rank_gives_a_bad_argument(pool_of: PoolOf, name: str) -> None:
    operator, argument, changes, words = all_bad()[name]
    attempts = pool_of(2).run(attempt, operator, per_rank=[({},), (changes,)])

    mine = attempts[1].error
    assert isinstance(mine, waybill.ArgumentError)
    assert isinstance(mine, ValueError)
    assert (mine.operator, mine.argument) == (operator, argument)
    text = str(mine)
    for word in (operator, argument, "expected", "got", *words):
        assert word in text, f"{word!r} in {text!r}"

    other = attempts[0].error
    assert isinstance(other, waybill.MismatchError)
    assert (other.operator, other.argument, other.ranks) == (operator, argument, [1])
    assert text in str(other)
    assert "rank 1" in str(other)
    check_good(attempts)


@pytest.mark.parametrize("operator", [DISPATCH, COMBINE])
def test_all_ranks_give_a_bad_argument(pool_of: PoolOf, operator: str) -> None:
    attempts = pool_of(2).run(attempt, operator, {"comm_alg": "ring"})
    for got in attempts:
        assert isinstance(got.error, waybill.ArgumentError)
        assert got.error.argument == "comm_alg"
    check_good(attempts)


@pytest.mark.parametrize("operator", [DISPATCH, COMBINE])
@pytest.mark.parametrize("group", ["nobody", "", "n" * 200])
def test_unknown_group(pool_of: PoolOf, operator: str, group: str) -> None:
    """No call of any group: no other rank hears of it."""
    attempts = pool_of(2).run(attempt, operator, {"group_ep": group})
    for got in attempts:
        assert isinstance(got.error, waybill.StateError)
        assert not isinstance(got.error, ValueError)
        assert got.error.operator == operator
        text = str(got.error)
        assert operator in text and "expected" in text and f"got '{group}'" in text
    check_good(attempts)


@pytest.mark.parametrize("operator", [DISPATCH, COMBINE])
def test_a_group_that_is_no_text(pool_of: PoolOf, operator: str) -> None:
    attempts = pool_of(2).run(attempt, operator, {"group_ep": 7})
    for got in attempts:
        assert isinstance(got.error, waybill.ArgumentError)
        assert got.error.argument == "group_ep"
        assert "expected a str, got 7" in str(got.error)
    check_good(attempts)


@pytest.mark.parametrize(
    ("operator", "argument"),
    [(DISPATCH, "x"), (DISPATCH, "expert_ids"), (COMBINE, "expand_x"), (COMBINE, "expert_scales")],
)
def test_one_tensor_on_the_meta_device(pool_of: PoolOf, operator: str, argument: str) -> None:
    """Results would be memory that nobody has written. On one rank: nobody waits for the call."""
    changes = {argument: good(operator, 0)[argument].to("meta"), "ep_world_size": 1}
    error = pool_of(1).outcomes(call, operator, changes)[0]
    assert isinstance(error, waybill.ArgumentError), error
    assert error.argument == argument


def test_masked_ids_are_not_read(pool_of: PoolOf) -> None:
    ids = changed(good(DISPATCH, 1)["expert_ids"], (0, 0), 99)
    mask = torch.ones(BS, K, dtype=torch.bool)
    mask[0, 0] = False
    changes = {"expert_ids": ids, "x_active_mask": mask}
    attempts = pool_of(2).run(attempt, DISPATCH, per_rank=[({},), (changes,)])
    assert [got.error for got in attempts] == [None, None]
    check_good(attempts)


def test_duplicates_overflow_a_rank(pool_of: PoolOf) -> None:
    """M = 2, so A = GBS*min(L, K) = 8; 16 rows go to rank 0."""
    changes = {"moe_expert_num": 2, "expert_ids": torch.zeros(BS, K, dtype=torch.int32)}
    attempts = pool_of(2).run(attempt, DISPATCH, changes)
    for got in attempts:
        assert isinstance(got.error, waybill.ArgumentError)
        assert (got.error.operator, got.error.argument) == (DISPATCH, "expert_ids")
        text = str(got.error)
        assert "A = 8" in text and "got 16" in text and "rank 0" in text
    check_good(attempts)


def homes(rank: int) -> list[tuple[int, ...]]:
    """(source rank, token, slot) of each row that a rank received."""
    dispatched = layer().dispatched[rank]
    rows = int(dispatched.ep_recv_counts[-1])
    triples = dispatched.assist_info_for_combine[: 3 * rows].reshape(rows, 3)
    return [tuple(triple) for triple in triples.tolist()]


def check_owner(attempts: list[Attempt], owner: int, *words: str) -> None:
    """The rank whose token it is raises; the other one's result is right."""
    error = attempts[owner].error
    assert isinstance(error, waybill.ArgumentError)
    assert (error.operator, error.argument) == (COMBINE, "assist_info_for_combine")
    for word in ("expected", "got", *words):
        assert word in str(error)
    other = attempts[1 - owner]
    assert other.error is None
    assert torch.equal(other.result, layer().combined[1 - owner])
    check_good(attempts)


def test_a_row_is_missing(pool_of: PoolOf) -> None:
    owner, token, slot = homes(1)[-1]
    counts = layer().dispatched[1].ep_recv_counts
    changes = {"ep_send_counts": changed(counts, 3, int(counts[3]) - 1)}
    attempts = pool_of(2).run(attempt_alone, COMBINE, per_rank=[({},), (changes,)])
    check_owner(attempts, owner, f"token {token}", f"slot {slot}", "none")


def test_a_row_comes_twice(pool_of: PoolOf) -> None:
    """From one rank, and then from two."""
    own = homes(1)
    owner, token, slot = own[0]
    twin = next(row for row in range(1, len(own)) if own[row][0] == owner)
    triples = layer().dispatched[1].assist_info_for_combine.clone()
    triples[3 * twin : 3 * twin + 3] = int32(*own[0])
    changes = {"assist_info_for_combine": triples}
    attempts = pool_of(2).run(attempt_alone, COMBINE, per_rank=[({},), (changes,)])
    check_owner(attempts, owner, f"token {token}", f"slot {slot}", "second", "rank 1")

    owner, token, slot = next(home for home in homes(0) if home[0] == owner)
    triples[3 * twin : 3 * twin + 3] = int32(owner, token, slot)
    attempts = pool_of(2).run(attempt_alone, COMBINE, per_rank=[({},), (changes,)])
    check_owner(attempts, owner, f"token {token}", f"slot {slot}", "second", "rank 1")
